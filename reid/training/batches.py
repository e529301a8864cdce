"""The batches of a run: rows of the mixture with their pixels, augmented on the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int, UInt64
from torch import Tensor

from manifests.compute.distributed import SINGLE_PROCESS, ProcessGroup
from manifests.runtime.prefetch import prefetch
from manifests.runtime.random_numbers import random_bits
from manifests.runtime.thread_pool import thread_pool
from manifests.scenes import Scenes
from reid.data.augmentation import IMAGENET, Normalisation, augment, chances
from reid.data.batch_sampler import BatchComposition, Mixture, mixture
from reid.data.controls import controlled_mixture
from reid.data.dataset import TrainingSet
from reid.data.labels import NO_IDENTITY
from reid.data.scenes import SceneSwap
from reid.data.streamed import ROWS_AHEAD, HeldPixels, StreamedPixels, StreamedScenes
from reid.training.added import AddedBatch, added_part, added_rows
from reid.training.parallel import batch_part
from reid.training.settings import TrainSettings


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step sees: the images of this process, the rest for all processes together."""

    step: int
    images: Float[Tensor, "part 3 height width"]
    labels: Int[Tensor, " batch"]
    smoothing: Float[Tensor, " batch"]
    weight: Float[Tensor, " batch"]
    added: AddedBatch | None = None


@dataclass(frozen=True, slots=True)
class Destination:
    """Where batches go: a device, the processes that share them, what the network takes."""

    device: torch.device
    group: ProcessGroup = SINGLE_PROCESS
    normalisation: Normalisation = IMAGENET


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The rows of a step, before their images are decoded."""

    step: int
    rows: Int[np.ndarray, " batch"]
    added: Int[np.ndarray, " added"] | None
    encoded: Mapping[int, bytes]
    """Images of these rows, and of other steps, that were fetched ahead."""


_STEPS_AHEAD: Final = 1024
"""Steps whose images one pass over the shards fetches, unless they are too many before."""
_STREAMING_WORKERS: Final = 2
"""Threads that decode ahead where nothing is held in memory and the settings name none."""


class Batches:
    """The batches of the steps that are left, each a function of (seed, step)."""

    def __init__(
        self,
        data: TrainingSet,
        settings: TrainSettings,
        destination: Destination,
        start: int,
        scenes: Scenes | StreamedScenes | None = None,
    ) -> None:
        self._settings = settings
        self._start = start
        self._normalisation = destination.normalisation
        self._part = batch_part(settings.batch_size, destination.group)
        self._mixture = mixture_of(data, settings)
        device = destination.device
        self._scenes = None if scenes is None else SceneSwap(scenes, device)
        self._added = added_rows(data, scenes, settings)
        self._added_part = self._added and added_part(self._added, destination.group)
        self._device = device
        self._pixels = (
            data.pixels
            if isinstance(data.pixels, StreamedPixels)
            else HeldPixels(data.pixels, device)
        )
        self._labels = torch.from_numpy(data.labels).to(device)
        synthetic = torch.from_numpy(data.synthetic)
        smoothing = torch.where(synthetic, settings.synthetic_smoothing, settings.label_smoothing)
        weight = torch.from_numpy(data.weight)
        weight = torch.where(synthetic, weight * settings.synthetic_weight, weight)
        nobody = torch.from_numpy(data.labels == NO_IDENTITY)
        self._smoothing = smoothing.to(device)
        self._weight = torch.where(nobody, weight * settings.outlier_weight, weight).to(device)

    def __len__(self) -> int:
        return self._settings.steps - self._start

    def __iter__(self) -> Iterator[Batch]:
        workers = self._settings.workers
        if not workers and isinstance(self._pixels, StreamedPixels):
            workers = _STREAMING_WORKERS
        # The walk over rows keeps its place, so one thread takes it.
        with closing(self._drawn(range(self._start, self._settings.steps))) as drawn:
            if not workers:
                for one in drawn:
                    yield self._seeded(self._prepare(one))
                return
            waiting: deque[Future[Batch]] = deque()
            with thread_pool(workers, "batch") as pool:
                for one in drawn:
                    waiting.append(pool.submit(self._prepare, one))
                    if len(waiting) > workers:
                        yield self._seeded(waiting.popleft().result())
                while waiting:
                    yield self._seeded(waiting.popleft().result())

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, having seeded torch's global generators for it."""
        (drawn,) = self._fetched([self._rows(step)])
        return self._seeded(self._prepare(drawn))

    def _drawn(self, steps: Iterable[int]) -> Generator[_Drawn]:
        """Give the rows of steps, those of a set that is not in memory with what lies in shards."""
        if isinstance(self._pixels, HeldPixels):
            for step in steps:
                yield self._rows(step)
            return
        windows = map(self._fetched, self._windows(steps, self._pixels))
        with closing(prefetch(windows, depth=1)) as fetched:
            for window in fetched:
                yield from window

    def _windows(self, steps: Iterable[int], pixels: StreamedPixels) -> Iterator[list[_Drawn]]:
        """Give steps in groups that hold a bounded number of images in shards."""
        window: list[_Drawn] = []
        count = 0
        for step in steps:
            window.append(self._rows(step))
            count += pixels.count_encoded(self._own_rows(window[-1]))
            if count >= ROWS_AHEAD or len(window) == _STEPS_AHEAD:
                yield window
                window, count = [], 0
        if window:
            yield window

    def _fetched(self, window: list[_Drawn]) -> list[_Drawn]:
        """Return the same steps with their images as far as these lie in shards."""
        if isinstance(self._pixels, HeldPixels):
            return window
        rows = np.concatenate([self._own_rows(drawn) for drawn in window])
        encoded = self._pixels.encoded(rows)
        return [replace(drawn, encoded=encoded) for drawn in window]

    def _rows(self, step: int) -> _Drawn:
        added = None if self._added is None else self._added.batch(step)
        return _Drawn(step, self._mixture.batch(step), added, {})

    def _own_rows(self, drawn: _Drawn) -> Int[np.ndarray, " own"]:
        """Return the rows of a step whose images this process sees."""
        if drawn.added is None or self._added_part is None:
            return drawn.rows[self._part]
        return np.concatenate([drawn.rows[self._part], drawn.added[self._added_part]])

    def _seed(self, step: int) -> int:
        return int(random_bits(self._settings.seed, "train step", counter=step)[0] >> np.uint64(1))

    def _seeded(self, batch: Batch) -> Batch:
        torch.manual_seed(self._seed(batch.step))
        return batch

    def _decoded(self, rows: Int[np.ndarray, " part"], encoded: Mapping[int, bytes]) -> Tensor:
        return self._pixels.decode(rows, encoded).to(self._device)

    def _prepare(self, drawn: _Drawn) -> Batch:
        step, rows = drawn.step, drawn.rows
        index = torch.from_numpy(rows).to(self._device)
        seed, settings = self._seed(step), self._settings
        pixels = self._decoded(rows[self._part], drawn.encoded)
        if self._scenes is not None and settings.augmentation.scene:
            bits = self._scene_bits("scene", step, len(rows))[:, self._part]
            share = settings.augmentation.scene
            pixels = self._scenes.swap(pixels, rows[self._part], bits, share)
        chance = chances(len(rows), seed)[self._part]
        images = augment(pixels, settings.augmentation, chance, self._normalisation)
        return Batch(
            step,
            images,
            self._labels[index],
            self._smoothing[index],
            self._weight[index],
            self._prepare_added(drawn),
        )

    def _scene_bits(self, label: str, step: int, count: int) -> UInt64[np.ndarray, "2 count"]:
        return random_bits(self._settings.seed, label, 2 * count, counter=step).reshape(2, count)

    def _prepare_added(self, drawn: _Drawn) -> AddedBatch | None:
        if drawn.added is None:
            return None
        assert self._added is not None
        assert self._added_part is not None
        step, rows = drawn.step, drawn.added
        index = torch.from_numpy(rows).to(self._device)
        pixels = self._decoded(rows[self._added_part], drawn.encoded)
        if self._scenes is not None and self._added.num_scenes:
            # Synthetic rows behind the scenes' own have no street of ours to change.
            bits = self._scene_bits("added scene", step, len(rows))[:, self._added_part]
            pixels = self._scenes.swap(pixels, rows[self._added_part], bits, 1.0)
        chance = chances(len(rows), self._seed(step) ^ 1)[self._added_part]
        images = augment(pixels, self._settings.augmentation, chance, self._normalisation)
        return AddedBatch(images, self._labels[index], self._smoothing[index], self._weight[index])


