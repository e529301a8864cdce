"""The network of a run: torchreid's, with the changes of the strong baseline where asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from manifests.runtime.console import UserError
from reid.models import torchreid_adapter

Neck = Literal["none", "bnneck"]


class BNNeck(nn.Module):
    """A network whose features pass through batch normalisation before they are classified.

    Luo et al. 2019, "Bag of tricks", section 3.5: metric losses see the features before the
    normalisation, classifier and retrieval those after it; its bias stays zero and the classifier
    has none.
    """

    def __init__(self, backbone: nn.Module, num_people: int) -> None:
        super().__init__()
        classifier = getattr(backbone, "classifier", None)
        if not isinstance(classifier, nn.Linear):
            raise UserError(
                "--neck bnneck needs a network with one feature and one classifier, as osnet and "
                f"resnet; found {type(backbone).__name__}"
            )
        self.backbone = backbone
        backbone.classifier = nn.Identity()
        self.neck = nn.BatchNorm1d(classifier.in_features)
        self.neck.bias.requires_grad = False
        self.classifier = nn.Linear(classifier.in_features, num_people, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> (
        Float[Tensor, "batch width"]
        | tuple[Float[Tensor, "batch people"], Float[Tensor, "batch width"]]
    ):
        """Return the normalised features, in training logits and plain features."""
        if not self.training:
            return self.neck(self.backbone(images))
        _, features = self.backbone(images)
        return self.classifier(self.neck(features)), features


def build_network(
    model: str, num_people: int, *, neck: Neck, last_stride: int, with_features: bool
) -> nn.Module:
    """Return a network with fresh weights, drawn from torch's global generator.

    In training it returns logits; ``with_features`` or with a neck, logits and features.

    Raises:
        UserError: If torchreid has no such network, or it has no such neck or stride.
    """
    with_features = with_features or neck == "bnneck"
    network = torchreid_adapter.build_model(
        model, num_people, "triplet" if with_features else "softmax"
    )
    if last_stride == 1:
        torchreid_adapter.keep_last_size(network)
    return BNNeck(network, num_people) if neck == "bnneck" else network


def check_size(network: nn.Module, model: str, height: int, width: int) -> None:
    """Check that a network takes images of a size, by one image in evaluation mode.

    Raises:
        UserError: If it does not; ``model`` is its name there.
    """
    trains = network.training
    network.eval()
    try:
        with torch.no_grad():
            network(torch.zeros(1, 3, height, width))
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"--model {model}: takes no images of {height} x {width} ({error}); expected another "
            "--height or --width"
        ) from error
    finally:
        network.train(trains)


def network_of(recipe: Mapping[str, Any], num_people: int) -> nn.Module:
    """Return the network that a run's recipe describes, with fresh weights.

    Recipes written before there was a choice of neck and stride name neither.
    """
    return build_network(
        recipe["model"],
        num_people,
        neck=recipe.get("neck", "none"),
        last_stride=recipe.get("last_stride", 2),
        with_features=False,
    )
