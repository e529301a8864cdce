"""Real and synthetic images as a Market-1501 folder, which torchreid, FastReID and TransReID read.

Images whose names are Market-1501's keep them. Else, also where a person is above 1501 or a camera
above 6, which those readers refuse, all are renamed: people and cameras are counted from 1, and
``names.csv`` maps back.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from manifests import pixels, rules
from manifests.datasets.keypoint_files import keypoint_text
from manifests.datasets.market1501 import FOLDERS, NAME
from manifests.io import Images, write_bytes
from manifests.runtime.console import UserError
from manifests.runtime.new_folder import new_folder
from manifests.schema import DISTRACTOR, JUNK, UNKNOWN_CAMERA
from manifests.synthetic import Synthetic

MOST_PEOPLE: Final = 1501
MOST_CAMERAS: Final = 6
"""Readers of the layout check that there are no more."""
NAME_COLUMNS: Final = ("name", "image_id", "person_id", "camera_id", "split")

_FRAMES: Final = 10**6
_MOST_NUMBER: Final = 9999


@dataclass(frozen=True, slots=True)
class _Row:
    """What a name says."""

    image_id: str
    person_id: str
    camera_id: int
    split: str


def export(images: Images | None, synthetic: Synthetic | None, out: Path) -> int:
    """Write a new folder as ``write_market1501`` does, whole or not at all.

    Raises:
        UserError: If the folder exists and is not empty, or see ``write_market1501``.
    """
    with new_folder(out) as folder:
        return write_market1501(images, synthetic, folder)


def write_market1501(
    images: Images | None,
    synthetic: Synthetic | None,
    folder: Path,
    new_people_from: int | None = None,
) -> int:
    """Write Market-1501's folders into an empty one and return the number of images.

    Synthetic images go to ``bounding_box_train``, named after their source:
    ``0002_c1s1_000451_03_aug00007.jpg``. Rows that failed are left out. Real images that are no
    JPEG are encoded as one. Annotated joints go to ``keypoints.csv`` and
    ``keypoints_synthetic.csv``; where names are changed, ``names.csv`` says whose they are.

    Args:
        images: Real images; none for synthetic ones alone.
        synthetic: A finished run; none for real images alone.
        folder: Empty.
        new_people_from: Number of the first person who does not exist, the others after it, on
            camera 1; the real ones keep theirs. Readers that check for Market-1501's 1501 people
            take no higher ones. None: everybody is counted from 1.

    Raises:
        UserError: If images are missing or damaged (names the first and counts them), a synthetic
            one is no JPEG, there are more people or cameras than the layout has, two images have
            one name, numbers of new people are taken or have over four digits, or a rule of
            ``rules.check_synthetic`` is broken.
    """
    if images is not None and synthetic is not None:
        rules.check_synthetic(images, synthetic)
    synthetic = None if synthetic is None else synthetic.without_errors()
    real = [] if images is None else _rows_of(images)
    made = [] if synthetic is None else _rows_of(synthetic)
    sources = [] if synthetic is None else _sources(synthetic)
    if synthetic is not None and new_people_from is not None:
        made, sources = _numbered_from(new_people_from, real, made, sources, synthetic)
    names = _names(real, made, sources, synthetic, new_people_from)
    _check_distinct([*names.real, *names.synthetic])
    for part in FOLDERS.values():
        (folder / part).mkdir()
    if images is not None:
        _write_real(images, names.real, folder)
    if synthetic is not None:
        _write_synthetic(synthetic, names.synthetic, folder)
    if names.are_changed:
        _write_names([*real, *made], [*names.real, *names.synthetic], folder)
    return len(real) + len(made)


def _sources(synthetic: Synthetic) -> list[str]:
    """Return what each row is named after: its source, or for new people the person."""
    columns = (synthetic.strings(name) for name in ("source_id", "person_id"))
    return [source or person for source, person in zip(*columns, strict=True)]


def _numbered_from(
    first: int,
    real: Sequence[_Row],
    made: Sequence[_Row],
    sources: Sequence[str],
    synthetic: Synthetic,
) -> tuple[list[_Row], list[str]]:
    """Return the synthetic rows and their sources, new people as if seen by camera 1."""
    is_new = synthetic.are_new().tolist()
    new = sorted({row.person_id for row, new in zip(made, is_new, strict=True) if new})
    number = {person: f"{first + place:04d}" for place, person in enumerate(new)}
    taken = sorted({row.person_id for row in real} & set(number.values()))
    if taken or first < 1 or first + len(new) - 1 > _MOST_NUMBER:
        found = f"'{taken[0]}' is a real person" if taken else f"{len(new):,} people from {first}"
        raise UserError(
            f"--new-people-from {first}: {found}; expected numbers from 1 to {_MOST_NUMBER:,} that "
            "nobody has"
        )
    rows, named = list(made), list(sources)
    for place, (row, new_row) in enumerate(zip(made, is_new, strict=True)):
        if new_row:
            person = number[row.person_id]
            rows[place] = replace(row, person_id=person, camera_id=1)
            named[place] = f"{_stem(person, 1, 0)}.jpg"
    return rows, named


@dataclass(frozen=True, slots=True)
class _Names:
    real: list[str]
    synthetic: list[str]
    are_changed: bool


def _rows_of(table: Images | Synthetic) -> list[_Row]:
    columns = (table.table[name].to_pylist() for name in ("image_id", "person_id", "camera_id"))
    return [_Row(*row) for row in zip(*columns, table.strings("split"), strict=True)]


def _names(
    real: Sequence[_Row],
    made: Sequence[_Row],
    sources: Sequence[str],
    synthetic: Synthetic | None,
    new_people_from: int | None,
) -> _Names:
    ks = [] if synthetic is None else synthetic.table["k"].to_pylist()
    backgrounds = [] if synthetic is None else synthetic.table["background_id"].to_pylist()
    of_source = [
        _Row(source, row.person_id, _camera_in(source, row, background), row.split)
        for source, row, background in zip(sources, made, backgrounds, strict=True)
    ]
    numbered = new_people_from is not None
    if all(_says(row) and (numbered or _is_read(row)) for row in (*real, *of_source)):
        kept = [
            synthetic_name(source, k, None if background is None else row.camera_id)
            for source, k, background, row in zip(sources, ks, backgrounds, made, strict=True)
        ]
        return _Names([row.image_id for row in real], kept, are_changed=False)
    people, cameras = _people([*real, *made]), _cameras([*real, *made])
    number = {row.image_id: place for place, row in enumerate(real)}
    for source in sorted(set(sources) - number.keys()):
        number[source] = len(number)
    stem = [
        _stem(people[row.person_id], cameras[row.camera_id], number[row.image_id]) for row in real
    ]
    made_stem = [
        _stem(people[row.person_id], cameras[row.camera_id], number[source])
        for row, source in zip(made, sources, strict=True)
    ]
    return _Names(
        [f"{name}.jpg" for name in stem],
        [f"{name}_aug{k:05d}.jpg" for name, k in zip(made_stem, ks, strict=True)],
        are_changed=True,
    )


def _says(row: _Row) -> bool:
    """Return whether an image's name says who is on which camera, as readers will take it."""
    match = NAME.fullmatch(row.image_id)
    return match is not None and (match[1], int(match[2])) == (row.person_id, row.camera_id)


