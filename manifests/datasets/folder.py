"""Any folder of person crops as an images table, through a CSV or a pattern of its paths."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from manifests import pixels, rules
from manifests.io import Images, keypoint_column, sha256_file
from manifests.keypoints import NUM_JOINTS
from manifests.runtime.console import UserError
from manifests.schema import IMAGES, SPLITS, UNKNOWN_CAMERA

GROUPS = ("person_id", "camera_id", "split")
COLUMNS = ("path", *GROUPS)


@dataclass(frozen=True, slots=True)
class Crop:
    """One image file and what its name says."""

    image_id: str
    path: str
    """Relative to the root, with forward slashes."""
    split: str
    person_id: str
    camera_id: int = UNKNOWN_CAMERA
    sequence: int | None = None
    frame: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What indexing found."""

    counts: rules.Counts
    skipped_files: Mapping[str, int] = field(default_factory=dict[str, int])
    """Files that are no images of the data set, per kind."""
    num_double_endings: int = 0
    """Images named ``.jpg.jpg``, kept as they stand."""
    num_unknown_names: int = 0
    """Rows of the keypoint files that name no image."""

    def text(self) -> str:
        """Return the report as lines for a person."""
        counts = self.counts
        lines = [
            f"{split:8}{counts.rows[split]:7,} images{counts.people[split]:7,} people"
            for split in SPLITS
        ]
        lines += [
            f"{counts.num_cameras} cameras, {counts.num_test_people:,} test people",
            f"{counts.num_distractors:,} distractor and {counts.num_junk:,} junk images",
            f"{counts.num_annotated:,} with keypoints, {counts.num_jointless:,} without any joint",
        ]
        if self.num_double_endings:
            lines.append(
                f"{self.num_double_endings} file names end in .jpg.jpg, kept as they stand"
            )
        if self.skipped_files:
            kinds = ", ".join(
                f"{number:,} {kind}" for kind, number in sorted(self.skipped_files.items())
            )
            lines.append(f"ignored: {kinds}")
        if self.num_unknown_names:
            lines.append(f"{self.num_unknown_names:,} keypoint rows name no image, ignored")
        return "\n".join(lines)


def index_table(root: Path, csv: Path) -> tuple[Images, Report]:
    """Return the images below a folder that a CSV lists.

    Columns: ``path``, ``person_id``, ``camera_id`` (a whole number; empty = unknown), ``split``
    (train, query or gallery). The path starts at the folder and is the ``image_id``.

    Raises:
        UserError: If the folder, the CSV or an image is missing or damaged, a column is missing
            or unknown, a value is not allowed, or a path stands in two rows.
    """
    require_folder(root)
    frame = read_csv(csv, ",")
    _check_columns(csv, list(frame.columns))
    crops: list[Crop] = []
    cells = (frame[name] for name in COLUMNS)
    for line, path, person, camera, split in zip(frame.index, *cells, strict=True):
        where = f"{csv}:{line}"
        if not path or not person:
            raise UserError(f"{where}: found an empty path or person_id")
        crops.append(_crop(Path(path).as_posix(), person, camera, split, where))
    provenance = {"layout": "table", "table_sha256": sha256_file(csv)}
    images = images_of(crops, root, {}, provenance)
    return images, Report(rules.check_images(images, str(csv)))


def index_pattern(root: Path, regex: str) -> tuple[Images, Report]:
    """Return the images below a folder whose relative path a regular expression matches whole.

    Named groups: ``person_id``, and where they exist ``camera_id`` (a whole number) and ``split``
    (default train). The relative path, with forward slashes, is the ``image_id``.

    Raises:
        UserError: If the folder is missing, the expression is none or lacks ``person_id``, nothing
            matches, a value is not allowed, or an image is damaged.
    """
    pattern = _pattern(regex)
    require_folder(root)
    crops: list[Crop] = []
    skipped_files: Counter[str] = Counter()
    for path in _files_below(root):
        match = pattern.fullmatch(path)
        if match is None:
            skipped_files[kind_of_skipped_file(Path(path).name)] += 1
            continue
        found = match.groupdict()
        camera, split = found.get("camera_id") or "", found.get("split") or "train"
        crops.append(_crop(path, found["person_id"] or "", camera, split, str(root / path)))
    if not crops:
        raise UserError(
            f"{root}: found {sum(skipped_files.values()):,} files, none of which matches '{regex}' "
            "(it must match the whole path below the folder)"
        )
    images = images_of(crops, root, {}, {"layout": "pattern", "pattern": regex})
    return images, Report(rules.check_images(images, str(root)), dict(skipped_files))


