"""Random flip, shifted crop and erasing of a whole batch at once, on its device."""

from __future__ import annotations

import math
from typing import Final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from manifests.settings import Frozen

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)


class Augmentation(Frozen):
    """What happens to a training image before the network sees it."""

    flip: float = 0.5
    """Probability of mirroring left and right."""
    pad: int = 8
    """Pixels added on every side before a crop of the old size is taken at a random place."""
    erase: float = 0.5
    """Probability of blanking a random rectangle (Zhong et al. 2020)."""


_ERASE_AREA: Final = (0.02, 0.4)
"""Share of the image, as published by Zhong et al. 2020, section 3."""
_ERASE_ASPECT: Final = (0.3, 1 / 0.3)
"""Height over width, the same source."""


def augment(
    images: UInt8[Tensor, "batch height width 3"],
    settings: Augmentation,
    generator: torch.Generator,
) -> Float[Tensor, "batch 3 height width"]:
    """Return normalised images, each with its own draw of flip, crop and erasing.

    The draws come from ``generator`` on the CPU, so that a seed means the same on every device.
    The result is channels-last in memory.
    """
    chance = torch.rand(len(images), 8, generator=generator)
    cropped = _crop_and_flip(images, settings, chance[:, :3].to(images.device))
    normalised = normalise(cropped)
    hole = _holes(images.shape[1], images.shape[2], settings, chance[:, 3:]).to(images.device)
    # Zero is the mean colour after normalisation.
    return normalised.masked_fill_(hole[:, None], 0.0)


def normalise(
    images: UInt8[Tensor, "batch height width 3"],
) -> Float[Tensor, "batch 3 height width"]:
    """Return uint8 RGB as floats with ImageNet's mean and deviation, channels-last in memory."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device)
    std = torch.tensor(IMAGENET_STD, device=images.device)
    return ((images.float() - mean * 255) / (std * 255)).permute(0, 3, 1, 2)


def _crop_and_flip(images: Tensor, settings: Augmentation, chance: Tensor) -> Tensor:
    _, height, width, _ = images.shape
    pad = settings.pad
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    top = (chance[:, 0] * (2 * pad + 1)).long()
    left = (chance[:, 1] * (2 * pad + 1)).long()
    mirrored = chance[:, 2] < settings.flip
    columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
    padded = F.pad(images, (0, 0, pad, pad, pad, pad), value=127)
    index = torch.arange(len(images), device=images.device)
    return padded[
        index[:, None, None],
        (rows + top[:, None])[:, :, None],
        (columns + left[:, None])[:, None, :],
    ]


def _holes(height: int, width: int, settings: Augmentation, chance: Tensor) -> Tensor:
    """Return which pixels are blanked; a rectangle larger than the image is cut to it."""
    low, high = _ERASE_AREA
    area = (low + (high - low) * chance[:, 0]) * height * width
    low, high = map(math.log, _ERASE_ASPECT)
    aspect = torch.exp(low + (high - low) * chance[:, 1])
    tall = torch.sqrt(area * aspect).clamp(max=height - 1).floor()
    wide = torch.sqrt(area / aspect).clamp(max=width - 1).floor()
    top = (chance[:, 2] * (height - tall)).floor()
    left = (chance[:, 3] * (width - wide)).floor()
    rows = torch.arange(height)
    columns = torch.arange(width)
    in_rows = (rows >= top[:, None]) & (rows < (top + tall)[:, None])
    in_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    chosen = chance[:, 4] < settings.erase
    return in_rows[:, :, None] & in_columns[:, None, :] & chosen[:, None, None]
