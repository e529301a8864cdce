"""``augment export``: the images of a finished run as files, whole or not at all."""

from __future__ import annotations

import csv
import io as text_io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from tyro.conf import Positional

from manifests import pixels
from manifests.datasets.keypoint_files import keypoint_text
from manifests.datasets.market1501_export import write_market1501
from manifests.io import Images, read_images, sha256_file
from manifests.runtime import run_record
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.new_folder import new_folder, path_part
from manifests.runtime.settings import Frozen
from manifests.runtime.storage import StoragePathFlag
from manifests.synthetic import Synthetic, read_synthetic

Layout = Literal["market1501", "webdataset", "folder"]

TABLE_COLUMNS: Final = ("path", "person_id", "camera_id", "split")
"""What 'augment index FOLDER --table FOLDER/images.csv' reads."""

_ROW: Final = (
    "image_id", "person_id", "camera_id", "split", "source_id", "pose_id", "background_id", "k",
)  # fmt: skip
SOURCE_COLUMNS: Final = ("path", *_ROW)


class ExportSettings(Frozen):
    """Write the images of a finished run as files; rows that failed are left out."""

    run: Positional[StoragePathFlag]
    """Folder of the run, or its URL."""
    to: Layout
    """market1501: bounding_box_train/*.jpg with keypoints, renamed where names are others;
    webdataset: tar files; folder: one folder per person, with an images.csv for 'augment index
    FOLDER --table', keypoints.csv and sources.csv."""
    out: Path
    """New folder."""
    new_people_from: int | None = None
    """With market1501: number of the first of --new-people, 1502 for example, on camera 1; the
    others keep theirs. Without it, everybody is counted from 1 and names.csv maps back."""
    images: Path | None = None
    """With market1501: the real images of this table come along."""
    root: Path | None = None
    """Where the real images lie, if not where the table says."""


def export(settings: ExportSettings, console: Console) -> Exit:
    """Write the files, or say that they are there already.

    Raises:
        UserError: If the run is not finished or damaged, the new folder holds something else, it
            cannot be written, or the layout cannot hold the images.
    """
    synthetic = read_synthetic(settings.run)
    if settings.images is not None and settings.to != "market1501":
        raise UserError(f"--images: found with --to {settings.to}, expected with --to market1501")
    if settings.new_people_from is not None and settings.to != "market1501":
        raise UserError(
            f"--new-people-from: found with --to {settings.to}, expected with --to market1501"
        )
    config = _config(settings)
    if (settings.out / run_record.RUN_RECORD).is_file():
        run_record.check_same_config(settings.out / run_record.RUN_RECORD, config)
        console.say(f"{settings.out}: already complete")
        return Exit.DONE
    images = None
    if settings.images is not None:
        images = read_images(settings.images, settings.root)
    sound = synthetic.without_errors()
    _check_purpose(sound)
    _check_distinct(sound)
    with new_folder(settings.out) as folder:
        written = _write(settings, images, sound, folder)
        run_record.write(folder, config)
    failed = len(synthetic) - len(sound)
    left_out = f", {failed:,} failed rows left out" if failed else ""
    console.say(f"{settings.out}: {written:,} images{left_out}", event="exported", images=written)
    return Exit.DONE


def _write(
    settings: ExportSettings, images: Images | None, synthetic: Synthetic, folder: Path
) -> int:
    if settings.to == "market1501":
        return write_market1501(images, synthetic, folder, settings.new_people_from)
    WRITERS[settings.to](synthetic, folder)
    return len(synthetic)


def _config(settings: ExportSettings) -> dict[str, Any]:
    """Return what decides the files, for the folder's run record."""
    first = settings.new_people_from
    return {
        "command": "augment export",
        "to": settings.to,
        **({} if first is None else {"new_people_from": first}),
        "manifest_sha256": sha256_file(settings.run / "manifest.parquet"),
        "images_sha256": None if settings.images is None else sha256_file(settings.images),
    }


