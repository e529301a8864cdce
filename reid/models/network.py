"""The network of a run: a backbone by name, its head, and the normalisation of its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn

from manifests.runtime.console import UserError
from reid.data.augmentation import IMAGENET, Normalisation
from reid.models.backbone import BackboneOptions, SourceWithHeads, source_of, split_name
from reid.models.head import BackboneWithHead, Neck


@dataclass(frozen=True, slots=True)
class ReidNetwork:
    """A network, and how its images are normalised."""

    module: nn.Module
    """Normalised images to features in evaluation mode; in training to logits, or (logits,
    features)."""
    normalisation: Normalisation = IMAGENET

    def to(self, device: torch.device) -> Self:
        """Move the network to a device and return it."""
        self.module.to(device)
        return self


def build_network(
    model: str, options: BackboneOptions, *, neck: Neck, with_features: bool
) -> ReidNetwork:
    """Return a network with fresh weights, drawn from torch's global generator.

    A network that brings its own classifier keeps it, unless a neck is put before one of ours.

    Args:
        model: Name of its backbone, as ``--model`` takes it.
        options: What it is built for.
        neck: What stands between features and classifier; with one, features come in any case.
        with_features: In training give logits and features, not logits alone.

    Raises:
        UserError: If there is no such network, or it has no such neck, stride or size.
    """
    source, (_, name) = source_of(model), split_name(model)
    if neck == "none" and isinstance(source, SourceWithHeads):
        return ReidNetwork(source.build_with_head(name, options, with_features=with_features))
    backbone = source.build(name, options)
    module = BackboneWithHead(
        backbone.module,
        backbone.num_features,
        options.num_people,
        neck=neck,
        with_features=with_features or neck == "bnneck",
    )
    return ReidNetwork(module, backbone.normalisation)


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


def network_of(recipe: Mapping[str, Any], num_people: int) -> ReidNetwork:
    """Return the network that a run's recipe describes, with fresh weights.

    Recipes written before there was a choice of neck and stride name neither.
    """
    options = BackboneOptions(
        num_people, recipe["height"], recipe["width"], recipe.get("last_stride", 2)
    )
    return build_network(
        recipe["model"], options, neck=recipe.get("neck", "none"), with_features=False
    )
