"""Attention over a few samples where a flow points, as in GFLA."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from augment.nets.preactivation import SLOPE
from augment.nets.warping import extract_blocks, unfold_weights


class LocalAttention(nn.Module):
    """Each target position looks at ``size`` x ``size`` samples of the source."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.compare = nn.Conv2d(2 * channels, channels, size, stride=size)
        self.weigh = nn.Sequential(nn.LeakyReLU(SLOPE), nn.Conv2d(channels, size * size, 1))

    def forward(
        self,
        source: Float[Tensor, "batch channels height width"],
        target: Float[Tensor, "batch channels height width"],
        flow: Float[Tensor, "batch 2 height width"],
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the samples' weighted sum divided by their number, as the published code does.

        The published code weighs by one convolution over blocks of both inputs side by side. A
        block of the target with its neighbours at rest is what an ordinary convolution sees, so
        its half of the weights runs without nine copies of the target.
        """
        at_target, at_source = self.compare.weight.split(target.shape[1], dim=1)
        before = self.size // 2
        after = self.size - 1 - before
        padded = F.pad(target, (before, after, before, after), mode="replicate")
        blocks = extract_blocks(source, flow, self.size)
        similarity = F.conv2d(padded, at_target, self.compare.bias)
        similarity = similarity + F.conv2d(blocks, at_source, stride=self.size)
        weights = torch.softmax(self.weigh(similarity).float(), dim=1)
        return F.avg_pool2d(unfold_weights(weights, self.size) * blocks, self.size)
