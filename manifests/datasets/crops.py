"""Image files of a data set as rows of an images table; every layout ends here."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from manifests import pixels, rules
from manifests.datasets.keypoint_files import NO_KEYPOINTS, FoundKeypoints
from manifests.datasets.skipped import BROKEN, Skipped
from manifests.io import Images, keypoint_column
from manifests.keypoint_check import check_keypoints
from manifests.keypoints import NUM_JOINTS
from manifests.runtime.console import UserError
from manifests.runtime.thread_pool import thread_pool
from manifests.schema import IMAGES, OPTIONAL_COLUMNS, SPLITS, UNKNOWN_CAMERA


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
    skipped: Skipped = field(default_factory=Skipped)
    """What was not taken."""
    num_double_endings: int = 0
    """Images named ``.jpg.jpg``, kept as they stand."""
    num_unknown_names: int = 0
    """Poses of the keypoint files that name no image."""
    num_people_left_out: int = 0
    """Further people that keypoint files have in an image."""
    notes: tuple[str, ...] = ()
    """What else a reader has to say."""

    def text(self) -> str:
        """Return the report as lines of text."""
        counts = self.counts
        jointless = f", {counts.num_jointless:,} of them without any joint"
        lines = [
            f"{split:8}{counts.rows[split]:7,} images{counts.people[split]:7,} people"
            for split in SPLITS
        ]
        lines += [
            f"{counts.num_cameras} cameras, {counts.num_test_people:,} test people",
            f"{counts.num_distractors:,} distractor and {counts.num_junk:,} junk images",
            f"{counts.num_annotated:,} with keypoints{jointless if counts.num_annotated else ''}",
        ]
        if self.num_double_endings:
            lines.append(
                f"{self.num_double_endings} file names end in .jpg.jpg, kept as they stand"
            )
        if self.skipped.counts:
            lines.append(f"ignored: {self.skipped.text()}")
        if self.num_unknown_names:
            lines.append(f"{self.num_unknown_names:,} keypoint rows name no image, ignored")
        if self.num_people_left_out:
            lines.append(
                f"{self.num_people_left_out:,} further people in images with several: the surest "
                "is taken"
            )
        lines += self.notes
        return "\n".join(lines)


def images_of(
    crops: Sequence[Crop],
    root: Path,
    provenance: Mapping[str, str],
    keypoints: FoundKeypoints = NO_KEYPOINTS,
    broken: Skipped | None = None,
) -> Images:
    """Return the images table of these files, sorted by ``image_id``.

    Args:
        crops: The files; each is read once for its digest and size.
        root: Where their paths start.
        provenance: Goes into the footer, with the digests of the keypoint files.
        keypoints: Of these files; an image that is not in it has no annotation.
        broken: Counts the files that are left out because they are missing, cut off or no images;
            without it they are refused.

    Convention: joints are (x, y), pixels of the stored image, pixel centres at integers.

    Raises:
        UserError: If files cannot be used (names the first ones and counts them), or none can, no
            image has keypoints of the files, or these cannot be what they are taken for.
    """
    crops, facts = _with_facts(sorted(crops, key=lambda crop: crop.image_id), root, broken)
    joints, annotated = _joints_of(crops, facts, keypoints)
    columns = {
        name: [getattr(crop, name) for crop in crops]
        for name in IMAGES.names
        if name in Crop.__dataclass_fields__
    }
    columns |= {name: [getattr(fact, name) for fact in facts] for name in _Facts.__slots__}
    later = {
        name: pa.nulls(len(crops), IMAGES.field(name).type)
        for group in OPTIONAL_COLUMNS
        for name in group
    }
    column = keypoint_column(joints, annotated)
    table = pa.table({**columns, "keypoints": column, **later}, schema=IMAGES)
    return Images(table, root.resolve(), {**provenance, **keypoints.provenance()})


def _joints_of(
    crops: Sequence[Crop], facts: Sequence[_Facts], keypoints: FoundKeypoints
) -> tuple[Float[np.ndarray, "crops 18 2"], Bool[np.ndarray, " crops"]]:
    """Return the joints of every crop, and which crops are annotated."""
    joints = np.full((len(crops), NUM_JOINTS, 2), np.nan, np.float32)
    annotated = np.zeros(len(crops), bool)
    image_of: dict[str, str] = {}
    for row, (crop, fact) in enumerate(zip(crops, facts, strict=True)):
        name = keypoints.name_of(crop.image_id, crop.path)
        if name is None:
            continue
        other = image_of.setdefault(name, crop.image_id)
        if other != crop.image_id:
            raise UserError(
                f"--keypoints: found one pose '{name}' for the images '{other}' and "
                f"'{crop.image_id}', expected names with their folders"
            )
        annotated[row] = True
        joints[row] = keypoints.joints(name, (fact.width, fact.height))
    if keypoints.poses and not image_of:
        raise UserError(
            f"--keypoints: found no pose of these images among {len(keypoints.poses):,} names like "
            f"'{min(keypoints.poses)}', expected names like '{crops[0].image_id}'"
        )
    sizes = np.array([(fact.width, fact.height) for fact in facts], np.float64).reshape(-1, 2)
    check_keypoints(joints, sizes, f"--keypoints {' '.join(map(str, keypoints.files))}")
    return joints, annotated


def check_folder(folder: Path) -> None:
    """Check that a folder exists.

    Raises:
        UserError: If it does not exist or is a file.
    """
    if not folder.is_dir():
        found = "a file" if folder.is_file() else "nothing of this name"
        raise UserError(f"{folder}: found {found}, expected a folder")


@dataclass(frozen=True, slots=True)
class _Facts:
    sha256: str
    width: int
    height: int


def _with_facts(
    crops: Sequence[Crop], root: Path, broken: Skipped | None
) -> tuple[list[Crop], list[_Facts]]:
    """Return the crops whose files can be read, and what is in there; the others are counted."""

    def facts(crop: Crop) -> _Facts | UserError:
        try:
            data = pixels.read_file(root / crop.path)
            height, width = pixels.decode(data, str(root / crop.path)).shape[:2]
        except UserError as error:
            return error
        return _Facts(hashlib.sha256(data).hexdigest(), width, height)

    with thread_pool(min(16, 2 * (os.cpu_count() or 1))) as pool:
        results = list(zip(crops, pool.map(facts, crops, chunksize=64), strict=True))
    sound = [(crop, found) for crop, found in results if isinstance(found, _Facts)]
    errors = [found for _, found in results if isinstance(found, UserError)]
    if errors and (broken is None or not sound):
        raise pixels.broken_images(errors, "--skip-broken leaves such images out")
    if broken is not None:
        for error in errors:
            broken.add(BROKEN, str(error))
    return [crop for crop, _ in sound], [found for _, found in sound]
