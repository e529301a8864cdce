"""Networks over codes and poses as DPIG has them: residual, fully connected, leaky ReLU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from augment.nets.residual_unet import initialise

NUM_BLOCKS: Final = 4
NUM_HIDDEN: Final = 4
"""Layers of a discriminator before the last."""
SLOPE: Final = 0.2
"""Negative slope of the leaky ReLU."""


class ResidualTrunk(nn.Module):
    """A layer to a width, then four blocks of two layers beside the identity."""

    def __init__(self, inputs: int, width: int, *, rectifies_first: bool = True) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(inputs, width))
        if rectifies_first:
            self.first.append(nn.LeakyReLU(SLOPE))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, width),
                nn.LeakyReLU(SLOPE),
                nn.Linear(width, width),
                nn.LeakyReLU(SLOPE),
            )
            for _ in range(NUM_BLOCKS)
        )
        initialise(self)

    def forward(self, numbers: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch width"]:
        """Return the features."""
        features = self.first(numbers)
        for block in self.blocks:
            features = features + block(features)
        return features

    @staticmethod
    def creation_order(prefix: str) -> Iterator[str]:
        """Yield the layers' names in the order in which the authors' code makes them."""
        yield f"{prefix}.first.0"
        for block in range(NUM_BLOCKS):
            yield from (f"{prefix}.blocks.{block}.0", f"{prefix}.blocks.{block}.2")


class ResidualMLP(nn.Module):
    """A trunk and a linear layer: from numbers to numbers."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.trunk = ResidualTrunk(inputs, width)
        self.last = nn.Linear(width, outputs)
        initialise(self.last)

    def forward(self, numbers: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        """Return the numbers, not bounded."""
        return self.last(self.trunk(numbers))

    @staticmethod
    def creation_order(prefix: str) -> Iterator[str]:
        """Yield the layers' names in the order in which the authors' code makes them."""
        yield from ResidualTrunk.creation_order(f"{prefix}.trunk")
        yield f"{prefix}.last"


class CodeDiscriminator(nn.Module):
    """A score per code, high for real ones (Wasserstein); always in float32.

    Its weights are clipped to a hundredth, so that scores and gradients are tiny.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential()
        for _ in range(NUM_HIDDEN):
            self.hidden.extend((nn.Linear(inputs, width), nn.LeakyReLU(SLOPE)))
            inputs = width
        self.last = nn.Linear(width, 1)
        for layer in self.hidden:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        initialise(self.last)

    def forward(self, codes: Float[Tensor, "batch inputs"]) -> Float[Tensor, " batch"]:
        """Return the scores."""
        with torch.autocast(codes.device.type, enabled=False):
            return self.last(self.hidden(codes.float()))[:, 0]


def official_names(scope: str, prefix: str) -> dict[str, str]:
    """Return rules, as for ``renamed``, for a discriminator of codes."""
    names = ["Input.Linear", *(f"{layer}.Linear" for layer in range(NUM_HIDDEN - 1)), "Out"]
    ours = [*(f"{prefix}.hidden.{2 * layer}" for layer in range(NUM_HIDDEN)), f"{prefix}.last"]
    rules: dict[str, str] = {}
    for name, layer in zip(names, ours, strict=True):
        theirs = f"{scope}Discriminator.{name}".replace(".", r"\.")
        rules[rf"^{theirs}/{theirs}\.W$"] = f"{layer}.weight"
        rules[rf"^{theirs}/{theirs}\.b$"] = f"{layer}.bias"
    return rules
