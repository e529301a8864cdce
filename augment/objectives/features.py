"""A frozen VGG19 whose activations serve as features in losses.

Architecture: Simonyan and Zisserman 2015, configuration E, no batch normalisation; layer names
``relu<block>_<convolution>`` count from 1. ImageNet weights are torchvision's (BSD-3-Clause).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Final, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from augment.objectives.exported_features import ExportedFeatures
from manifests.compute.normalisation import IMAGENET_MEAN, IMAGENET_STD
from manifests.runtime.console import UserError

FeatureNetwork = str
"""Which network features come from: ``vgg19`` (ImageNet weights, downloaded once or found in the
local torch hub folder), ``vgg19-random`` (the same layers with seeded random weights, a stand-in
that runs anywhere), the path of a VGG19 state dict (``.pth`` or ``.safetensors``), the path of a
re-ID network written by ``reid export`` (``.pt2``), or ``none``."""

BUILT_IN: Final = ("vgg19", "vgg19-random", "none")

FeatureMaps = Callable[
    [Float[Tensor, "batch 3 height width"]],
    dict[str, Float[Tensor, "batch channels rows columns"]],
]
"""From RGB images in [-1, 1] to activations by layer name."""

BLOCKS: Final = (2, 2, 4, 4, 4)
"""Convolutions per block; a 2 x 2 max pooling lies between blocks."""

WIDTHS: Final = (64, 128, 256, 512, 512)

_RANDOM_SEED: Final = 19


def _convolutions() -> dict[str, tuple[int, int, int]]:
    """Return layer name -> (place in torchvision's ``features``, inputs, outputs), in order."""
    layers: dict[str, tuple[int, int, int]] = {}
    place, inputs = 0, 3
    for block, (count, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True), start=1):
        for convolution in range(1, count + 1):
            layers[f"relu{block}_{convolution}"] = (place, inputs, width)
            place, inputs = place + 2, width
        place += 1
    return layers


CONVOLUTIONS: Final = _convolutions()


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
        unknown = [layer for layer in layers if layer not in CONVOLUTIONS]
        if unknown or not layers:
            raise ValueError(f"layers {layers}: expected names among {tuple(CONVOLUTIONS)}")
        names = tuple(CONVOLUTIONS)
        depth = 1 + max(names.index(layer) for layer in layers)
        self.setting = setting
        self.layers = layers
        self._plan = {name: CONVOLUTIONS[name] for name in names[:depth]}
        self._imagenet_normalised = imagenet_normalised
        self._by_device: dict[torch.device, dict[str, Tensor]] = {}

    def __call__(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> dict[str, Float[Tensor, "batch channels rows columns"]]:
        """Return the requested activations, by layer name, of RGB images in [-1, 1].

        Raises:
            UserError: If the weights cannot be had, or a file does not hold VGG19's convolutions.
        """
        weights = self._on(images.device)
        x = (images + 1) / 2 if self._imagenet_normalised else images
        if self._imagenet_normalised:
            x = (x - weights["mean"]) / weights["std"]
        found: dict[str, Tensor] = {}
        for name, (place, _, _) in self._plan.items():
            if name.endswith("_1") and place > 0:
                x = F.max_pool2d(x, 2)
            x = F.conv2d(x, weights[f"{place}.weight"], weights[f"{place}.bias"], padding=1)
            x = torch.relu(x)
            if name in self.layers:
                found[name] = x
        return found

    def _on(self, device: torch.device) -> dict[str, Tensor]:
        if device not in self._by_device:
            weights = _weights(self.setting, len(self._plan))
            self._by_device[device] = {
                name: weights[name].detach().to(device, torch.float32)
                for place, _, _ in self._plan.values()
                for name in (f"{place}.weight", f"{place}.bias")
            } | {
                "mean": torch.tensor(IMAGENET_MEAN, device=device)[:, None, None],
                "std": torch.tensor(IMAGENET_STD, device=device)[:, None, None],
            }
        return self._by_device[device]


def load_features(
    setting: FeatureNetwork, layers: tuple[str, ...], *, imagenet_normalised: bool
) -> FeatureMaps | None:
    """Return the features that a setting names; None for ``none``."""
    if setting == "none":
        return None
    if setting.endswith(".pt2"):
        return ExportedFeatures(setting, layers)
    return Features(setting, layers, imagenet_normalised=imagenet_normalised)


def _weights(setting: FeatureNetwork, depth: int) -> dict[str, Tensor]:
    if setting == "vgg19":
        return _checked(_imagenet_weights(), setting)
    if setting == "vgg19-random":
        return random_weights(depth)
    return _checked(_read(Path(setting)), setting)


def random_weights(depth: int = len(CONVOLUTIONS)) -> dict[str, Tensor]:
    """Return seeded He-normal weights (He et al. 2015, equation 10) with biases 0.

    The first convolutions are the same at every ``depth``.
    """
    source = torch.Generator().manual_seed(_RANDOM_SEED)
    weights: dict[str, Tensor] = {}
    for place, inputs, outputs in list(CONVOLUTIONS.values())[:depth]:
        deviation = math.sqrt(2 / (9 * inputs))
        weights[f"{place}.weight"] = deviation * torch.randn(
            outputs, inputs, 3, 3, generator=source
        )
        weights[f"{place}.bias"] = torch.zeros(outputs)
    return weights


def _imagenet_weights() -> Mapping[str, Tensor]:
    from torchvision.models import VGG19_Weights

    fetch = cast("Callable[..., Mapping[str, Tensor]]", VGG19_Weights.IMAGENET1K_V1.get_state_dict)
    try:
        return fetch(progress=False, check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError) as error:
        url = VGG19_Weights.IMAGENET1K_V1.url
        raise UserError(
            f"feature network 'vgg19': could not download {url} nor find it in "
            f"{torch.hub.get_dir()}/checkpoints ({error}); expected a network connection, the file "
            "there, or the setting 'vgg19-random', 'none' or a path"
        ) from error


def _read(path: Path) -> object:
    if path.suffix not in (".pth", ".pt", ".safetensors"):
        raise UserError(
            f"feature network '{path}': expected 'vgg19', 'vgg19-random', 'none' or the path of a "
            ".pth, .safetensors or .pt2 file"
        )
    if not path.is_file():
        raise UserError(f"feature network: no file {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, "cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError, SafetensorError) as error:
        # torch's own text advises to run whatever code the file holds.
        raise UserError(
            f"feature network: {path} cannot be read ({type(error).__name__}), expected a state "
            "dict of tensors"
        ) from error


def _checked(weights: object, where: str) -> dict[str, Tensor]:
    """Return the convolutions' tensors without prefix, of the right shapes."""
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise UserError(f"feature network '{where}': expected a state dict of tensors")
    bare = {
        name.removeprefix("features."): value
        for name, value in cast("dict[str, Tensor]", weights).items()
    }
    for place, inputs, outputs in CONVOLUTIONS.values():
        expected = {f"{place}.weight": (outputs, inputs, 3, 3), f"{place}.bias": (outputs,)}
        for name, shape in expected.items():
            found = tuple(bare[name].shape) if name in bare else "no such tensor"
            if found != shape:
                raise UserError(
                    f"feature network '{where}': features.{name}: expected shape {shape}, "
                    f"found {found}"
                )
    return bare
