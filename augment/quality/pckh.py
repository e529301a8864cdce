"""PCKh: how many joints of a generated image lie where the target pose has them.

The box variant of the PATN and XingGAN evaluators, not the Euclidean one of Andriluka et al. 2014.
Published values come from OpenPose joints; a value is worth what its pose estimator is worth, so
every table names the estimator, and only OpenPose's may stand beside published ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from manifests.keypoints import HEAD, visible

MIN_HEAD_JOINTS = 2
HEAD_FRACTION = 0.5


@dataclass(frozen=True, slots=True)
class JointCounts:
    """Right and visible joints of each scored pair."""

    right: Int[np.ndarray, " pairs"]
    visible: Int[np.ndarray, " pairs"]
    scored: Bool[np.ndarray, " pairs"]
    """Whether the target shows at least two joints of the head; other pairs do not count."""

    def pckh(self) -> float:
        """Return right joints over visible joints of all scored pairs, NaN if there are none."""
        total = int(self.visible[self.scored].sum())
        return float(self.right[self.scored].sum()) / total if total else float("nan")


def count_joints(
    prediction: Float[np.ndarray, "pairs 18 2"], target: Float[np.ndarray, "pairs 18 2"]
) -> JointCounts:
    """Return how many of the target's joints the predicted poses hit.

    The head box is the bounding box of the target's nose, neck, eyes and ears, ``w`` by ``h``. A
    joint is right if ``|dx| < 0.5 w`` and ``|dy| < 0.5 h``, strictly and per axis, so a flat box
    makes every joint wrong. A joint missing in the prediction is wrong; one missing in the
    target does not count.

    Convention: (x, y) in pixels of the stored image; a missing joint is NaN.

    >>> target = np.arange(36, dtype=np.float32).reshape(1, 18, 2)
    >>> count_joints(target, target).pckh()
    1.0
    """
    head = target[:, HEAD]
    present = visible(target)
    num_head = visible(head).sum(axis=1)
    scored = np.asarray(num_head >= MIN_HEAD_JOINTS)
    low = np.where(np.isnan(head), np.inf, head).min(axis=1)
    high = np.where(np.isnan(head), -np.inf, head).max(axis=1)
    box = np.where(scored[:, None], high - low, 0.0)
    near = np.abs(prediction - target) < HEAD_FRACTION * box[:, None]
    right = near.all(axis=-1) & present
    return JointCounts(right=right.sum(axis=1), visible=present.sum(axis=1), scored=scored)
