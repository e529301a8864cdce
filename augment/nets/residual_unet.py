"""The U-Net with a narrow code that PG2 and DPIG share, and the tower that encodes.

Written from a description of the authors' TensorFlow code (Ma et al., NIPS 2017 and CVPR 2018). The
numbers equal theirs; the 1 x 1 convolutions run before the features are enlarged, not after, which
changes nothing but the time. No normalisation, biases everywhere, no activation after a sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Final, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from augment.nets.padding import SameConv2d
from manifests.runtime.settings import Width

NUM_SCALES: Final = 5
SMALLEST: Final = 2 ** (NUM_SCALES - 1)
"""One pixel of the smallest scale is so many of the image, across and down."""

SizeOfImages = Annotated[Width, Field(multiple_of=SMALLEST)]
"""Height or width, in pixels, that every scale halves without a rest."""


def initialise(module: nn.Module) -> None:
    """Draw convolutions and linear layers anew: Xavier uniform, biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """Return a 3 x 3 convolution that keeps the size."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def rectified_pair(inputs: int, outputs: int) -> nn.Sequential:
    """Return two 3 x 3 convolutions, each with a ReLU."""
    return nn.Sequential(
        convolution(inputs, outputs), nn.ReLU(), convolution(outputs, outputs), nn.ReLU()
    )


def halving(inputs: int, outputs: int) -> nn.Sequential:
    """Return a 3 x 3 convolution to the next smaller scale, with a ReLU."""
    return nn.Sequential(SameConv2d(inputs, outputs, 3, stride=2), nn.ReLU())


def flattened(
    features: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch numbers"]:
    """Return (row, column, channel) in one axis, channels fastest, as TensorFlow flattens."""
    return features.permute(0, 2, 3, 1).flatten(1)


class ResidualPair(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.path = rectified_pair(channels, channels)

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the sum of both."""
        return features + self.path(features)


class Tower(nn.Module):
    """A residual pair at each of five scales, ``width`` channels more at every smaller one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.widths = tuple(width * (scale + 1) for scale in range(NUM_SCALES))
        self.pairs = nn.ModuleList(ResidualPair(channels) for channels in self.widths)
        self.down = nn.ModuleList(
            halving(inputs, outputs) for inputs, outputs in pairwise(self.widths)
        )

    def code_inputs(self, height: int, width: int) -> int:
        """Return how many numbers the last scale has, flattened, for images of a size."""
        return self.widths[-1] * (height // SMALLEST) * (width // SMALLEST)

    def forward(self, features: Float[Tensor, "batch width height width"]) -> list[Tensor]:
        """Return the features of every scale, the largest first."""
        scales: list[Tensor] = []
        for scale, pair in enumerate(self.pairs):
            features = pair(features)
            scales.append(features)
            if scale < len(self.down):
                features = self.down[scale](features)
        return scales

    @staticmethod
    def creation_order(prefix: str) -> Iterator[str]:
        """Yield the convolutions' names in the order in which the authors' code makes them."""
        for scale in range(NUM_SCALES):
            yield from (f"{prefix}.pairs.{scale}.path.0", f"{prefix}.pairs.{scale}.path.2")
            if scale < NUM_SCALES - 1:
                yield f"{prefix}.down.{scale}.0"


class ResidualUNet(nn.Module):
    """From maps through a code of a few numbers, beside skipping features, to an image."""

    def __init__(
        self, inputs: int, width: int, code_width: int, image_size: tuple[int, int]
    ) -> None:
        """Build the network.

        Args:
            inputs: Channels that come in.
            width: Channels of the first scale; published 128.
            code_width: Numbers of the code; published 64.
            image_size: (height, width) of the images, multiples of 16.
        """
        super().__init__()
        self.entry = nn.Sequential(convolution(inputs, width), nn.ReLU())
        self.encoder = Tower(width)
        self._smallest = (image_size[0] // SMALLEST, image_size[1] // SMALLEST)
        self.to_code = nn.Linear(self.encoder.code_inputs(*image_size), code_width)
        self.from_code = nn.Linear(code_width, width * self._smallest[0] * self._smallest[1])
        skipping = self.encoder.widths[::-1]
        channels = [
            before + beside for before, beside in zip((width, *skipping[1:]), skipping, strict=True)
        ]
        self.pairs = nn.ModuleList(ResidualPair(both) for both in channels)
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(both, outputs, 1), nn.ReLU())
            for both, outputs in zip(channels[:-1], skipping[1:], strict=True)
        )
        self.exit = convolution(channels[-1], 3)
        initialise(self)

    def forward(
        self,
        maps: Float[Tensor, "batch maps height width"],
        everywhere: Float[Tensor, "batch codes"] | None = None,
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return the image, RGB about [-1, 1]: nothing squashes it.

        Args:
            maps: What comes in.
            everywhere: Numbers that each pixel of an image has, as channels before the maps.
        """
        entered = self.entry(maps) if everywhere is None else self._entry_of(maps, everywhere)
        scales = self.encoder(entered)
        spread = self.from_code(self.to_code(flattened(scales[-1])))
        features = spread.unflatten(1, (*self._smallest, -1)).permute(0, 3, 1, 2)
        for scale, pair in enumerate(self.pairs):
            features = pair(torch.cat([features, scales.pop()], dim=1))
            if scale < len(self.up):
                features = F.interpolate(self.up[scale](features), scale_factor=2, mode="nearest")
        return self.exit(features)

    def _entry_of(
        self,
        maps: Float[Tensor, "batch maps height width"],
        everywhere: Float[Tensor, "batch codes"],
    ) -> Float[Tensor, "batch width height width"]:
        """Return what the entry says of both, without spreading the codes over all pixels.

        A 3 x 3 convolution of what is the same everywhere has nine values: within, along four
        edges and in four corners. They are those of an image of 3 x 3 pixels.
        """
        first_layer = cast("nn.Conv2d", self.entry[0])
        of_codes, of_maps = first_layer.weight.split((everywhere.shape[1], maps.shape[1]), dim=1)
        nine = F.conv2d(everywhere[:, :, None, None].expand(-1, -1, 3, 3), of_codes, padding=1)
        for axis in (2, 3):
            first, within, last = nine.split(1, dim=axis)
            sizes = list(within.shape)
            sizes[axis] = maps.shape[axis] - 2
            nine = torch.cat([first, within.expand(sizes), last], dim=axis)
        return F.relu(F.conv2d(maps, of_maps, first_layer.bias, padding=1) + nine)

    @staticmethod
    def creation_order(prefix: str) -> Iterator[str]:
        """Yield the convolutions' names in the order in which the authors' code makes them."""
        yield f"{prefix}.entry.0"
        yield from Tower.creation_order(f"{prefix}.encoder")
        for scale in range(NUM_SCALES):
            yield from (f"{prefix}.pairs.{scale}.path.0", f"{prefix}.pairs.{scale}.path.2")
            if scale < NUM_SCALES - 1:
                yield f"{prefix}.up.{scale}.0"
        yield f"{prefix}.exit"
