"""The discriminator of DCGAN (Radford et al. 2016) as PG2 and DPIG use it."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from jaxtyping import Float
from torch import Tensor, nn

from augment.nets.padding import SameConv2d

KERNEL: Final = 5
SLOPE: Final = 0.2
"""Negative slope of the leaky ReLU."""
FIRST_DEVIATION: Final = 0.02
"""Of the weights that a training starts with, which are uniform."""


class DcganDiscriminator(nn.Module):
    """One logit per image, from four convolutions of stride 2.

    Batch normalisation takes its statistics from the batch at hand, in training and after: a logit
    depends on the images beside it.
    """

    def __init__(self, width: int, image_size: tuple[int, int]) -> None:
        """Build the network.

        Args:
            width: Channels of the first convolution; published 64.
            image_size: (height, width) of the images, multiples of 16.
        """
        super().__init__()
        widths = (width, 2 * width, 4 * width, 8 * width)
        self.layers = nn.Sequential(
            SameConv2d(3, width, KERNEL, stride=2),
            nn.LeakyReLU(SLOPE),
            *(
                layer
                for inputs, outputs in pairwise(widths)
                for layer in (
                    SameConv2d(inputs, outputs, KERNEL, stride=2),
                    nn.BatchNorm2d(outputs, track_running_stats=False),
                    nn.LeakyReLU(SLOPE),
                )
            ),
        )
        height, width = (size // 2 ** len(widths) for size in image_size)
        self.logit = nn.Linear(widths[-1] * height * width, 1)
        bound = FIRST_DEVIATION * 3**0.5
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.uniform_(layer.weight, -bound, bound)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, " batch"]:
        """Return one logit per image, above 0 for real."""
        # Channels are slowest here, unlike in the generators: as the authors' code flattens.
        return self.logit(self.layers(images).flatten(1))[:, 0]


def official_names(prefix: str) -> dict[str, str]:
    """Return rules, as for ``renamed``, from the authors' variables to a child's tensors."""
    rules: dict[str, str] = {}
    for number, layer in enumerate((0, 2, 5, 8), start=1):
        name = rf"Discriminator\.{number}"
        rules[rf"^{name}/{name}\.Filters$"] = f"{prefix}.layers.{layer}.weight"
        rules[rf"^{name}/{name}\.Biases$"] = f"{prefix}.layers.{layer}.bias"
        if number > 1:
            norm = rf"^Discriminator\.BN{number}\."
            rules[norm + "scale$"] = f"{prefix}.layers.{layer + 1}.weight"
            rules[norm + "offset$"] = f"{prefix}.layers.{layer + 1}.bias"
    name = r"Discriminator\.Output"
    rules[rf"^{name}/{name}\.W$"] = f"{prefix}.logit.weight"
    rules[rf"^{name}/{name}\.b$"] = f"{prefix}.logit.bias"
    return rules
