"""Frozen networks whose activations serve as features in losses, a VGG19 first of all.

Architecture: Simonyan and Zisserman 2015, configuration E, no batch normalisation; layer names
``relu<block>_<convolution>`` count from 1. ImageNet weights are torchvision's (BSD-3-Clause).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from augment.objectives.exported_features import SETTING, ExportedFeatures
from augment.objectives.imagenet_features import ImageNetFeatures, sha256_of_imagenet
from manifests.compute.exported_networks import sha256_of_network
from manifests.compute.external_weights import download_weights, read_state_dict
from manifests.compute.imagenet import IMAGENET, PACKAGED
from manifests.compute.normalisation import Normalise
from manifests.io import sha256_file
from manifests.runtime.console import UserError
from manifests.runtime.files import check_file

FeatureNetwork = str
"""Which network features come from: ``vgg19`` (ImageNet weights, downloaded once or found in the
local torch hub folder), ``vgg19-random`` (the same layers with seeded random weights, which
need no file), ``imagenet`` or the name of one of its networks (ImageNet weights that an installed
package brings), the path of a VGG19 state dict (``.pth`` or ``.safetensors``), the path of a re-ID
network written by ``reid export`` (``.pt2``), or ``none``."""

BUILT_IN: Final = ("vgg19", "vgg19-random", "none")

FeatureMaps = Callable[
    [Float[Tensor, "batch 3 height width"]],
    dict[str, Float[Tensor, "batch channels rows columns"]],
]
"""From RGB images in [-1, 1] to activations by layer name."""

NUM_CONVOLUTIONS: Final = (2, 2, 4, 4, 4)
"""By block; a 2 x 2 max pooling lies between blocks."""

_RANDOM_SEED: Final = 19


def _activations() -> dict[str, int]:
    indices: dict[str, int] = {}
    index = 1
    for block, count in enumerate(NUM_CONVOLUTIONS, start=1):
        for convolution in range(1, count + 1):
            indices[f"relu{block}_{convolution}"] = index
            index += 2
        index += 1
    return indices


ACTIVATIONS: Final = _activations()
"""Layer name -> its index in torchvision's ``features``, in order."""


