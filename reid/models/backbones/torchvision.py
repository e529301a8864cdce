"""torchvision's networks as backbones: MobileNetV2 and the ResNets, without their classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

from torch import nn

from reid.models.backbone import Backbone, BackboneOptions
from reid.models.torchreid_adapter import keep_last_size

PACKAGE: Final = "torchvision"

_CLASSIFIERS: Final[Mapping[str, str]] = {
    "mobilenet_v2": "classifier",
    "resnet18": "fc",
    "resnet34": "fc",
    "resnet50": "fc",
    "resnet101": "fc",
}
"""The child that classifies, by network."""


def names() -> list[str]:
    """Return the networks whose features are what their one classifier sees."""
    return list(_CLASSIFIERS)


def build(name: str, options: BackboneOptions) -> Backbone:
    """Return a network without its classifier."""
    models: Any = import_module("torchvision.models")
    module = models.get_model(name, weights=None)
    head = getattr(module, _CLASSIFIERS[name])
    # MobileNetV2 drops out features before it classifies them; re-ID heads do not.
    (linear,) = (part for part in head.modules() if isinstance(part, nn.Linear))
    setattr(module, _CLASSIFIERS[name], nn.Identity())
    if options.last_stride == 1:
        if name == "mobilenet_v2":
            module.features[14].conv[1][0].stride = (1, 1)
        else:
            keep_last_size(module)
    return Backbone(module, linear.in_features)
