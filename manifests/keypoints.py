"""The 18 body joints: their order, their mirror images, the limbs between them.

Convention: a joint is (x, y) in pixels of the stored image; pixel centres lie at integers, the
origin is the centre of the top-left pixel. A missing joint is (NaN, NaN).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Bool, Float

JOINT_NAMES: Final = (
    "nose",
    "neck",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_hip",
    "left_knee",
    "left_ankle",
    "right_eye",
    "left_eye",
    "right_ear",
    "left_ear",
)
NUM_JOINTS: Final = len(JOINT_NAMES)

TORSO: Final = tuple(
    JOINT_NAMES.index(name) for name in ("right_shoulder", "left_shoulder", "right_hip", "left_hip")
)
"""The four joints that a usable pose must have (the published pair rule)."""

HEAD: Final = (0, 1, 14, 15, 16, 17)
"""The joints whose bounding box gives the head size of PCKh."""

MIRROR: Final = tuple(
    JOINT_NAMES.index(
        name.replace("right_", "left_") if "right_" in name else name.replace("left_", "right_")
    )
    for name in JOINT_NAMES
)
"""``mirrored[i] = original[MIRROR[i]]``: which joint becomes joint ``i`` in a mirrored image."""

LIMBS: Final = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12),
    (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17), (1, 16), (1, 17), (8, 11), (11, 5),
    (8, 2), (16, 17),
)  # fmt: skip
"""Pairs of joints joined by a limb in the published body mask (0-based)."""


COCO_NAMES: Final = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
"""The 17 joints of COCO."""


def visible(joints: Float[np.ndarray, "*batch 18 2"]) -> Bool[np.ndarray, "*batch 18"]:
    """Return which joints are present.

    >>> bool(visible(np.full((18, 2), np.nan)).any())
    False
    """
    return np.asarray(~np.isnan(joints).any(axis=-1))


def has_torso(joints: Float[np.ndarray, "*batch 18 2"]) -> Bool[np.ndarray, "*batch"]:
    """Return which poses have both shoulders and both hips."""
    return np.asarray(visible(joints)[..., TORSO].all(axis=-1))


def resize(
    joints: Float[np.ndarray, "*batch 18 2"],
    old_size: tuple[int, int],
    new_size: tuple[int, int],
) -> Float[np.ndarray, "*batch 18 2"]:
    """Return the joints of an image stretched from ``old_size`` to ``new_size`` (width, height).

    Convention: (x, y), pixel centres at integers, so the image spans -0.5 to size - 0.5.

    >>> joints = np.zeros((18, 2), np.float32)
    >>> resize(joints, (64, 128), (32, 64))[0].tolist()
    [-0.25, -0.25]
    """
    scale = np.asarray(new_size, joints.dtype) / np.asarray(old_size, joints.dtype)
    return (joints + 0.5) * scale - 0.5


def from_coco(joints: Float[np.ndarray, "poses 17 2"]) -> Float[np.ndarray, "poses 18 2"]:
    """Return the 18 joints of COCO's 17; the neck is the mean of both shoulders, if both are there.

    Convention: (x, y) in any frame; a missing joint is NaN.

    >>> coco = np.zeros((1, 17, 2))
    >>> coco[0, 5], coco[0, 6] = (10, 20), (30, 22)
    >>> from_coco(coco)[0, 1].tolist()
    [20.0, 21.0]
    """
    ours = np.full((len(joints), NUM_JOINTS, 2), np.nan, np.float32)
    for place, name in enumerate(COCO_NAMES):
        ours[:, JOINT_NAMES.index(name)] = joints[:, place]
    shoulders = [COCO_NAMES.index("left_shoulder"), COCO_NAMES.index("right_shoulder")]
    ours[:, JOINT_NAMES.index("neck")] = joints[:, shoulders].mean(axis=1)
    return ours


def from_openpose25(joints: Float[np.ndarray, "poses 25 2"]) -> Float[np.ndarray, "poses 18 2"]:
    """Return the 18 joints of OpenPose's 25: without the hip in the middle and without the feet.

    Convention: (x, y) in any frame; a missing joint is NaN.

    >>> JOINT_NAMES[8], from_openpose25(np.arange(50.0).reshape(1, 25, 2))[0, 8].tolist()
    ('right_hip', [18.0, 19.0])
    """
    return joints[:, [*range(8), *range(9, 19)]]
