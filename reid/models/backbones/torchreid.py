"""torchreid's networks as backbones; they can also keep the classifiers that they bring."""

from __future__ import annotations

from typing import Final

from torch import nn

from manifests.runtime.console import UserError
from reid.models import torchreid_adapter
from reid.models.backbone import Backbone, BackboneOptions

PACKAGE: Final = "torchreid"


def names() -> list[str]:
    """Return the names of torchreid's networks.

    Raises:
        UserError: If torchreid is missing, incomplete, or of another version.
    """
    return torchreid_adapter.model_names()


def build(name: str, options: BackboneOptions) -> Backbone:
    """Return a network without its classifier.

    Raises:
        UserError: If it has several features or classifiers, or cannot have the last stride.
    """
    module = build_with_head(name, options, with_features=False)
    classifier = getattr(module, "classifier", None)
    if not isinstance(classifier, nn.Linear):
        raise UserError(
            "--neck bnneck needs a network with one feature and one classifier, as osnet and "
            f"resnet; found {type(module).__name__}"
        )
    module.classifier = nn.Identity()
    return Backbone(module, classifier.in_features)


def build_with_head(name: str, options: BackboneOptions, *, with_features: bool) -> nn.Module:
    """Return a network as torchreid builds it.

    Raises:
        UserError: If it cannot have the last stride.
    """
    module = torchreid_adapter.build_model(
        name, options.num_people, "triplet" if with_features else "softmax"
    )
    if options.last_stride == 1:
        torchreid_adapter.keep_last_size(module)
    return module
