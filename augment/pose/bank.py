"""The pose bank: every train pose with both shoulders and both hips, a target for anybody."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from manifests import keypoints
from manifests.console import UserError
from manifests.io import Images


@dataclass(frozen=True, slots=True)
class PoseBank:
    """Target poses, sorted by the ``image_id`` that they were seen in.

    Convention: joints are (x, y) pixels of the generated image, pixel centres at integers, a
    missing joint NaN.
    """

    pose_ids: tuple[str, ...]
    joints: Float32[np.ndarray, "poses 18 2"]
    person_ids: tuple[str, ...]
    digest: str
    """SHA-256 of the three above."""

    def __len__(self) -> int:
        return len(self.pose_ids)


def pose_bank(images: Images, size: tuple[int, int]) -> PoseBank:
    """Return the usable poses of the train split; query and gallery never give one.

    Args:
        images: A table in any row order.
        size: (width, height) of the generated images, to which the poses are stretched.

    Raises:
        UserError: If a train row has no size, or no pose is usable.
    """
    train = images.only("train")
    train = train.take(np.argsort(np.asarray(train.strings("image_id"), object), kind="stable"))
    joints = joints_in(train, size)
    usable = np.flatnonzero(keypoints.has_torso(joints))
    if not len(usable):
        raise UserError(
            f"found no pose with both shoulders and both hips in {len(train):,} train rows; "
            "expected keypoints (see 'augment index --keypoints')"
        )
    rows = train.take(usable)
    pose_ids, person_ids = tuple(rows.strings("image_id")), tuple(rows.strings("person_id"))
    return PoseBank(
        pose_ids, joints[usable], person_ids, _digest(pose_ids, joints[usable], person_ids)
    )


def joints_in(images: Images, size: tuple[int, int]) -> Float32[np.ndarray, "rows 18 2"]:
    """Return the joints of every row as if its image were stretched to ``size`` (width, height).

    Convention: (x, y), pixel centres at integers; a missing joint, or all of a row without
    annotation, NaN.

    Raises:
        UserError: If a row has no width or height.
    """
    sizes = np.empty((len(images), 1, 2))
    for place, column in enumerate(("width", "height")):
        values = images.table[column]
        if values.null_count:
            row = int(np.flatnonzero(np.asarray(values.is_null()))[0])
            name = images.strings("image_id")[row]
            raise UserError(f"row '{name}' of the images: found no {column}, expected pixels")
        sizes[:, 0, place] = values.to_numpy()
    # In double precision, so that poses of images that fit stay exactly as they are.
    return (
        (images.keypoints().astype(np.float64) + 0.5) * (np.asarray(size) / sizes) - 0.5
    ).astype(np.float32)


def _digest(
    pose_ids: tuple[str, ...],
    joints: Float32[np.ndarray, "poses 18 2"],
    person_ids: tuple[str, ...],
) -> str:
    digest = hashlib.sha256()
    for text in ("\n".join(pose_ids), "\n".join(person_ids)):
        digest.update(text.encode() + b"\0")
    # One NaN: others differ in bits that mean nothing.
    canonical = np.where(np.isnan(joints), np.float32(np.nan), joints).astype("<f4")
    digest.update(canonical.tobytes())
    return digest.hexdigest()
