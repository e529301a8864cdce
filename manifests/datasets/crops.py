"""Image files of a data set as rows of an images table; every layout ends here."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from manifests import pixels, rules
from manifests.io import Images, keypoint_column
from manifests.keypoints import NUM_JOINTS
from manifests.runtime.console import UserError
from manifests.schema import IMAGES, MASK_COLUMNS, SPLITS, UNKNOWN_CAMERA


@dataclass(frozen=True, slots=True)
class Crop:
    """One image file: person, camera and split, as its name or a table has them."""

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
    """Counts of an indexed data set."""

    counts: rules.Counts
    skipped_files: Mapping[str, int] = field(default_factory=dict[str, int])
    """Files that are no images of the data set, per kind."""
    num_double_endings: int = 0
    """Images named ``.jpg.jpg``, kept as they stand."""
    num_unknown_names: int = 0
    """Rows of the keypoint files that name no image."""

    def text(self) -> str:
        """Return the report as lines of text."""
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
    masks = {name: pa.nulls(len(crops), IMAGES.field(name).type) for name in MASK_COLUMNS}
    keypoints = keypoint_column(stacked, annotated)
    table = pa.table({**columns, "keypoints": keypoints, **masks}, schema=IMAGES)
    return Images(table, root.resolve(), provenance)


def check_folder(folder: Path) -> None:
    """Check that a folder exists.

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
