"""Activations of a re-identification network where VGG19's are not to be had.

The network is a file of ``reid export``. Losses ask for VGG19's layers by name; each stands for a
resolution, and gets the last rectified activation of that resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, fx

from manifests.compute.exported_networks import load_network, try_network
from manifests.runtime.console import UserError

SETTING: Final = "--config.features"

OUTPUT: Final = "output"
"""The layer that stands for the network's own output, the features of a re-ID network."""

RECTIFIERS: Final = (
    *("relu", "relu_", "relu6", "relu6_", "hardtanh", "hardtanh_"),
    *("leaky_relu", "leaky_relu_", "hardswish", "silu", "gelu"),
)


class ExportedFeatures:
    """The activations of one frozen network, read when they are first asked for.

    Not an ``nn.Module`` on purpose, as ``Features``.
    """

    def __init__(self, path: str, layers: tuple[str, ...], setting: str = SETTING) -> None:
        """Name the network and the layers.

        Args:
            path: A file of ``reid export``, made for the size of the images.
            layers: VGG19's names, ``relu<block>_<convolution>``: block b stands for height and
                width divided by 2^(b-1), or for the nearest resolution that the network has; or
                ``OUTPUT`` for what the network itself puts out.
            setting: The flag that names the file, for messages.
        """
        self._path, self._setting = Path(path), setting
        self._layers = layers
        self._by_device: dict[torch.device, Callable[[Tensor], Sequence[Tensor]]] = {}

    def __call__(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> dict[str, Float[Tensor, "batch channels rows columns"]]:
        """Return the activations, by layer name, of RGB images in [-1, 1]; gradients pass.

        Raises:
            UserError: If the file is missing, no exported network, or made for other images.
        """
        # Not every operation of an exported network follows autocast.
        with torch.autocast(images.device.type, enabled=False):
            activations = self._on(images)(images.float())
        return dict(zip(self._layers, activations, strict=True))

    def _on(self, images: Tensor) -> Callable[[Tensor], Sequence[Tensor]]:
        device = images.device
        if device not in self._by_device:
            network = load_network(self._path, device, self._setting)
            try_network(network, images, self._setting, self._path)
            where = f"{self._setting}: {self._path}"
            self._by_device[device] = _cut(network, self._layers, images.shape[-2], where)
        return self._by_device[device]


def _cut(
    network: fx.GraphModule, layers: tuple[str, ...], height: int, where: str
) -> Callable[[Tensor], Sequence[Tensor]]:
    """Return the beginning of a network, which gives the activations for these layers."""
    heights = {node: int(_shape(node)[2]) for node in network.graph.nodes if _is_activation(node)}
    if not heights:
        raise UserError(f"{where} has no rectified activations; expected a convolutional network")
    outputs: list[fx.Node] = []
    for layer in layers:
        if layer == OUTPUT:
            (end,) = network.graph.find_nodes(op="output")
            outputs.append(end.all_input_nodes[0])
            continue
        expected = height / 2 ** (int(layer.removeprefix("relu").partition("_")[0]) - 1)
        nearest = min(heights.values(), key=lambda rows: abs(rows - expected))
        outputs.append(max(node for node, rows in heights.items() if rows == nearest))
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in network.graph.nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
        if node == max(outputs):
            break
    graph.output(tuple(copies[node] for node in outputs))
    return fx.GraphModule(network, graph)


def _is_activation(node: fx.Node) -> bool:
    rectifies = getattr(node.target, "_opname", None) in RECTIFIERS
    return node.op == "call_function" and rectifies and len(_shape(node)) == 4


def _shape(node: fx.Node) -> torch.Size:
    value = node.meta.get("val")
    return value.shape if isinstance(value, Tensor) else torch.Size()
