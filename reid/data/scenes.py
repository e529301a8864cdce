"""New streets behind real people while a network trains; no disk, no generator.

A person is cut out along the mask and put before the street of another train image
(``manifests.scenes``). Which street, and whether at all, follows from (seed, step).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8, UInt64
from torch import Tensor

from manifests.runtime.console import UserError
from manifests.scenes import alpha_of, has_street, street

_THREADS = 2


@dataclass(frozen=True, slots=True)
class Scenes:
    """The people and the streets of real train images, at the size of the network's input."""

    alpha: UInt8[np.ndarray, "people height width"]
    """How much of each pixel is the person."""
    person_of: Int[np.ndarray, " rows"]
    """For every train row its place in ``alpha``; -1 for a row without a usable mask."""
    streets: UInt8[np.ndarray, "people height width 3"]
    """The street of each of these images, without its person."""

    @property
    def rows(self) -> Int[np.ndarray, " people"]:
        """The train rows whose people can stand before another street."""
        return np.flatnonzero(self.person_of >= 0)


def scenes_of(
    pixels: UInt8[np.ndarray, "rows height width 3"],
    masks: Bool[np.ndarray, "rows height width"],
    known: Bool[np.ndarray, " rows"],
) -> Scenes:
    """Return people and streets of the images whose mask is known and leaves some street.

    Args:
        pixels: Of real train images.
        masks: True where the person is; of rows without a mask, anything.
        known: Which rows have a mask.

    Raises:
        UserError: If fewer than two images are left: there is no other street.
    """
    usable = [row for row in np.flatnonzero(known) if masks[row].any() and has_street(masks[row])]
    if len(usable) < 2:
        raise UserError(
            f"--scene-added, --augmentation.scene: found {len(usable)} of {len(pixels)} train "
            "images with a mask that leaves a street beside the person, expected at least 2; "
            "'augment detect --estimator blazepose --masks' adds masks"
        )
    person_of = np.full(len(pixels), -1)
    person_of[usable] = np.arange(len(usable))
    with ThreadPoolExecutor(_THREADS) as pool:
        streets = list(pool.map(lambda row: street(pixels[row], masks[row]), usable))
    alpha = np.stack([alpha_of(masks[row]) for row in usable])
    return Scenes(alpha, person_of, np.stack(streets))


class SceneSwap:
    """Puts people of a batch before other streets, on the device where the batch is."""

    def __init__(self, scenes: Scenes, device: torch.device) -> None:
        self._person_of = scenes.person_of
        self._alpha = torch.from_numpy(scenes.alpha).to(device)
        self._streets = torch.from_numpy(scenes.streets).to(device)

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
        real = rows < len(self._person_of)
        person = np.where(real, self._person_of[np.where(real, rows, 0)], -1)
        taken = (person >= 0) & ((chance >> np.uint64(11)) * 2.0**-53 < probability)
        where = np.flatnonzero(taken)
        if not len(where):
            return pixels
        own = person[where]
        # One of the others: those from the own place on move up by one.
        other = (choice[where] % np.uint64(len(self._streets) - 1)).astype(np.int64)
        other += other >= own
        device = pixels.device
        index = torch.from_numpy(where).to(device)
        alpha = self._alpha[torch.from_numpy(own).to(device)][..., None].float() / 255
        background = self._streets[torch.from_numpy(other).to(device)].float()
        mixed = background + alpha * (pixels[index].float() - background)
        return pixels.index_copy(0, index, mixed.round().to(torch.uint8))
