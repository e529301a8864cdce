"""A target pose at the scale of its source: a torso as long, the hips where the source has them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32

from manifests import keypoints


def at_scale_of(
    source: Float32[np.ndarray, "rows 18 2"],
    target: Float32[np.ndarray, "rows 18 2"],
    size: tuple[int, int],
) -> Float32[np.ndarray, "rows 18 2"]:
    """Return the target poses, scaled about the hips so that each torso is as long as its source's.

    The middle of the hips comes to where the source has it. Joints that leave the image are
    missing. A row of which either pose lacks shoulders or hips, or has no length, stays.

    Convention: (x, y) pixels of the generated image, pixel centres at integers; a missing joint is
    NaN.

    Args:
        source: Where people are.
        target: Where they shall be.
        size: (width, height) of the generated image.
    """
    length, hips = _torso(source)
    target_length, target_hips = _torso(target)
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = (length / target_length)[:, None, None]
        moved = hips[:, None] + factor * (target - target_hips[:, None])
    inside = np.all((moved >= -0.5) & (moved <= np.asarray(size) - 0.5), axis=-1)
    moved = np.where(inside[..., None], moved, np.nan)
    known = keypoints.has_torso(source) & keypoints.has_torso(target)
    known &= (length > 0) & (target_length > 0)
    return np.where(known[:, None, None], moved, target).astype(np.float32)


def _torso(
    joints: Float32[np.ndarray, "rows 18 2"],
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, "rows 2"]]:
    """Return the length from the middle of the shoulders to that of the hips, and the latter."""
    right, left, right_hip, left_hip = (
        joints[:, joint].astype(np.float64) for joint in keypoints.TORSO
    )
    hips = (right_hip + left_hip) / 2
    return np.linalg.norm((right + left) / 2 - hips, axis=-1), hips
