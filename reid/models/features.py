"""Features of images by a trained network."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from manifests.runtime.console import Console, UserError
from manifests.runtime.files import check_file
from reid.data.augmentation import normalise
from reid.models.network import ReidNetwork, network_of
from reid.models.run_folder import TrainingRun, Which

Device = Literal["auto", "cpu", "cuda"]

Feature = Literal["output", "raw"]
"""``output``: what the network gives in evaluation mode, after the BN neck where there is one.
``raw``: what enters its last batch normalisation of features, so before the neck."""

_BATCH_SIZE: Final = 128
_CPU_BATCH_SIZE: Final = 32
"""Larger ones are up to twice as slow: activations of more than 32 MB are mapped anew each time."""


class Embedder(nn.Module):
    """A network with its normalisation inside: images in [-1, 1] to features."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: ReidNetwork) -> None:
        super().__init__()
        self.network = network.module
        self.register_buffer("mean", torch.tensor(network.normalisation.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(network.normalisation.std).view(3, 1, 1))

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch width"]:
        """Return the features of RGB images in [-1, 1]."""
        return self.network(((images + 1) / 2 - self.mean) / self.std)


class RawFeatures(nn.Module):
    """A network that gives what enters its last batch normalisation of features.

    Raises:
        UserError: If the network normalises no features.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d)]
        if not self._layers:
            raise UserError(
                f"--feature raw: {type(network).__name__} has no batch normalisation of features; "
                "expected a network with a BN neck, so use --feature output"
            )

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch width"]:
        """Return the features of normalised images before their last normalisation."""
        entered: list[Tensor] = []

        def keep(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            del layer
            entered.append(inputs[0])

        hooks = [layer.register_forward_pre_hook(keep) for layer in self._layers]
        try:
            self.network(images)
        finally:
            for hook in hooks:
                hook.remove()
        return entered[-1]


@torch.inference_mode()
def embed(
    network: ReidNetwork,
    images: UInt8[np.ndarray, "rows height width 3"],
    label: str,
    console: Console,
    *,
    flip_test: bool = False,
) -> Float[np.ndarray, "rows width"]:
    """Return the features of every image in float32; the network is left in evaluation mode.

    With ``flip_test`` a feature is the mean of the image's and its mirror image's.

    Raises:
        UserError: If a feature is not finite: the network has diverged.
    """
    module = network.module.eval()
    device = next(module.parameters()).device
    size = _CPU_BATCH_SIZE if device.type == "cpu" else _BATCH_SIZE
    parts: list[Tensor] = []
    with console.progress(label, len(images)) as bar:
        for start in range(0, len(images), size):
            batch = torch.from_numpy(images[start : start + size]).to(device)
            inputs = normalise(batch, network.normalisation)
            features = module(inputs)
            if flip_test:
                features = (features + module(inputs.flip(3))) / 2
            parts.append(features.float().cpu())
            bar.advance(len(batch))
    features = torch.cat(parts).numpy()
    bad = int((~np.isfinite(features).all(axis=1)).sum())
    if bad:
        raise UserError(
            f"{label}: {bad} of {len(features)} features are not finite; the training diverged, "
            "expected finite numbers (try a lower --learning-rate)"
        )
    return features


def load_network(run: TrainingRun, which: Which) -> ReidNetwork:
    """Return a run's network with its trained weights, in evaluation mode on the CPU.

    Raises:
        UserError: If the run has no such weights yet, or others.
    """
    path = run.weights(which)
    if which == "best" and not run.recipe["val_people"]:
        raise UserError(
            f"--which best: found {run.folder}, which set no people aside to choose weights by "
            "(--val-people of 'reid train'); expected --which last"
        )
    if not path.exists():
        raise UserError(
            f"{path} does not exist; expected a finished run, so run its reid train again"
        )
    check_file(path, "the weights that 'reid train' wrote")
    network = network_of(run.recipe, len(run.facts["people"]))
    try:
        network.module.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(
            f"{path}: found no weights of {run.recipe['model']} for {len(run.people):,} people, "
            "expected the file that 'reid train' wrote"
        ) from error
    network.module.eval()
    # torch's own annotations leave this form of ``to`` out.
    network.module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return network
