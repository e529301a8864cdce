"""Weights that a training starts from: files of others, read without running anything in them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from manifests.compute.external_weights import download_weights, read_state_dict
from manifests.runtime.console import UserError
from reid.models.network import BNNeck


def download_imagenet(model: str) -> Path:
    """Return torchvision's ImageNet weights of a network, from torch's cache or the network.

    The first published ones (``IMAGENET1K_V1``), which re-ID papers start from.

    Raises:
        UserError: If torchvision has no network of that name, or the download fails.
    """
    models: Any = import_module("torchvision.models")
    if model not in models.list_models():
        raise UserError(
            f"torchvision has no ImageNet weights of '{model}'; expected --weights FILE"
        )
    url: str = models.get_model_weights(model)["IMAGENET1K_V1"].url
    return download_weights(url, "--weights torchvision", "give --weights FILE")


def start_from(network: nn.Module, path: Path) -> list[str]:
    """Load the weights that fit by name and shape; return the names of those that did not.

    Reads ``.safetensors`` and state files of torch, torchreid's own included. Weights of a plain
    network go into the backbone of one with a neck.

    Raises:
        UserError: If the file cannot be read or fewer than half of the tensors fit.
    """
    found = read_state_dict(path, "--weights")
    own = network.state_dict()
    if isinstance(network, BNNeck) and not any(name.startswith("backbone.") for name in found):
        found = {f"backbone.{name}": tensor for name, tensor in found.items()}
    fitting = {
        name: tensor
        for name, tensor in found.items()
        if name in own and own[name].shape == tensor.shape
    }
    if len(fitting) < len(own) / 2:
        raise UserError(
            f"{path}: {len(fitting)} of {len(own)} tensors fit the network; expected weights of "
            "the same --model"
        )
    network.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))
