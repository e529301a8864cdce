"""Weights that a training starts from: files of others, read without running anything in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal

from torch import Tensor, nn

from manifests.compute.external_weights import download_weights, read_state_dict
from manifests.runtime.console import UserError
from reid.models.backbone import DEFAULT_SOURCE, split_name
from reid.models.head import BackboneWithHead

_BACKBONE: Final = "backbone."
_PREFIXES: Final = (_BACKBONE, "model.", "base.", "encoder.")
"""What others put before the names of a backbone."""


def download_imagenet(model: str) -> Path:
    """Return torchvision's ImageNet weights of a network, from torch's cache or the network.

    The first published ones (``IMAGENET1K_V1``), which re-ID papers start from.

    Raises:
        UserError: If torchvision has no network of that name, or the download fails.
    """
    models: Any = import_module("torchvision.models")
    source, name = split_name(model)
    if source not in {DEFAULT_SOURCE, "torchvision"} or name not in models.list_models():
        raise UserError(
            f"torchvision has no ImageNet weights of '{model}'; expected --weights FILE"
        )
    url: str = models.get_model_weights(name)["IMAGENET1K_V1"].url
    return download_weights(url, "--weights torchvision", "give --weights FILE")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What of a file a network took."""

    skipped: list[str]
    """Names of the network's tensors that are left as drawn, sorted."""
    by: Literal["name", "position"]


def start_from(network: nn.Module, path: Path) -> Loaded:
    """Load the weights that fit by name and shape, or a whole backbone's by their positions.

    Reads ``.safetensors`` and state files of torch, torchreid's own included. Weights of a plain
    network go into the backbone of one with a head of ours, those of a backbone with a head of
    others' into a plain network. Where names do not fit, as those of torchvision's older
    MobileNetV2, all shapes of the backbone have to, in their order.

    Raises:
        UserError: If the file cannot be read, or fewer than half of the tensors fit by name and
            the shapes differ.
    """
    found = read_state_dict(path, "--weights")
    own = network.state_dict()
    # Of equal ones the first: names as they are, where they fit.
    fitting = max((_fitting(names, own) for names in _renamed(found, network)), key=len)
    by: Literal["name", "position"] = "name"
    if len(fitting) < len(own) / 2 and isinstance(network, BackboneWithHead):
        fitting, by = _by_position(found, own), "position"
    if not fitting or len(fitting) < len(own) / 2:
        raise UserError(
            f"--weights {path}: {len(fitting)} of {len(own)} tensors fit the network; expected "
            "weights of the same --model"
        )
    network.load_state_dict(fitting, strict=False)
    return Loaded(sorted(set(own) - set(fitting)), by)


def _renamed(found: Mapping[str, Tensor], network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Give a file's tensors under its own names, and under those that others' heads hide."""
    yield dict(found)
    added = _BACKBONE if isinstance(network, BackboneWithHead) else ""
    for prefix in ("", *_PREFIXES):
        inner = {name: value for name, value in found.items() if name.startswith(prefix)}
        yield {f"{added}{name.removeprefix(prefix)}": value for name, value in inner.items()}


def _fitting(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in found.items()
        if name in own and own[name].shape == tensor.shape
    }


def _by_position(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the backbone's tensors from a file that lists all of them first; none if not so."""
    names = [name for name in own if name.startswith(_BACKBONE)]
    tensors = list(found.values())[: len(names)]
    if [own[name].shape for name in names] != [tensor.shape for tensor in tensors]:
        return {}
    return dict(zip(names, tensors, strict=True))
