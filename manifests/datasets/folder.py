"""Any folder of person crops as an images table, through a CSV or a pattern of its paths."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow as pa

from manifests import rules
from manifests.datasets.crops import Crop, Report, check_folder
from manifests.datasets.csv_table import read_csv
from manifests.datasets.drawn_split import draw_test_people
from manifests.datasets.layouts import NO_OPTIONS, Layout, LayoutOptions
from manifests.datasets.named_crops import table_of_crops
from manifests.datasets.skipped import Skipped, files_below
from manifests.io import Images, sha256_file
from manifests.person_ids import person_label
from manifests.runtime.console import UserError
from manifests.runtime.files import found_at
from manifests.schema import IMAGES, SPLITS, UNKNOWN_CAMERA

GROUPS = ("person_id", "camera_id", "split")
COLUMNS = ("path", *GROUPS)
_CAMERAS: Final = "cameras"
"""In the table's provenance: which camera has which number, where they had names."""
_MOST_CAMERAS: Final = 200
"""That have names; more of them are names of something else, crops say."""
_LONGEST_SHOWN: Final = 500
"""Of an expression, in messages."""


def index(root: Path, options: LayoutOptions) -> tuple[Images, Report]:
    """Return the images below a folder, by a CSV or a pattern.

    Raises:
        UserError: If none or both of them are given, or see ``index_table`` and ``index_pattern``.
    """
    if options.table is not None and options.pattern is not None:
        raise UserError("found --table and --pattern, expected one of them")
    if options.table is not None:
        return index_table(root, options.table, options)
    if options.pattern is not None:
        return index_pattern(root, options.pattern, options)
    raise UserError("layout 'folder': found neither --table nor --pattern, expected one of them")


LAYOUT: Final = Layout(
    "any folder of crops, listed by --table or found by --pattern",
    index,
    options=(
        "table",
        "pattern",
        "columns",
        "test_people",
        "keypoints",
        "allow_skipped",
        "skip_broken",
    ),
)


def index_table(
    root: Path, csv: Path, options: LayoutOptions = NO_OPTIONS
) -> tuple[Images, Report]:
    """Return the images below a folder that a CSV lists.

    Columns: ``path``, ``person_id``, ``camera_id`` (a whole number, or names, which are then
    numbered from 1 in their natural order; empty = unknown), ``split`` (train, query or gallery;
    not needed where the options draw test people), under these names or those of the options.
    Further ones are named in the report. The path starts at the folder and is the ``image_id``.

    Raises:
        UserError: If the folder, the CSV or an image is missing or damaged, a column is missing
            or unknown, a value is not allowed, or a path is in two rows.
    """
    check_folder(root)
    frame = read_csv(csv, ",").rename(columns=_names(options.columns))
    if options.test_people and "split" not in frame.columns:
        frame["split"] = "train"
    unused = _check_columns(csv, list(frame.columns))
    listed: list[_Listed] = []
    cells = (frame[name] for name in COLUMNS)
    for line, path, person, camera, split in zip(frame.index, *cells, strict=True):
        where = f"{csv}:{line}"
        if not path or not person:
            raise UserError(f"{where}: found an empty path or person_id")
        listed.append(_Listed(Path(path).as_posix(), person, camera, split, where))
    crops, cameras = _crops_of(listed)
    _check_paths_begin_below(root, csv, crops)
    provenance = {"layout": "table", "table_sha256": sha256_file(csv)}
    images, report = _table_of(crops, root, provenance | cameras, options, Skipped())
    if unused:
        said = f"columns that are not used: {', '.join(map(repr, unused))}"
        report = replace(report, notes=(*report.notes, said))
    return images, report


def index_pattern(
    root: Path, regex: str, options: LayoutOptions = NO_OPTIONS
) -> tuple[Images, Report]:
    """Return the images below a folder whose relative path a regular expression matches whole.

    Named groups: ``person_id``, and where they exist ``camera_id`` (as ``index_table`` has it) and
    ``split`` (default train). The relative path, with forward slashes, is the ``image_id``. Linked
    folders are followed.

    Raises:
        UserError: If the folder is missing, the expression is none or lacks ``person_id``, nothing
            matches, too many images are left out, a value is not allowed, or an image is damaged.
    """
    pattern = _pattern(regex)
    check_folder(root)
    listed: list[_Listed] = []
    skipped = Skipped()
    for path in files_below(root, skipped):
        match = pattern.fullmatch(path)
        if match is None:
            skipped.add_file(path)
            continue
        found = match.groupdict()
        camera, split = found.get("camera_id") or "", found.get("split") or "train"
        person = found["person_id"] or ""
        listed.append(_Listed(path, person, camera, split, str(root / path)))
    if not listed:
        raise UserError(
            f"{root}: found {sum(skipped.counts.values()):,} files, none of which matches "
            f"'{regex[:_LONGEST_SHOWN]}' (it must match the whole path below the folder)"
        )
    crops, cameras = _crops_of(listed)
    provenance = {"layout": "pattern", "pattern": regex}
    return _table_of(crops, root, provenance | cameras, options, skipped)


