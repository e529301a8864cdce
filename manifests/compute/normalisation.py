"""The colour statistics by which networks trained on ImageNet expect images normalised."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
"""Per channel (red, green, blue), of values in [0, 1]."""

IMAGENET_STD: Final = (0.229, 0.224, 0.225)


class Normalise(nn.Module):
    """Brings RGB images in [-1, 1] to a network's statistics.

    >>> Normalise()(2 * torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1) - 1).abs().max() < 1e-6
    tensor(True)
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
    ) -> None:
        """Take the mean and the deviation per channel, of values in [0, 1]."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return the normalised images."""
        return ((images + 1) / 2 - self.mean) / self.std
