"""Images and their poses moved together by small random affine maps.

Convention: maps take (x, y) pixels to (x, y) pixels, pixel centres at integers, origin at the
centre of the top-left pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from augment.nets.warping import positions
from augment.pose.pose import Pose

GREY: Final = 128 / 127.5 - 1
"""What appears from beyond the border: pixel value 128."""


@dataclass(frozen=True, slots=True)
class Jitter:
    """Uniform limits of small affine maps: turn and scale about the image's centre, then shift.

    Args:
        angle_degrees: Largest turn to either side.
        shift_px: Largest shift in each direction.
        scale: Largest deviation of the scale from 1.
    """

    angle_degrees: float
    shift_px: float
    scale: float

    def move(
        self, image: Float[Tensor, "batch 3 height width"], pose: Pose
    ) -> tuple[Float[Tensor, "batch 3 height width"], Pose]:
        """Return image and pose after one random map per image."""
        batch, _, height, width = image.shape
        return moved(image, pose, self.draw(batch, height, width).to(image.device))

    def draw(self, count: int, height: int, width: int) -> Float[Tensor, "count 2 3"]:
        """Return random maps for images of one size, drawn from torch's CPU generator."""
        numbers = 2 * torch.rand(count, 4) - 1
        angle = math.radians(self.angle_degrees) * numbers[:, 0]
        factor = 1 + self.scale * numbers[:, 1]
        cosine, sine = factor * torch.cos(angle), factor * torch.sin(angle)
        turn = torch.stack([cosine, -sine, sine, cosine], dim=1).reshape(count, 2, 2)
        centre = torch.tensor([(width - 1) / 2, (height - 1) / 2])
        shift = centre - turn @ centre + self.shift_px * numbers[:, 2:]
        return torch.cat([turn, shift[:, :, None]], dim=2)


def moved(
    image: Float[Tensor, "batch 3 height width"],
    pose: Pose,
    matrix: Float[Tensor, "batch 2 3"],
) -> tuple[Float[Tensor, "batch 3 height width"], Pose]:
    """Return image and pose after one affine map per image; beyond the border all is grey."""
    height, width = image.shape[-2:]
    with torch.autocast(image.device.type, enabled=False):
        points = positions(height, width, image).flatten(1) - matrix[:, :, 2:]
        points = torch.linalg.solve(matrix[:, :, :2], points).unflatten(2, (height, width))
        last = points.new_tensor([width - 1, height - 1])[:, None, None]
        grid = (2 * points / last - 1).permute(0, 2, 3, 1)
        fetched = F.grid_sample(image - GREY, grid, "bilinear", "zeros", align_corners=True)
        return fetched + GREY, pose.affine(matrix)
