"""Training images in memory and the random pairs of one person in two poses.

A pair is two different images of one person that both show shoulders and hips; all ordered pairs
are equally likely (263,632 in Market-1501), as in the published lists.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor

from augment.interface.condition import Pair, condition_of
from manifests import keypoints
from manifests.compute.devices import upload
from manifests.runtime.console import UserError
from manifests.runtime.random_numbers import random_bits
from manifests.scenes import Scenes


@dataclass(frozen=True, slots=True)
class PairIndex:
    """All ordered pairs as arithmetic over rows grouped by person.

    ``rows`` lists the usable images, person after person; person ``i`` owns
    ``rows[first[i] : first[i] + count[i]]`` and the pairs below ``end[i]``.
    """

    rows: Int64[np.ndarray, " usable"]
    first: Int64[np.ndarray, " people"]
    count: Int64[np.ndarray, " people"]
    end: Int64[np.ndarray, " people"]

    @property
    def num_pairs(self) -> int:
        """How many ordered pairs there are."""
        return int(self.end[-1])

    def draw(
        self, seed: int, step: int, count: int, stream: int = 0
    ) -> Int64[np.ndarray, "count 2"]:
        """Return (source row, target row) of ``count`` random pairs for one step."""
        raw = random_bits(seed, "pairs", count, counter=step, stream=stream)
        number = (raw.astype(object) * self.num_pairs >> 64).astype(np.int64)
        person = np.searchsorted(self.end, number, side="right")
        within = number - (self.end[person] - self.count[person] * (self.count[person] - 1))
        source, target = np.divmod(within, self.count[person] - 1)
        target += target >= source
        return self.rows[self.first[person, None] + np.stack([source, target], axis=1)]


def index_pairs(
    person_ids: list[str],
    joints: Float32[np.ndarray, "rows 18 2"],
    also: Bool[np.ndarray, " rows"] | None = None,
) -> PairIndex:
    """Return the pairs among the rows whose poses have shoulders and hips.

    Args:
        person_ids: One per row.
        joints: One pose per row.
        also: Which rows are usable otherwise; default: all.

    Raises:
        UserError: If nobody has two such rows.
    """
    fit = keypoints.has_torso(joints)
    usable = np.flatnonzero(fit if also is None else fit & also)
    people, person = np.unique(np.asarray(person_ids)[usable], return_inverse=True)
    rows = usable[np.argsort(person, kind="stable")]
    count = np.bincount(person, minlength=len(people)).astype(np.int64)
    first = np.cumsum(count) - count
    several = count > 1
    if not several.any():
        raise UserError(
            f"found {len(usable)} train images with both shoulders and both hips, of "
            f"{len(people)} people, none with two; expected pairs to train on"
        )
    first, count = first[several], count[several]
    return PairIndex(rows, first, count, np.cumsum(count * (count - 1)))


class TrainingImages:
    """Decoded training images and poses on the device, and the pairs among them."""

    def __init__(
        self,
        pixels: UInt8[np.ndarray, "rows height width 3"],
        joints: Float32[np.ndarray, "rows 18 2"],
        person_ids: list[str],
        device: torch.device | str = "cpu",
        scenes: Scenes | None = None,
    ) -> None:
        self.index = index_pairs(person_ids, joints, None if scenes is None else scenes.usable)
        self._pixels = torch.from_numpy(pixels).to(device)
        self._joints = torch.from_numpy(np.ascontiguousarray(joints)).to(device)
        self._device = torch.device(device)
        self._scenes: dict[str, Tensor] = {}
        if scenes is not None:
            self._scenes = {
                name: torch.from_numpy(getattr(scenes, name)).to(device)
                for name in ("alpha", "streets", "holes")
            }

    def draw(
        self, seed: int, step: int, count: int, stream: int = 0, part: slice = slice(None)
    ) -> Pair:
        """Return a part of a random batch of pairs; the same arguments give the same pairs."""
        return self.pair(self.index.draw(seed, step, count, stream)[part])

    def pair(self, rows: Int64[np.ndarray, "batch 2"]) -> Pair:
        """Return the pairs of (source row, target row)."""
        source, target = upload(torch.from_numpy(rows.T.copy()), self._device)
        apart: dict[str, Tensor] = {}
        if self._scenes:
            apart = {
                "mask": self._scenes["alpha"][source],
                "background": self._scenes["streets"][target],
                "hole": self._scenes["holes"][target],
            }
        condition = condition_of(
            self._pixels[source],
            self._joints[source],
            self._joints[target],
            device=self._device,
            target_image=self._pixels[target],
            **apart,
        )
        assert condition.target_image is not None
        return Pair(condition, condition.target_image)
