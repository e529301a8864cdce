"""A trained network as a Python object: images in, features out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from manifests import pixels
from manifests.compute.devices import pick_device
from manifests.runtime.console import Console, UserError
from reid.models.features import embed, load_network
from reid.models.network import ReidNetwork
from reid.models.run_folder import read_run


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """The network of a finished run of ``reid train``."""

    network: ReidNetwork
    size: tuple[int, int]
    """(width, height) in pixels to which images are stretched."""
    people: tuple[str, ...]
    """Who was trained on: scores on images of these people say nothing."""

    def embed(
        self, images: Iterable[Any], *, flip_test: bool = False
    ) -> Float32[np.ndarray, "images width"]:
        """Return a feature per image, not normalised: compare by the angle between them.

        Args:
            images: Of any size each: H x W x 3 uint8 arrays in RGB, uint8 tensors or PIL images.
            flip_test: Take the mean of the features of an image and its mirror image.

        Raises:
            UserError: If there is no image, one is none (names its position), or a feature is not
                finite.
        """
        stretched = [
            pixels.resize(pixels.as_rgb(image, f"image {position}"), self.size)
            for position, image in enumerate(images)
        ]
        if not stretched:
            raise UserError("found no image to embed, expected one or more")
        quiet = Console(quiet=True)
        return embed(self.network, np.stack(stretched), "images", quiet, flip_test=flip_test)


def load(run: str | Path, device: str = "auto") -> TrainedModel:
    """Return the network of a finished run of ``reid train``.

    Args:
        run: The run's folder; its best weights where validation people chose some, else its last.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        UserError: If there is no such run, it is not finished, or the device is not there.
    """
    found = read_run(Path(run))
    network = load_network(found, found.default_weights).to(pick_device(device))
    size = found.recipe["width"], found.recipe["height"]
    return TrainedModel(network, size, tuple(sorted(found.people)))
