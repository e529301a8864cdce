"""From where a person is seen: from the front, from behind, from a side."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float, Int64

from manifests import keypoints

VIEWPOINTS: Final = ("front", "back", "side")

SIDE: Final = 0.4
"""How wide the shoulders of a person seen from a side are at most, a share of the torso's length.

Of 12,116 train poses of Market-1501 none below that shows both ears, and few have a ratio near it.
"""


def viewpoints(joints: Float[np.ndarray, "poses 18 2"]) -> Int64[np.ndarray, " poses"]:
    """Return the place of each pose's viewpoint in ``VIEWPOINTS``, -1 without a torso.

    The shoulders' order from left to right tells front from back, as in the grouping of views of
    Cho and Yoon ("Improving Person Re-identification via Pose-aware Multi-shot Matching", CVPR
    2016), who take the direction of walking for it.

    Convention: (x, y), x to the right; the joints' left and right are the person's own.

    >>> joints = np.zeros((2, 18, 2), np.float32)
    >>> joints[:, keypoints.TORSO] = [(10, 20), (30, 20), (14, 60), (26, 60)]
    >>> joints[1, :, 0] *= -1
    >>> [VIEWPOINTS[view] for view in viewpoints(joints)]
    ['front', 'back']
    """
    right, left, right_hip, left_hip = (joints[:, joint] for joint in keypoints.TORSO)
    length = np.linalg.norm(right + left - right_hip - left_hip, axis=-1) / 2
    width = left[:, 0] - right[:, 0]
    seen = np.where(width > 0, VIEWPOINTS.index("front"), VIEWPOINTS.index("back"))
    seen = np.where(np.abs(width) < SIDE * length, VIEWPOINTS.index("side"), seen)
    return np.where(keypoints.has_torso(joints), seen, -1)
