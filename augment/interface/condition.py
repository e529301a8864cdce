"""What a network is given and what it shall answer, as tensors; pixels to floats and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from augment.pose.pose import Pose


@dataclass(frozen=True, slots=True)
class Condition:
    """This person, in that pose.

    ``image`` is RGB in [-1, 1]. Convention: poses are (x, y) pixels of ``image``.
    """

    image: Float[Tensor, "batch 3 height width"]
    pose: Pose
    target_pose: Pose


@dataclass(frozen=True, slots=True)
class Pair:
    """A condition and its answer: ``target`` is RGB in [-1, 1]."""

    condition: Condition
    target: Float[Tensor, "batch 3 height width"]


def as_floats(
    image: UInt8[Tensor, "batch height width 3"],
) -> Float[Tensor, "batch 3 height width"]:
    """Return pixels 0..255 as [-1, 1], channels innermost in memory."""
    return (image.permute(0, 3, 1, 2).float() / 127.5) - 1.0


def as_pixels(
    image: Float[Tensor, "batch 3 height width"],
) -> UInt8[Tensor, "batch height width 3"]:
    """Return [-1, 1] as pixels 0..255, truncated and not rounded, as the published code does."""
    scaled = (image.float().clamp(-1.0, 1.0) + 1.0) / 2.0 * 255.0
    return scaled.to(torch.uint8).permute(0, 2, 3, 1)
