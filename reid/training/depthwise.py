"""Depthwise convolutions that a CPU trains faster in float32 than in bf16.

oneDNN, which computes torch's convolutions on a CPU, has fast bf16 gradients of depthwise
convolutions with 3x3 kernels alone, without stride or dilation. Where a network has others, as
MobileNetV2 and EfficientNets have, a few layers take half of a step's time in bf16;
``scripts/bench_depthwise.py`` prints the ratios.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class InFloat32(nn.Conv2d):
    """A convolution that autocast does not reach; what comes out has the type of what came in."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as torch names it
        """Return the convolution, computed in float32."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float()).to(input.dtype)


def depthwise_in_float32(network: nn.Module) -> None:
    """Compute a network's slow depthwise convolutions in float32, in place.

    Parameters, buffers and their names stay; autocast governs the other layers.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and _is_slow(module):
            # The class's own forward, such as timm's padding, goes on being called.
            kind: Any = type(type(module).__name__, (InFloat32, type(module)), {})
            module.__class__ = kind


def _is_slow(convolution: nn.Conv2d) -> bool:
    depthwise = convolution.groups == convolution.in_channels > 1
    plain = (convolution.kernel_size, convolution.stride, convolution.dilation) == (
        (3, 3), (1, 1), (1, 1)
    )  # fmt: skip
    return depthwise and not plain
