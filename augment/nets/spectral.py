"""The residual discriminator with spectral normalisation of GFLA and DPTN.

Spectral normalisation: Miyato et al. 2018. Each call in training mode makes one step of power
iteration, whose vectors are buffers: they belong to the training state, and a training that is
resumed from its state goes on bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from augment.nets.preactivation import SLOPE, initialise

_LEGACY_NAMES: Final = {
    "weight_orig": "parametrizations.weight.original",
    "weight_u": "parametrizations.weight.0._u",
    "weight_v": "parametrizations.weight.0._v",
}


def is_discriminator(weights: Mapping[str, Tensor]) -> bool:
    """Return whether an authors' file holds a discriminator: only there are spectral norms."""
    leaves = tuple(f".{leaf}" for names in _LEGACY_NAMES.items() for leaf in names)
    return any(name.endswith(leaves) for name in weights)


def modern_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the names of ``parametrizations.spectral_norm``.

    The older hook, with which the authors saved, stores ``weight_orig``, ``weight_u`` and
    ``weight_v``; the numbers are the same. Names that are modern already stay.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in weights.items():
        layer, _, leaf = name.rpartition(".")
        renamed[f"{layer}.{_LEGACY_NAMES.get(leaf, leaf)}"] = value
    return renamed


def legacy_name(name: str) -> str:
    """Return the name that the older hook gives a tensor, the authors' one."""
    for legacy, modern in _LEGACY_NAMES.items():
        if name.endswith(modern):
            return name.removesuffix(modern) + legacy
    return name


class SpectralDiscriminator(nn.Module):
    """A map of scores, one per 8 x 8 pixels; trained by least squares."""

    def __init__(self, width: int, *, rectifies_pixels: bool) -> None:
        """Build three blocks of ``width``, 2 and 4 times ``width`` channels.

        Args:
            width: Channels of the first block; published 32.
            rectifies_pixels: Whether raw pixels pass a leaky ReLU first, as in GFLA; not in DPTN.
        """
        super().__init__()
        self.block0 = _Block(3, width, width, rectifies=rectifies_pixels)
        self.encoder0 = _Block(width, 2 * width, width)
        self.encoder1 = _Block(2 * width, 4 * width, 2 * width)
        self.activation = nn.LeakyReLU(SLOPE)
        self.conv = nn.Conv2d(4 * width, 1, 1)
        initialise(self)
        for layer in list(self.modules()):
            if isinstance(layer, nn.Conv2d):
                spectral_norm(layer)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 1 rows columns"]:
        """Return scores near 1 for real images and near 0 for generated ones."""
        features = self.encoder1(self.encoder0(self.block0(image)))
        return self.conv(self.activation(features))


class _Block(nn.Module):
    """Half the height and width, beside average pooling."""

    def __init__(self, inputs: int, outputs: int, hidden: int, *, rectifies: bool = True) -> None:
        super().__init__()
        self.model = nn.Sequential(
            *([nn.LeakyReLU(SLOPE)] if rectifies else []),
            nn.Conv2d(inputs, hidden, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(hidden, outputs, 4, stride=2, padding=1),
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) + self.shortcut(x)
