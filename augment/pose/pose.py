"""A batch of body poses on a device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from manifests.keypoints import MIRROR


@dataclass(frozen=True, slots=True)
class Pose:
    """A batch of poses of 18 joints.

    Convention: joints are (x, y) in pixels of the image, pixel centres at integers, origin at the
    centre of the top-left pixel; a missing joint is (NaN, NaN).
    """

    joints: Float[Tensor, "batch 18 2"]

    @property
    def visible(self) -> Bool[Tensor, "batch 18"]:
        """Which joints are present."""
        return ~torch.isnan(self.joints).any(dim=-1)

    def to(self, device: torch.device | str) -> Pose:
        """Return the same poses on another device."""
        return Pose(self.joints.to(device, non_blocking=True))

    def mirror(self, width: int) -> Pose:
        """Return the poses in the left-right mirrored image of ``width`` pixels.

        Convention: (x, y), pixel centres; x becomes ``width - 1 - x`` and left joints become
        right ones.
        """
        mirrored = self.joints[:, MIRROR].clone()
        mirrored[..., 0] = (width - 1) - mirrored[..., 0]
        return Pose(mirrored)

    def affine(self, matrix: Float[Tensor, "batch 2 3"]) -> Pose:
        """Return the poses moved by one affine map per image, ``matrix @ (x, y, 1)``."""
        moved = torch.einsum("bij,bkj->bki", matrix[:, :, :2], self.joints)
        return Pose(moved + matrix[:, None, :, 2])
