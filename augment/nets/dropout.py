"""Dropout from random bytes."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Dropout(nn.Module):
    """Drop elements with a probability that is a multiple of 1/256, and scale up the others.

    Eight masks come from one 64-bit random number: ``nn.Dropout`` draws one number per element,
    which on a CPU took a fifth of PATN's training step.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.dropped = round(256 * probability)
        if not 0 <= self.dropped < 256 or self.dropped != 256 * probability:
            raise ValueError(f"found dropout {probability}, expected a multiple of 1/256 below 1")

    def forward(self, features: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the features, in training with some of them zero."""
        if not self.training or self.dropped == 0:
            return features
        masks = torch.empty(-(-features.numel() // 8), dtype=torch.int64, device=features.device)
        # random_() alone leaves the sign bit out; the range has to be named.
        masks.random_(-(2**63), None)
        octets = masks.view(torch.uint8)[: features.numel()]
        scale = 256 / (256 - self.dropped)
        mask = (octets >= self.dropped).to(features.dtype).mul_(scale)
        return features * mask.as_strided(features.size(), features.stride())

    def extra_repr(self) -> str:
        """Return the probability for ``repr``."""
        return f"{self.dropped}/256"
