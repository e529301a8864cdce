"""Random flip, shifted crop and erasing of a whole batch at once, on its device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Final

import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from manifests.compute.normalisation import IMAGENET_MEAN, IMAGENET_STD
from manifests.runtime.settings import Count, Frozen


@dataclass(frozen=True, slots=True)
class Normalisation:
    """What is taken off a colour channel in [0, 1], and what it is then divided by."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET: Final = Normalisation(IMAGENET_MEAN, IMAGENET_STD)


class Augmentation(Frozen):
    """What happens to a training image before the network sees it."""

    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of mirroring left and right."""
    pad: Count = 8
    """Pixels added on every side before a crop of the old size is taken at a random place."""
    erase: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of blanking a random rectangle (Zhong et al. 2020)."""
    scene: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability of a new street behind the person of a real image, from another train image; the
    images table needs masks."""


_ERASE_AREA: Final = (0.02, 0.4)
"""Share of the image, as published by Zhong et al. 2020, section 3."""
_ERASE_ASPECT: Final = (0.3, 1 / 0.3)
"""Height over width, the same source."""


def chances(count: int, seed: int) -> Float[Tensor, "count 8"]:
    """Return what decides over flip, crop and erasing of ``count`` images, in [0, 1).

    Drawn on the CPU, so that a seed means the same on every device.
    """
    return torch.rand(count, 8, generator=torch.Generator().manual_seed(seed))


def augment(
    images: UInt8[Tensor, "batch height width 3"],
    settings: Augmentation,
    chance: Float[Tensor, "batch 8"],
    normalisation: Normalisation = IMAGENET,
) -> Float[Tensor, "batch 3 height width"]:
    """Return normalised images, each with its own draw of flip, crop and erasing.

    The draws come from ``chances``; the result is channels-last in memory.
    """
    cropped = _crop_and_flip(images, settings, chance[:, :3].to(images.device))
    normalised = normalise(cropped, normalisation)
    hole = _holes(images.shape[1], images.shape[2], settings, chance[:, 3:]).to(images.device)
    # Zero is the mean colour after normalisation.
    return normalised.masked_fill_(hole[:, None], 0.0)


def normalise(
    images: UInt8[Tensor, "batch height width 3"], normalisation: Normalisation = IMAGENET
) -> Float[Tensor, "batch 3 height width"]:
    """Return uint8 RGB as floats less the mean over the deviation, channels-last in memory."""
    count, height, width, _ = images.shape
    # Rows of width x 3 numbers keep the inner loop long.
    scale = 1 / (255 * torch.tensor(normalisation.std, device=images.device))
    shift = -255 * torch.tensor(normalisation.mean, device=images.device) * scale
    rows = images.reshape(count, height, width * 3).float()
    rows = rows.mul_(scale.repeat(width)).add_(shift.repeat(width))
    return rows.view(count, height, width, 3).permute(0, 3, 1, 2)


def _crop_and_flip(
    images: UInt8[Tensor, "batch height width 3"],
    settings: Augmentation,
    chance: Float[Tensor, "batch 3"],
) -> UInt8[Tensor, "batch height width 3"]:
    """Return the batch with one lookup among all windows and no loop over images."""
    count, height, width, _ = images.shape
    pad = settings.pad
    # 127 is nearly the mean colour, so a border is not an edge to learn.
    padded = F.pad(images, (0, 0, pad, pad, pad, pad), value=127)
    image, row, column, _ = padded.stride()
    offsets = 2 * pad + 1
    windows = padded.as_strided(
        (count, offsets, offsets, height, width * 3), (image, row, column, row, 1)
    )
    top, left = (chance[:, :2] * offsets).long().unbind(1)
    cropped = windows[torch.arange(count, device=images.device), top, left]
    cropped = cropped.view(count, height, width, 3)
    mirrored = (chance[:, 2] < settings.flip).nonzero()[:, 0]
    return cropped.index_copy_(0, mirrored, cropped[mirrored].flip(2))


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