def _is_read(row: _Row) -> bool:
    """Return whether readers of the layout take a person and camera of such numbers."""
    person = row.person_id
    return (person == JUNK or int(person) <= MOST_PEOPLE) and 1 <= row.camera_id <= MOST_CAMERAS


def _camera_in(source: str, row: _Row, background: str | None) -> int:
    """Return the camera that a source's name should say; of another street, whatever it says."""
    match = NAME.fullmatch(source)
    return row.camera_id if background is None or match is None else int(match[2])


def _people(rows: Sequence[_Row]) -> dict[str, str]:
    names = sorted({row.person_id for row in rows} - {JUNK, DISTRACTOR})
    if len(names) > MOST_PEOPLE:
        raise UserError(
            f"found {len(names):,} people, expected at most {MOST_PEOPLE:,}, as many as readers of "
            "the Market-1501 layout take; export to another layout"
        )
    numbered = {name: f"{number:04d}" for number, name in enumerate(names, 1)}
    return {**numbered, JUNK: JUNK, DISTRACTOR: DISTRACTOR}


def _cameras(rows: Sequence[_Row]) -> Mapping[int, int]:
    # Unknown cameras come last, as one more.
    found = sorted({row.camera_id for row in rows}, key=lambda c: (c == UNKNOWN_CAMERA, c))
    if len(found) > MOST_CAMERAS:
        raise UserError(
            f"found {len(found)} cameras, expected at most {MOST_CAMERAS}, as many as readers of "
            "the Market-1501 layout take; export to another layout"
        )
    return {camera: number for number, camera in enumerate(found, 1)}


