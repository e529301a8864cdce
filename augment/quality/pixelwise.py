"""Differences pixel by pixel: mean absolute difference and peak signal-to-noise ratio."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

LARGEST_VALUE = 255.0


def l1(
    generated: UInt8[Tensor, "batch 3 height width"], target: UInt8[Tensor, "batch 3 height width"]
) -> Float[Tensor, " batch"]:
    """Return the mean absolute difference of each pair, of images scaled to [-1, 1].

    In [0, 2]. The scale is that of the PATN evaluator and of the training losses.

    >>> black, white = torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.full((1, 3, 2, 2), 255)
    >>> l1(black, white.byte()).tolist()
    [2.0]
    """
    difference = generated.to(torch.int16) - target.to(torch.int16)
    return difference.abs().double().mean(dim=(1, 2, 3)) * (2.0 / LARGEST_VALUE)


def psnr(
    generated: UInt8[Tensor, "batch 3 height width"], target: UInt8[Tensor, "batch 3 height width"]
) -> Float[Tensor, " batch"]:
    """Return the peak signal-to-noise ratio of each pair in decibels.

    ``10 log10(1 / mse)`` of images in [0, 1] (data range 1), as scikit-image in the GFLA and DPTN
    evaluators. Infinite for equal images.

    >>> black, gray = torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.full((1, 3, 2, 2), 51)
    >>> round(psnr(black, gray.byte()).item(), 6)
    13.9794
    """
    difference = (generated.to(torch.int32) - target.to(torch.int32)).double()
    error = (difference / LARGEST_VALUE).square().mean(dim=(1, 2, 3))
    return -10.0 * error.log10()
