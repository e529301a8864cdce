"""Padding: reflection whose backward pass is deterministic and fast, and TensorFlow's SAME."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ReflectionPad(nn.Module):
    """Mirror the image's border outward by ``pixels``, without repeating the edge pixel.

    Equal to ``nn.ReflectionPad2d``, whose CUDA backward pass adds atomically, so that equal runs
    differ, and whose CPU kernels are slow with channels innermost.
    """

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels padded_height padded_width"]:
        """Return the padded image."""
        device = image.device.type
        if torch.is_autocast_enabled(device):
            # The convolution behind would cast the image too, but the larger, padded one.
            image = image.to(torch.get_autocast_dtype(device))
        return _Reflection.apply(image, self.pixels)

    def extra_repr(self) -> str:
        """Return the padding for ``repr``."""
        return str(self.pixels)


class _Reflection(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, pixels: int) -> Tensor:
        ctx.pixels = p = pixels
        batch, channels, height, width = image.shape
        channels_last = image.is_contiguous(memory_format=torch.channels_last)
        padded = torch.empty(
            (batch, channels, height + 2 * p, width + 2 * p),
            dtype=image.dtype,
            device=image.device,
            memory_format=torch.channels_last if channels_last else torch.contiguous_format,
        )
        rows = padded[:, :, p : p + height]
        rows[..., p : p + width] = image
        rows[..., :p] = image[..., 1 : p + 1].flip(-1)
        rows[..., p + width :] = image[..., -p - 1 : -1].flip(-1)
        padded[:, :, :p] = rows[:, :, 1 : p + 1].flip(-2)
        padded[:, :, p + height :] = rows[:, :, -p - 1 : -1].flip(-2)
        return padded

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        p = ctx.pixels
        rows = gradient[:, :, p:-p].clone(memory_format=torch.preserve_format)
        rows[:, :, 1 : p + 1] += gradient[:, :, :p].flip(-2)
        rows[:, :, -p - 1 : -1] += gradient[:, :, -p:].flip(-2)
        image = rows[..., p:-p].clone(memory_format=torch.preserve_format)
        image[..., 1 : p + 1] += rows[..., :p].flip(-1)
        image[..., -p - 1 : -1] += rows[..., -p:].flip(-1)
        return image, None


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding, which is not symmetric for a stride of 2.

    The result has ``ceil(size / stride)`` rows and columns; an odd number of padded pixels has its
    larger part below and to the right. Symmetric padding would move features of ported weights by
    a pixel of the larger grid.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__(inputs, outputs, kernel, stride)

    def forward(
        self,
        input: Float[Tensor, "batch inputs height width"],  # noqa: A002 - torch's name
    ) -> Float[Tensor, "batch outputs rows columns"]:
        """Return the features."""
        margins: list[int] = []
        for axis in (1, 0):  # F.pad begins with the last axis
            size, kernel, stride = input.shape[2 + axis], self.kernel_size[axis], self.stride[axis]
            padded = max(0, (math.ceil(size / stride) - 1) * stride + kernel - size)
            margins += [padded // 2, padded - padded // 2]
        return self._conv_forward(F.pad(input, margins), self.weight, self.bias)