def mixture_of(data: TrainingSet, settings: TrainSettings) -> Mixture:
    """Return which rows the batches of a run are made of.

    Raises:
        UserError: If the settings ask for rows that are not there.
    """
    if settings.mix == "replace":
        return controlled_mixture(data, settings.control, composition_of(settings))
    # Real rows come first; the synthetic ones are added to the batches of these.
    real = ~data.synthetic
    return mixture(data.labels[real], data.synthetic[real], composition_of(settings))


def composition_of(settings: TrainSettings) -> BatchComposition:
    """Return what the settings say of every batch."""
    return BatchComposition(
        batch_size=settings.batch_size,
        seed=settings.seed,
        synthetic_share=settings.synthetic_share,
        sampler=settings.train_sampler,
        num_instances=settings.num_instances,
        num_outliers=settings.num_outliers,
    )


def count_seen(
    data: TrainingSet, settings: TrainSettings, scenes: Scenes | StreamedScenes | None
) -> dict[str, int]:
    """Return how many images the steps of a run see, counted batch by batch, added ones too.

    ``real`` and ``synthetic`` are all of them, real people before new streets among the real;
    ``no_identity`` are those of person "-1" among them.
    """
    mixtures = [mixture_of(data, settings)]
    if (added := added_rows(data, scenes, settings)) is not None:
        mixtures.append(added)
    seen = np.zeros(len(data.labels), np.int64)
    for step in range(settings.steps):
        for one in mixtures:
            np.add.at(seen, one.batch(step), 1)
    return {
        "real": int(seen[~data.synthetic].sum()),
        "synthetic": int(seen[data.synthetic].sum()),
        "no_identity": int(seen[data.labels == NO_IDENTITY].sum()),
    }