def _stem(person: str, camera: int, number: int) -> str:
    return f"{person}_c{camera}s{1 + number // _FRAMES}_{number % _FRAMES:06d}_00"


def _check_distinct(names: Sequence[str]) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise UserError(
            f"found {len(twice):,} names of two images or more, the first '{twice[0]}'; expected "
            "images whose sources or numbers differ"
        )


def _write_real(images: Images, names: Sequence[str], folder: Path) -> None:
    with pixels.naming_all_broken(images):
        for row, (name, split) in enumerate(zip(names, images.strings("split"), strict=True)):
            _write_image(images, row, folder / FOLDERS[split] / name)
    annotated = np.flatnonzero(np.asarray(images.table["keypoints"].is_valid()))
    text = keypoint_text(
        [names[row] for row in annotated.tolist()], images.take(annotated).keypoints()
    )
    write_bytes(text.encode(), folder / "keypoints.csv")


def _write_image(images: Images, row: int, path: Path) -> None:
    file = images.file(row)
    data = pixels.read_file(file)
    image = pixels.decode(data, str(file))
    # Readers look for *.jpg alone.
    path.write_bytes(
        data if data.startswith(pixels.JPEG) else pixels.encode_jpeg(image, 95, "4:4:4")
    )


def _write_synthetic(synthetic: Synthetic, names: Sequence[str], folder: Path) -> None:
    data = synthetic.read_bytes(np.arange(len(synthetic)))
    for name, image in zip(names, data, strict=True):
        if not image.startswith(pixels.JPEG):
            raise UserError(
                f"{synthetic.root}: image '{name}' is no JPEG, and a Market-1501 folder holds "
                "nothing else; export to another layout, or generate with --image-format jpg"
            )
        (folder / FOLDERS["train"] / name).write_bytes(image)
    text = keypoint_text(names, synthetic.keypoints())
    write_bytes(text.encode(), folder / "keypoints_synthetic.csv")


def _write_names(rows: Sequence[_Row], names: Sequence[str], folder: Path) -> None:
    table = io.StringIO()
    lines = csv.writer(table, lineterminator="\n")
    lines.writerow(NAME_COLUMNS)
    for name, row in zip(names, rows, strict=True):
        lines.writerow((name, row.image_id, row.person_id, row.camera_id, row.split))
    write_bytes(table.getvalue().encode(), folder / "names.csv")


def synthetic_name(source_id: str, k: int, camera: int | None = None) -> str:
    """Return the file name of a person's ``k``-th synthetic image.

    Args:
        source_id: The image that the person was seen in, a Market-1501 name.
        k: Counted from 0.
        camera: Which camera the image looks like, if not the source's.

    >>> synthetic_name("0002_c1s1_000451_03.jpg", 7)
    '0002_c1s1_000451_03_aug00007.jpg'
    >>> synthetic_name("0002_c1s1_000451_03.jpg", 7, camera=4)
    '0002_c4s1_000451_03_aug00007.jpg'
    """
    stem = source_id.split(".", maxsplit=1)[0]
    if camera is not None:
        stem = re.sub(r"_c\d", f"_c{camera}", stem, count=1)
    return f"{stem}_aug{k:05d}.jpg"
