"""New streets behind real people while a network trains; no disk, no generator.

A person is cut out along the mask and put before the street of another train image
(``manifests.scenes``). Which street, and whether at all, follows from (seed, step).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Int, UInt8, UInt64
from torch import Tensor

from manifests.runtime.console import UserError
from manifests.scenes import Scenes
from reid.data.streamed import StreamedScenes

_OfRows: TypeAlias = Callable[[np.ndarray], Tensor]


class SceneSwap:
    """Puts people of a batch before other streets, on the device where the batch is."""

    def __init__(self, scenes: Scenes | StreamedScenes, device: torch.device) -> None:
        """Take the real train images apart, at the size of the network's input.

        Raises:
            UserError: If fewer than two of them have a street: there is no other one.
        """
        self._rows = scenes.rows
        if len(self._rows) < 2:
            raise UserError(
                f"--scene-added, --augmentation.scene: found {len(self._rows)} of "
                f"{len(scenes.usable)} train images with a mask that leaves a street beside the "
                "person, expected at least 2; 'augment detect --estimator blazepose --masks' adds "
                "masks"
            )
        self._place_of = np.full(len(scenes.usable), -1)
        self._place_of[self._rows] = np.arange(len(self._rows))
        self._alpha: _OfRows
        self._streets: _OfRows
        if isinstance(scenes, StreamedScenes):
            self._alpha = _made(scenes.alpha, device)
            self._streets = _made(scenes.streets, device)
        else:
            self._alpha = _held(scenes.alpha, device)
            self._streets = _held(scenes.streets, device)

    def swap(
        self,
        pixels: UInt8[Tensor, "batch height width 3"],
        rows: Int[np.ndarray, " batch"],
        bits: UInt64[np.ndarray, "2 batch"],
        probability: float,
    ) -> UInt8[Tensor, "batch height width 3"]:
        """Return the batch, each person with this probability before the street of another image.

        Args:
            pixels: The images of the rows.
            rows: Train rows; one beyond those of the scenes is synthetic and stays as it is.
            bits: Random numbers that decide whether, and before which street.
            probability: 0 to 1.
        """
        chance, choice = bits
        real = rows < len(self._place_of)
        place = np.where(real, self._place_of[np.where(real, rows, 0)], -1)
        taken = (place >= 0) & ((chance >> np.uint64(11)) * 2.0**-53 < probability)
        where = np.flatnonzero(taken)
        if not len(where):
            return pixels
        own = place[where]
        # One of the others: those from the own place on move up by one.
        other = (choice[where] % np.uint64(len(self._rows) - 1)).astype(np.int64)
        other += other >= own
        device = pixels.device
        index = torch.from_numpy(where).to(device)
        alpha = self._alpha(rows[where])[..., None].float() / 255
        background = self._streets(self._rows[other]).float()
        mixed = background + alpha * (pixels[index].float() - background)
        return pixels.index_copy(0, index, mixed.round().to(torch.uint8))


def _held(values: np.ndarray, device: torch.device) -> _OfRows:
    """Return what gives rows of values that lie on the device."""
    tensor = torch.from_numpy(values).to(device)
    return lambda rows: tensor[torch.from_numpy(rows).to(device)]


def _made(make: Callable[[np.ndarray], np.ndarray], device: torch.device) -> _OfRows:
    """Return what makes the values of rows and brings them to the device."""
    return lambda rows: torch.from_numpy(make(rows)).to(device)
