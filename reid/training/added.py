"""Images that are added to every step, in a forward pass of their own.

CamStyle keeps all real images of a step and adds generated ones (Zhong et al., CVPR 2018); here the
added images have batch statistics of their own as well, and no part in triplet or centre loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from manifests.compute.distributed import ProcessGroup
from manifests.runtime.console import UserError
from manifests.scenes import Scenes
from reid.data.batch_sampler import Stream, Streams
from reid.data.dataset import TrainingSet
from reid.data.streamed import StreamedScenes
from reid.training.parallel import batch_part
from reid.training.settings import TrainSettings


@dataclass(frozen=True, slots=True)
class AddedBatch:
    """What a step sees beside its batch: images of this process, the rest for all together."""

    images: Float[Tensor, "part 3 height width"]
    labels: Int[Tensor, " batch"]
    smoothing: Float[Tensor, " batch"]
    weight: Float[Tensor, " batch"]


@dataclass(frozen=True, slots=True)
class AddedRows:
    """Which rows are added to the steps of a run."""

    streams: Streams
    num_scenes: int
    """The first so many rows of every batch come before new streets."""

    def batch(self, step: int) -> Int[np.ndarray, " batch"]:
        """Return the rows that are added to ``step`` (counted from 0)."""
        return self.streams.batch(step)

    @property
    def size(self) -> int:
        """How many rows a step has."""
        return sum(count for _, count in self.streams.parts)


def added_rows(
    data: TrainingSet, scenes: Scenes | StreamedScenes | None, settings: TrainSettings
) -> AddedRows | None:
    """Return which rows are added to the steps of a run; none if it adds nothing.

    Under the control ``added-real`` as many real rows, as they are, take the place of all; where
    nothing is there to count by, ``synthetic_added``.

    Raises:
        UserError: If there is nothing to add, or synthetic images are there that are not added.
    """
    num_synthetic = _num_synthetic(settings)
    if num_synthetic and not data.num_synthetic:
        raise UserError(
            "--synthetic-mix add: found no synthetic images, expected --synthetic with the folder "
            "of some"
        )
    real = np.flatnonzero(~data.synthetic)
    parts: list[tuple[Stream, int]] = []
    if settings.control == "added-real":
        if not num_synthetic + settings.scene_added and data.num_synthetic:
            raise UserError(
                "--control added-real: found synthetic images that replace real ones, expected "
                "--synthetic-mix add, --scene-added, or no --synthetic"
            )
        stream = Stream(real, settings.seed, "added real")
        return AddedRows(Streams(((stream, num_added(settings)),)), 0)
    if settings.scene_added:
        assert scenes is not None, "scenes are made where they are asked for"
        people = Stream(scenes.rows, settings.seed, "added scenes")
        parts.append((people, settings.scene_added))
    if num_synthetic:
        rows = np.flatnonzero(data.synthetic)
        parts.append((Stream(rows, settings.seed, "added synthetic"), num_synthetic))
    return AddedRows(Streams(tuple(parts)), settings.scene_added) if parts else None


def num_added(settings: TrainSettings) -> int:
    """Return how many images are added to every step of a run."""
    count = _num_synthetic(settings) + settings.scene_added
    return count or (settings.synthetic_added if settings.control == "added-real" else 0)


def _num_synthetic(settings: TrainSettings) -> int:
    return settings.synthetic_added if settings.mix == "add" else 0


def added_part(rows: AddedRows, group: ProcessGroup) -> slice:
    """Return which of the added rows are this process's."""
    return batch_part(rows.size, group, "images added to a step")


def needs_scenes(settings: TrainSettings) -> bool:
    """Return whether a run puts people before new streets."""
    added = settings.scene_added and settings.control != "added-real"
    return bool(added or settings.augmentation.scene)