def _check_purpose(synthetic: Synthetic) -> None:
    splits = set(synthetic.strings("split")) - {"train"}
    if splits:
        raise UserError(
            f"{synthetic.root}: found images of the splits {' and '.join(sorted(splits))}, made "
            "for test time ('reid score --centralise' reads them as they are); expected train, "
            "since files could be trained on"
        )


def _check_distinct(synthetic: Synthetic) -> None:
    names, counts = np.unique(synthetic.strings("image_id"), return_counts=True)
    if (counts > 1).any():
        raise UserError(
            f"{synthetic.root}: image_id '{names[counts > 1][0]}' is in more than one row; "
            "expected every image once"
        )


def to_folder(synthetic: Synthetic, folder: Path) -> None:
    """Write one folder per person with ``images.csv`` and ``keypoints.csv`` for 'augment index'.

    ``sources.csv`` says what each image was made of.
    """
    listed, sources = _Csv(TABLE_COLUMNS), _Csv(SOURCE_COLUMNS)
    paths: list[str] = []
    for row, data in _images(synthetic):
        path = f"{path_part(row['person_id'])}/{path_part(row['image_id'])}"
        file = folder / path
        file.parent.mkdir(exist_ok=True)
        if file.exists():
            raise UserError(
                f"{synthetic.root}: two images would be '{path}'; expected people and images whose "
                "names differ in more than slashes"
            )
        file.write_bytes(data)
        paths.append(path)
        listed.add({**row, "path": path})
        sources.add({**row, "path": path})
    listed.write(folder / "images.csv")
    sources.write(folder / "sources.csv")
    text = keypoint_text(paths, synthetic.keypoints())
    (folder / "keypoints.csv").write_text(text, encoding="utf-8")


class _Csv:
    """A table in memory that becomes a file."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._text = text_io.StringIO()
        self._rows = csv.DictWriter(self._text, columns, extrasaction="ignore", lineterminator="\n")
        self._rows.writeheader()

    def add(self, row: Mapping[str, Any]) -> None:
        self._rows.writerow(row)

    def write(self, path: Path) -> None:
        path.write_text(self._text.getvalue(), encoding="utf-8")


def to_webdataset(synthetic: Synthetic, folder: Path) -> None:
    """Write one tar file per shard: image and JSON of a row under one number."""
    shards = np.array(synthetic.strings("shard"), dtype=object)
    names = _tar_names(list(dict.fromkeys(shards.tolist())))
    for shard, name in names.items():
        rows = np.flatnonzero(shards == shard)
        with tarfile.open(folder / name, "x", format=tarfile.USTAR_FORMAT) as tar:
            for number, (row, data) in zip(rows, _images(synthetic.take(rows)), strict=True):
                ending = "jpg" if data.startswith(pixels.JPEG) else "png"
                # Dots in a key would end it there, so keys are numbers and the names stand inside.
                _add(tar, f"{number:09d}.{ending}", data)
                _add(tar, f"{number:09d}.json", json.dumps(row, sort_keys=True).encode())


def _tar_names(shards: Sequence[str]) -> dict[str, str]:
    """Return the file of each shard; shards of one name in several folders are counted."""
    names: dict[str, str] = {}
    for shard in shards:
        stem = path_part(Path(shard).stem)
        taken = set(names.values())
        further = (f"{stem}-{number}.tar" for number in count(2))
        names[shard] = next(n for n in chain([f"{stem}.tar"], further) if n not in taken)
    return names


WRITERS: Final[dict[Layout, Callable[[Synthetic, Path], None]]] = {
    "webdataset": to_webdataset,
    "folder": to_folder,
}


def _images(synthetic: Synthetic) -> Iterator[tuple[dict[str, Any], bytes]]:
    names = (*_ROW, "shard")
    columns = [synthetic.table[name].to_pylist() for name in names]
    data = synthetic.read_bytes(np.arange(len(synthetic)))
    for *values, image in zip(*columns, data, strict=True):
        yield dict(zip(names, values, strict=True)), image


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, text_io.BytesIO(data))