def _table_of(
    crops: list[Crop],
    root: Path,
    provenance: dict[str, str],
    options: LayoutOptions,
    skipped: Skipped,
) -> tuple[Images, Report]:
    """Return the table of crops, test people drawn if the options say so."""
    notes = [f"cameras by their names: {provenance[_CAMERAS]}"] if _CAMERAS in provenance else []
    share = options.test_people
    if share:
        provenance = {**provenance, "test_people": f"{share:g}"}
        # What it refuses is refused before images are read.
        draw_test_people(crops, share)
    elif all(crop.split == "train" for crop in crops):
        notes.append(
            "all are train images, on which no network can be scored: --test-people 0.5 draws some "
            "people for query and gallery"
        )
    images, report = table_of_crops(crops, root, provenance, options, skipped)
    if share:
        left = set(images.strings("image_id"))
        drawn, said = draw_test_people([crop for crop in crops if crop.image_id in left], share)
        images = _with_splits(images, {crop.image_id: crop.split for crop in drawn})
        report = replace(report, counts=rules.check_images(images, str(root)))
        notes.append(said)
    return images, replace(report, notes=(*report.notes, *notes))


def _with_splits(images: Images, split: Mapping[str, str]) -> Images:
    column = pa.array([split[name] for name in images.strings("image_id")], pa.string())
    place = IMAGES.get_field_index("split")
    return replace(images, table=images.table.set_column(place, IMAGES.field(place), column))


def _names(columns: tuple[str, ...]) -> dict[str, str]:
    """Return our name of each column of a CSV that has another there."""
    names: dict[str, str] = {}
    for text in columns:
        ours, separator, theirs = text.partition("=")
        if not separator or ours not in COLUMNS or not theirs or theirs in names:
            raise UserError(
                f"--columns: found '{text}', expected NAME=COLUMN, each once, with a NAME of "
                f"{', '.join(COLUMNS)}"
            )
        names[theirs] = ours
    return names


class _Listed(NamedTuple):
    """What a CSV or a pattern says of one crop, as text."""

    path: str
    person: str
    camera: str
    split: str
    where: str
    """In messages."""


def _crops_of(listed: Sequence[_Listed]) -> tuple[list[Crop], dict[str, str]]:
    """Return the crops, and in words which camera has which number if they have names."""
    cameras = {one.camera for one in listed} - {"", str(UNKNOWN_CAMERA)}
    # A word among numbers is a slip, not a name.
    names = sorted(cameras, key=_natural) if all(map(_is_name, cameras)) else []
    if len(names) > _MOST_CAMERAS:
        raise UserError(
            f"{listed[0].where}: found {len(names):,} names of cameras, '{names[0]}' among them; "
            f"expected at most {_MOST_CAMERAS:,}, so this is something else"
        )
    numbers = {name: number for number, name in enumerate(names, start=1)}
    crops = [_crop(one, numbers) for one in listed]
    said = ", ".join(f"{name} = {number}" for name, number in numbers.items())
    return crops, {_CAMERAS: said} if numbers else {}


def _is_name(camera: str) -> bool:
    return any(letter.isalpha() for letter in camera)


def _natural(name: str) -> list[tuple[int, str]]:
    """Return what sorts "gate 10" behind "gate 9"."""
    return [(len(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)]


def _crop(listed: _Listed, cameras: Mapping[str, int]) -> Crop:
    path, person, camera, split, where = listed
    if split not in SPLITS:
        raise UserError(f"{where}: found split '{split}', expected one of {', '.join(SPLITS)}")
    if not person:
        raise UserError(f"{where}: found an empty person_id")
    if camera and camera not in cameras and not re.fullmatch(r"-1|\d{1,4}", camera):
        raise UserError(
            f"{where}: found camera_id '{camera}', expected a number from 0 to 9999, or a name "
            "with a letter in it for every camera"
        )
    number = cameras[camera] if camera in cameras else int(camera or UNKNOWN_CAMERA)
    return Crop(path, path, split, person_label(person), number)


def _check_columns(csv: Path, found: list[str]) -> list[str]:
    """Return the columns that are not used.

    Raises:
        UserError: If one that is needed is missing, or is there twice.
    """
    missing = [name for name in COLUMNS if name not in found]
    twice = [name for name in COLUMNS if found.count(name) > 1]
    if missing or twice:
        what = f"two of {twice[0]}" if twice else f"no {', no '.join(missing)}"
        raise UserError(
            f"{csv}:1: found the columns {', '.join(map(repr, found))}, {what}; "
            f"expected {', '.join(COLUMNS)}, separated by commas (--columns path=NAME ... where "
            "they have other names, --test-people 0.5 where there is no split)"
        )
    return [name for name in found if name not in COLUMNS]


def _check_paths_begin_below(root: Path, csv: Path, crops: Sequence[Crop]) -> None:
    """Refuse paths that begin with the folder's own name, so that none is found below it."""
    folder = root.resolve()
    if not crops or any(crop.path.partition("/")[0] != folder.name for crop in crops):
        return
    first = crops[0].path
    if found_at(root / first) is not None and found_at(folder.parent / first) is None:
        raise UserError(
            f"{csv}: found paths that begin with '{folder.name}/', as the folder {root} is called; "
            f"expected paths below it, or {folder.parent} in its place"
        )


def _pattern(regex: str) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            pattern = re.compile(regex)
    except (re.error, OverflowError, RecursionError, ValueError) as error:
        reason = str(error)[:_LONGEST_SHOWN]
        raise UserError(f"pattern '{regex[:_LONGEST_SHOWN]}': {reason}") from error
    groups = set(pattern.groupindex)
    unknown = sorted(groups - set(GROUPS))
    if "person_id" not in groups or unknown:
        found = ", ".join(sorted(groups)) or "none"
        raise UserError(
            f"pattern '{regex[:_LONGEST_SHOWN]}': found the named groups "
            f"{found[:_LONGEST_SHOWN]}; expected (?P<person_id>...) and, if wanted, camera_id "
            "and split"
        )
    return pattern
