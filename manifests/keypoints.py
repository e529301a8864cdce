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
