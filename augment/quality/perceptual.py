"""Perceptual distances: LPIPS, one on ImageNet maps, one on our own re-identification network.

LPIPS (Zhang et al. 2018) is taken from the authors' package ``lpips``, version 0.1 of the linear
weights, AlexNet; the published tables of the GFLA family use exactly this. The others need
nothing but a network that an installed package brings, or one written by ``reid export``; they are
no LPIPS and not called so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from augment.objectives.imagenet_features import (
    EARLY_LAYERS,
    ImageNetNetwork,
    perceptual_distance,
)
from manifests.compute.exported_networks import load_network
from manifests.compute.external_weights import optional_module, read_state_dict, weights_file
from manifests.runtime.console import UserError

ALEXNET_ADDRESS = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"

Distance = Callable[
    [Float[Tensor, "batch 3 height width"], Float[Tensor, "batch 3 height width"]],
    Float[Tensor, " batch"],
]
Features = Callable[[Float[Tensor, "batch 3 height width"]], Float[Tensor, "batch features"]]


def as_network_input(
    images: UInt8[Tensor, "batch 3 height width"],
    mask: Bool[Tensor, "batch height width"] | None = None,
) -> Float[Tensor, "batch 3 height width"]:
    """Return the images in [-1, 1]; outside a mask 0, a medium grey, as the GFLA evaluator does.

    >>> as_network_input(torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2)).tolist()
    [[[[-1.0, 1.0]]]]
    """
    scaled = images.float() / 127.5 - 1.0
    return scaled if mask is None else scaled * mask[:, None]


def load_lpips(setting: str | None, device: torch.device | str) -> Distance:
    """Return LPIPS v0.1 on AlexNet; its images are in [-1, 1].

    Args:
        setting: A file of torchvision's AlexNet weights (``alexnet-owt-7be5be79.pth``),
            ``download``, or None for what an earlier download left on this machine. The linear
            weights on top come with the package.
        device: Where it runs.

    Raises:
        UserError: If ``lpips`` is not installed, or AlexNet's weights cannot be had.
    """
    package = optional_module("lpips", "lpips")
    state = read_state_dict(weights_file("alexnet", ALEXNET_ADDRESS, setting), "--alexnet")
    with warnings.catch_warnings():
        # The package passes torchvision an argument that torchvision has renamed.
        warnings.filterwarnings("ignore", module="torchvision")
        network: Any = package.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
    _fill_alexnet(network.net, state)
    network.eval().to(device)

    def distance(first: Tensor, second: Tensor) -> Tensor:
        with torch.inference_mode():
            return network(first, second).flatten()

    return distance


def _fill_alexnet(trunk: Any, state: dict[str, Tensor]) -> None:
    """Copy torchvision's ``features.<i>`` into the package's slices, whose names keep ``<i>``."""
    slices = trunk.state_dict()
    ours = {name: f"features.{name.split('.', 1)[1]}" for name in slices}
    missing = sorted(name for name in ours.values() if name not in state)
    if missing:
        raise UserError(f"--alexnet: the file lacks {missing[0]}; expected torchvision's AlexNet")
    trunk.load_state_dict({name: state[theirs] for name, theirs in ours.items()})


def load_reid(path: Path, device: torch.device | str) -> Features:
    """Return the features of a network written by ``reid export``.

    The program takes N x 3 x H x W float32 in [-1, 1] and gives N x D.

    Raises:
        UserError: If the file is missing or no exported program.
    """
    network = load_network(path, device, "--reid")

    def features(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return network(images)

    return features


def imagenet_distance(
    network: ImageNetNetwork,
    generated: UInt8[Tensor, "batch 3 height width"],
    target: UInt8[Tensor, "batch 3 height width"],
    mask: Bool[Tensor, "batch height width"] | None = None,
) -> Float[Tensor, " batch"]:
    """Return ``perceptual_distance`` of the early maps of each pair, in [0, 2].

    The maps are those at a half, a quarter and an eighth of the height, of the images at their own
    size.

    Args:
        network: Of ImageNet features.
        generated: RGB, 0 to 255.
        target: RGB, 0 to 255.
        mask: Weighs each position of a map by the part of it that the mask covers.
    """
    with torch.inference_mode():
        first, second = (
            dict(
                zip(
                    EARLY_LAYERS,
                    network.maps(as_network_input(images), len(EARLY_LAYERS)),
                    strict=True,
                )
            )
            for images in (generated, target)
        )
        return perceptual_distance(first, second, mask)


def cosine_distance(
    first: Float[Tensor, "batch features"], second: Float[Tensor, "batch features"]
) -> Float[Tensor, " batch"]:
    """Return one minus the cosine of each pair of vectors, in [0, 2]: the "re-ID distance".

    >>> cosine_distance(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])).tolist()
    [1.0]
    """
    return 1.0 - F.cosine_similarity(first.double(), second.double(), dim=1)
