"""The pose bank: every train pose with both shoulders and both hips, a target for anybody."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Float32

from manifests import keypoints
from manifests.io import Images, keypoint_array
from manifests.runtime.console import UserError
from manifests.scenes import rows_with_street

# pyarrow makes these functions at import time, where type checkers do not see them.
pc: Any = pyarrow.compute

IMAGE_COLUMNS: Final = ["image_id", "path", "sha256", "person_id", "camera_id"]
"""What a bank keeps of the images that its poses were seen in."""

MASK_COLUMNS: Final = ["width", "height", "mask"]
"""What it keeps beside that where streets are asked for."""

_BLOCK_ROWS: Final = 65_536
"""Rows worked on at once, so that what is in between does not grow with the table."""


@dataclass(frozen=True, slots=True)
class PoseBank:
    """Target poses, sorted by the ``image_id`` that they were seen in.

    Convention: joints are (x, y) pixels of the generated image, pixel centres at integers, a
    missing joint NaN.
    """

    images: Images
    """Where each pose was seen: path, digest, person and camera of its image."""
    joints: Float32[np.ndarray, "poses 18 2"]
    digest: str
    """SHA-256 of the images' names, the joints and the people who were seen."""
    streets: bool = False
    """Whether every pose was seen before a street that can be used; ``images`` then has masks."""
    canonical: bool = False
    """Whether the poses are those of ``canonical_bank``, which no image shows."""

    def __len__(self) -> int:
        return len(self.joints)

    @property
    def pose_ids(self) -> pa.ChunkedArray:
        """The ``image_id`` of every pose."""
        return self.images.table["image_id"]


def pose_bank(images: Images, size: tuple[int, int], *, streets: bool = False) -> PoseBank:
    """Return the usable poses of the train split; query and gallery never give one.

    Args:
        images: A table in any row order.
        size: (width, height) of the generated images, to which the poses are stretched.
        streets: Take only poses that were seen before a street that can be used, and keep the
            masks: for systems that look at what stands behind a pose.

    Raises:
        UserError: If a train row has no size, or no pose is usable.
    """
    train = images.only("train")
    if streets:
        train = train.take(np.flatnonzero(rows_with_street(train, size)))
        if not len(train):
            raise UserError(
                "found no train image with a mask that leaves a street beside the person; expected "
                "masks (see 'augment detect --masks')"
            )
    order = pc.sort_indices(train.table["image_id"]).to_numpy()
    joints = joints_in(train, size)
    usable = order[keypoints.has_torso(joints)[order]]
    if not len(usable):
        raise UserError(
            f"found no pose with both shoulders and both hips in {len(train):,} train rows; "
            "expected keypoints (see 'augment index --keypoints')"
        )
    columns = [*IMAGE_COLUMNS, *MASK_COLUMNS] if streets else IMAGE_COLUMNS
    seen = replace(train, table=train.table.select(columns)).take(usable)
    joints = joints[usable]
    return PoseBank(seen, joints, bank_digest(seen.table, joints), streets)


def joints_in(images: Images, size: tuple[int, int]) -> Float32[np.ndarray, "rows 18 2"]:
    """Return the joints of every row as if its image were stretched to ``size`` (width, height).

    Convention: (x, y), pixel centres at integers; a missing joint, or all of a row without
    annotation, NaN.

    Raises:
        UserError: If a row has no width or height.
    """
    for column in ("width", "height"):
        if images.table[column].null_count:
            row = int(np.flatnonzero(np.asarray(images.table[column].is_null()))[0])
            name = images.table["image_id"][row].as_py()
            raise UserError(f"row '{name}' of the images: found no {column}, expected pixels")
    joints = np.empty((len(images), keypoints.NUM_JOINTS, 2), np.float32)
    for first in range(0, len(images), _BLOCK_ROWS):
        block = images.table.slice(first, _BLOCK_ROWS)
        sizes = np.stack([block["width"].to_numpy(), block["height"].to_numpy()], axis=1)[:, None]
        # In double precision, so that poses of images that fit stay exactly as they are.
        seen = keypoint_array(block["keypoints"]).astype(np.float64)
        joints[first : first + _BLOCK_ROWS] = (seen + 0.5) * (np.asarray(size) / sizes) - 0.5
    return joints


def bank_digest(names: pa.Table, joints: Float32[np.ndarray, "poses 18 2"]) -> str:
    """Return the ``PoseBank.digest`` of poses, whose ``image_id`` and ``person_id`` are given."""
    digest = hashlib.sha256()
    for column in ("image_id", "person_id"):
        for first in range(0, len(names), _BLOCK_ROWS):
            block = names[column].slice(first, _BLOCK_ROWS).to_pylist()
            digest.update(("\n" * bool(first) + "\n".join(block)).encode())
        digest.update(b"\0")
    for first in range(0, len(joints), _BLOCK_ROWS):
        block = joints[first : first + _BLOCK_ROWS]
        # One NaN: others differ in bits that mean nothing.
        canonical = np.where(np.isnan(block), np.float32(np.nan), block).astype("<f4")
        digest.update(canonical.tobytes())
    return digest.hexdigest()