class Features:
    """The features of one frozen network, read when they are first asked for.

    Not an ``nn.Module`` on purpose: whoever holds it neither trains, saves nor averages it, and
    who only makes images needs no file of it. The weights follow the images: they are copied once
    to every device that images come from.
    """

    def __init__(
        self, setting: FeatureNetwork, layers: tuple[str, ...], *, imagenet_normalised: bool
    ) -> None:
        """Name the network and the layers.

        Args:
            setting: Where the weights come from; not ``none``.
            layers: Names of the layers to return.
            imagenet_normalised: Whether images are first brought to ImageNet's statistics;
                otherwise they enter in [-1, 1] as they are.
        """
        unknown = [layer for layer in layers if layer not in ACTIVATIONS]
        if unknown or not layers:
            raise ValueError(f"layers {layers}: expected names among {tuple(ACTIVATIONS)}")
        self.setting = setting
        self.layers = layers
        self._imagenet_normalised = imagenet_normalised
        self._by_device: dict[torch.device, nn.Module] = {}

    def __call__(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> dict[str, Float[Tensor, "batch channels rows columns"]]:
        """Return the requested activations, by layer name, of RGB images in [-1, 1].

        Raises:
            UserError: If the weights cannot be had, or a file does not hold VGG19's convolutions.
        """
        device = images.device
        if device not in self._by_device:
            self._by_device[device] = self._load().to(device)
        return self._by_device[device](images)

    def _load(self) -> nn.Module:
        extractor = _extractor(self.setting, self.layers)
        return nn.Sequential(Normalise(), extractor) if self._imagenet_normalised else extractor


def _extractor(setting: FeatureNetwork, layers: tuple[str, ...]) -> nn.Module:
    """Return the frozen network up to the last layer asked for, from images to activations."""
    from torchvision.models.feature_extraction import create_feature_extractor

    num_layers = 1 + max(ACTIVATIONS[layer] for layer in layers)
    network = _vgg19(num_layers)
    weights = random_weights(num_layers) if setting == "vgg19-random" else _weights(setting)
    network.load_state_dict({name: weights[name] for name in network.state_dict()}, assign=True)
    network.float().requires_grad_(False)
    return create_feature_extractor(network, {str(ACTIVATIONS[name]): name for name in layers})


def _vgg19(num_layers: int | None = None) -> nn.Sequential:
    """Return the first layers of VGG19's convolutional part, without memory for weights."""
    from torchvision.models import vgg19

    with torch.device("meta"):
        layers = list(vgg19(weights=None, init_weights=False).features.children())
    return nn.Sequential(*layers[:num_layers])


def load_features(
    setting: FeatureNetwork, layers: tuple[str, ...], *, imagenet_normalised: bool
) -> FeatureMaps | None:
    """Return the features that a setting names; None for ``none``."""
    if setting == "none":
        return None
    if setting.endswith(".pt2"):
        return ExportedFeatures(setting, layers)
    if _is_packaged(setting):
        return ImageNetFeatures(setting, layers)
    return Features(setting, layers, imagenet_normalised=imagenet_normalised)


def sha256_of_features(setting: FeatureNetwork) -> str | None:
    """Return the digest of the weights that features come from; None for ``BUILT_IN``.

    Raises:
        UserError: If there is no such file or package.
    """
    if setting in BUILT_IN:
        return None
    if _is_packaged(setting):
        return sha256_of_imagenet(setting)
    if setting.endswith(".pt2"):
        return sha256_of_network(setting, SETTING)
    path, where = Path(setting), f"{SETTING} '{setting}'"
    _check_ending(path, where)
    check_file(path, "VGG19's weights", SETTING)
    return sha256_file(path)


def _is_packaged(setting: FeatureNetwork) -> bool:
    return setting == IMAGENET or setting in PACKAGED


def random_weights(num_layers: int | None = None) -> dict[str, Tensor]:
    """Return seeded He-normal weights (He et al. 2015, equation 10) with biases 0.

    Those of the first layers are the same for any ``num_layers``.
    """
    source = torch.Generator().manual_seed(_RANDOM_SEED)
    weights: dict[str, Tensor] = {}
    for name, value in _vgg19(num_layers).state_dict().items():
        if value.ndim == 1:
            weights[name] = torch.zeros(value.shape)
        else:
            deviation = math.sqrt(2 / (9 * value.shape[1]))
            weights[name] = deviation * torch.randn(value.shape, generator=source)
    return weights


def _weights(setting: FeatureNetwork) -> dict[str, Tensor]:
    """Return the convolutions' tensors of ImageNet or a file, of the right shapes."""
    where = f"feature network '{setting}'"
    path = _imagenet_file(where) if setting == "vgg19" else Path(setting)
    _check_ending(path, where)
    weights = {
        name.removeprefix("features."): value
        for name, value in read_state_dict(path, where).items()
    }
    for name, value in _vgg19().state_dict().items():
        found = tuple(weights[name].shape) if name in weights else "no such tensor"
        if found != tuple(value.shape):
            raise UserError(
                f"{where}: features.{name}: expected shape {tuple(value.shape)}, found {found}"
            )
    return weights


def _check_ending(path: Path, where: str) -> None:
    if path.suffix not in (".pth", ".pt", ".safetensors"):
        raise UserError(
            f"{where}: expected 'vgg19', 'vgg19-random', 'imagenet', 'none' or the path of a "
            ".pth, .safetensors or .pt2 file"
        )


def _imagenet_file(where: str) -> Path:
    from torchvision.models import VGG19_Weights

    instead = "put the file there, or set 'imagenet', 'vgg19-random', 'none' or the path of one"
    return download_weights(VGG19_Weights.IMAGENET1K_V1.url, where, instead)
