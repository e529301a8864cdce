"""Groups of poses that are like each other."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float32, Int64

from augment.pose.distance import pose_distances

NUM_CLUSTERS: Final = 16
_MOST_COMPARED: Final = 1_024
"""Of how many poses, evenly spaced in the bank's order, the medoids are some."""
_MOST_ROUNDS: Final = 50


def pose_medoids(
    joints: Float32[np.ndarray, "poses 18 2"], count: int = NUM_CLUSTERS
) -> Int64[np.ndarray, " medoids"]:
    """Return the rows of poses that stand for the others: k-medoids, with nothing random.

    The first medoids are taken one by one, each the pose that brings all others nearest to a medoid
    (BUILD of Kaufman and Rousseeuw 1990), and then moved to the middle of those that they stand for
    until none moves (Park and Jun 2009).

    Args:
        joints: Poses with shoulders and hips; compared as ``pose_distances`` does.
        count: How many, at most; fewer where there are fewer poses.
    """
    step = -(-len(joints) // _MOST_COMPARED)
    compared = joints[::step]
    away = np.stack([pose_distances(compared, pose) for pose in compared])
    nearest = np.full(len(compared), np.finfo(np.float32).max)
    medoids: list[int] = []
    for _ in range(min(count, len(compared))):
        medoids.append(int(np.minimum(away, nearest).sum(axis=1, dtype=np.float64).argmin()))
        nearest = np.minimum(nearest, away[medoids[-1]])
    middles = np.array(medoids)
    for _ in range(_MOST_ROUNDS):
        owner = away[middles].argmin(axis=0)
        moved = middles.copy()
        for cluster in range(len(middles)):
            own = np.flatnonzero(owner == cluster)
            if len(own):
                moved[cluster] = own[away[np.ix_(own, own)].sum(axis=1).argmin()]
        if np.array_equal(moved, middles):
            break
        middles = moved
    return middles * step


def pose_clusters(
    joints: Float32[np.ndarray, "poses 18 2"], medoids: Float32[np.ndarray, "medoids 18 2"]
) -> Int64[np.ndarray, " poses"]:
    """Return the place of the medoid that is nearest to each pose, -1 where none has a distance."""
    away = np.stack([pose_distances(joints, medoid) for medoid in medoids])
    return np.where(np.isfinite(away).any(axis=0), away.argmin(axis=0), -1)