def images_of(
    crops: Sequence[Crop],
    root: Path,
    joints: Mapping[str, np.ndarray],
    provenance: Mapping[str, str],
) -> Images:
    """Return the images table of these files, sorted by ``image_id``.

    Args:
        crops: The files; each is read once for its digest and size.
        root: Where their paths start.
        joints: Per ``image_id`` 18 x 2; an image that is not in it has no annotation.
        provenance: Goes into the footer.

    Convention: joints are (x, y), pixels of the stored image, pixel centres at integers.

    Raises:
        UserError: If files are missing, cut off or no images; names the first and counts them.
    """
    crops = sorted(crops, key=lambda crop: crop.image_id)
    facts = _file_facts([root / crop.path for crop in crops])
    missing = np.full((NUM_JOINTS, 2), np.nan, np.float32)
    poses = [joints.get(crop.image_id, missing) for crop in crops]
    annotated = np.array([crop.image_id in joints for crop in crops], bool)
    columns = {
        name: [getattr(crop, name) for crop in crops]
        for name in IMAGES.names
        if name in Crop.__dataclass_fields__
    }
    columns |= {name: [getattr(fact, name) for fact in facts] for name in _Facts.__slots__}
    stacked = np.stack(poses) if poses else np.empty((0, NUM_JOINTS, 2), np.float32)
    table = pa.table({**columns, "keypoints": keypoint_column(stacked, annotated)}, schema=IMAGES)
    return Images(table, root.resolve(), provenance)


def read_csv(path: Path, separator: str) -> pd.DataFrame:
    """Return a CSV as text without spaces around it; the index is the line number.

    Empty lines are left out.

    Raises:
        UserError: If the file is missing, empty, not UTF-8, or a line has too many fields.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path,
                sep=separator,
                dtype=str,
                keep_default_na=False,
                skipinitialspace=True,
                # Keeps line numbers right for the messages.
                skip_blank_lines=False,
                index_col=False,
                encoding="utf-8-sig",
            )
    except FileNotFoundError as error:
        raise UserError(f"{path}: found nothing of this name, expected a CSV") from error
    except pd.errors.EmptyDataError as error:
        raise UserError(f"{path}: the file is empty, expected a CSV") from error
    except pd.errors.ParserError as error:
        problem = str(error).strip().removeprefix("Error tokenizing data. C error: ")
        raise UserError(f"{path}: {problem}") from error
    except pd.errors.ParserWarning as error:
        raise UserError(f"{path}:2: the line has more fields than the header") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a CSV ({error})") from error
    frame = frame.fillna("").apply(lambda column: column.str.strip())
    frame.index += 2
    return frame.loc[(frame != "").any(axis=1), :]


def require_folder(folder: Path) -> None:
    """Refuse a folder that does not exist.

    Raises:
        UserError: If it does not exist or is a file.
    """
    if not folder.is_dir():
        found = "a file" if folder.is_file() else "nothing of this name"
        raise UserError(f"{folder}: found {found}, expected a folder")


def kind_of_skipped_file(name: str) -> str:
    """Return how skipped files like this one are counted.

    >>> [kind_of_skipped_file(name) for name in ("Thumbs.db", "photo.JPG", "LICENSE")]
    ['Thumbs.db', '*.jpg of another name', 'other']
    """
    if name == "Thumbs.db":
        return name
    ending = Path(name).suffix.lower()
    if ending in {".jpg", ".jpeg", ".png"}:
        return f"*{ending} of another name"
    return f"*{ending}" if ending else "other"


@dataclass(frozen=True, slots=True)
class _Facts:
    sha256: str
    width: int
    height: int


def _file_facts(files: Sequence[Path]) -> list[_Facts]:
    def facts(file: Path) -> _Facts | UserError:
        try:
            data = pixels.read_file(file)
            width, height = pixels.size(data, str(file))
        except UserError as error:
            return error
        return _Facts(hashlib.sha256(data).hexdigest(), width, height)

    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
        results = list(pool.map(facts, files, chunksize=64))
    errors = [result for result in results if isinstance(result, UserError)]
    if errors:
        more = f" (and {len(errors) - 1:,} more files)" if len(errors) > 1 else ""
        raise UserError(f"{errors[0]}{more}") from errors[0]
    return [result for result in results if isinstance(result, _Facts)]


def _crop(path: str, person: str, camera: str, split: str, where: str) -> Crop:
    if split not in SPLITS:
        raise UserError(f"{where}: found split '{split}', expected one of {', '.join(SPLITS)}")
    if not person:
        raise UserError(f"{where}: found an empty person_id")
    if camera and not re.fullmatch(r"-1|\d{1,4}", camera):
        raise UserError(f"{where}: found camera_id '{camera}', expected a number from 0 to 9999")
    return Crop(path, path, split, person, int(camera) if camera else UNKNOWN_CAMERA)


def _check_columns(csv: Path, found: list[str]) -> None:
    if sorted(found) != sorted(COLUMNS):
        raise UserError(
            f"{csv}:1: found the columns {', '.join(map(repr, found))}; "
            f"expected {', '.join(COLUMNS)}, separated by commas"
        )


def _pattern(regex: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(regex)
    except re.error as error:
        raise UserError(f"pattern '{regex}': {error}") from error
    groups = set(pattern.groupindex)
    unknown = sorted(groups - set(GROUPS))
    if "person_id" not in groups or unknown:
        found = ", ".join(sorted(groups)) or "none"
        raise UserError(
            f"pattern '{regex}': found the named groups {found}; expected (?P<person_id>...) "
            "and, if wanted, camera_id and split"
        )
    return pattern


def _files_below(root: Path) -> list[str]:
    return sorted(
        Path(folder, name).relative_to(root).as_posix()
        for folder, _, names in os.walk(root)
        for name in names
    )
