"""How far poses are from each other."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float32

from manifests import keypoints

SEEN_IN_ONE: Final = 0.5
"""How far apart a joint is that only one of two poses has, in lengths of the torso: otherwise poses
of few joints, cut off at the hips say, would be near to everything."""


def pose_distances(
    joints: Float32[np.ndarray, "poses 18 2"], pose: Float32[np.ndarray, "18 2"]
) -> Float32[np.ndarray, " poses"]:
    """Return how far poses are from one, as mean distance of the joints that one of both has.

    Places and sizes do not count: poses are taken from the middle of their shoulders and hips, in
    units of the distance between the middles of shoulders and of hips. Left and right do, so a
    back is far from a front. A joint that only one of them has is ``SEEN_IN_ONE`` away. Without a
    torso, or a common joint, a pose is infinitely far.

    >>> pose = np.arange(36, dtype=np.float32).reshape(18, 2) ** 2
    >>> pose_distances(np.stack([pose * 3 + 5, pose[:, ::-1]]), pose)[0].round(4)
    np.float32(0.0)
    """
    away = np.linalg.norm(_in_torsos(joints) - _in_torsos(pose[None]), axis=-1)
    common = np.isfinite(away)
    num_common = common.sum(axis=-1)
    num_single = (keypoints.visible(joints) ^ keypoints.visible(pose)).sum(axis=-1)
    sums = np.where(common, away, 0).sum(axis=-1) + SEEN_IN_ONE * num_single
    means = sums / np.maximum(num_common + num_single, 1)
    return np.where(num_common > 0, means, np.inf).astype(np.float32)


def _in_torsos(joints: Float32[np.ndarray, "poses 18 2"]) -> Float32[np.ndarray, "poses 18 2"]:
    shoulders = joints[:, keypoints.TORSO[:2]].mean(axis=1, keepdims=True)
    hips = joints[:, keypoints.TORSO[2:]].mean(axis=1, keepdims=True)
    length = np.linalg.norm(shoulders - hips, axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (joints - (shoulders + hips) / 2) / length
