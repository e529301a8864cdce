"""A worker: "this is the run, I am one of so many, make my shards"; it knows no launcher.

Three things overlap: threads plan and read (``reading``), the device computes, threads encode what
it computed and write the shard before. Queues are bounded, so memory does not grow with the run.
The last batch of a shard is padded, so that the bytes of a row do not depend on who made it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Shaped, UInt8
from torch import Tensor

from augment.generation.encoding import EncodedBatch, encode_batch, shard_table
from augment.generation.new_people import seeds_of
from augment.generation.plan import GenerationPlan, PlannedRows
from augment.generation.reading import BatchImages, PlannedBatch, ShardInProgress, read_batches
from augment.generation.run_config import RunConfig
from augment.generation.sampler import Sampler, sampling_mode
from augment.generation.shards import publish
from augment.interface.condition import as_pixels, condition_of
from augment.interface.randomness import RowRandom
from augment.interface.system import Need
from augment.pose.pose import Pose
from manifests.compute.devices import upload
from manifests.runtime.console import Console, UserError
from manifests.runtime.storage import StoragePath

NUM_ENCODERS = 2
BATCHES_BEHIND = 4
ROW_OVERHEAD_BYTES = 350
"""What a row takes in its shard and in the manifest beside its image."""


class Advance(Protocol):
    """A progress bar."""

    def advance(self, count: int = 1) -> None:
        """Count further rows."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker needs to know besides its network."""

    out: StoragePath
    run: RunConfig
    plan: GenerationPlan
    needs: frozenset[Need] = frozenset()
    """What the system needs of a row beyond source image and poses."""
    fail: bool = False
    """Stop at the first row that fails instead of recording its error."""
    device: str = "auto"
    """Where this worker computes, ``cuda:1`` say; auto: on the run's kind of device."""

    def read(self, shards: Iterable[int]) -> Generator[PlannedBatch]:
        """Give the batches of these shards, planned and prefetched."""
        return read_batches(self.plan, self.run, self.needs, shards)


def work(job: Job, sampler: Sampler, shards: Iterable[int], bar: Advance) -> None:
    """Make these shards and publish each; one is written while the next computes.

    What has been through the network when the work is interrupted is still published.

    Args:
        job: The run, its folder and its plan.
        sampler: The network and where it runs.
        shards: The numbers of the shards.
        bar: Counts the rows that have been through the network.

    Raises:
        UserError: If a shard cannot be written, or a row fails and ``job.fail`` is set.
    """
    pipeline = ShardPipeline(job, sampler)
    with pipeline.encoders, ThreadPoolExecutor(1, thread_name_prefix="write") as writer:
        before: Future[None] | None = None
        try:
            with closing(pipeline.start(job.read(shards), bar)) as in_progress:
                for shard in in_progress:
                    if before is not None:
                        before.result()
                    before = writer.submit(finish, job, shard, sampler.kind)
        finally:
            if before is not None:
                before.result()


def sample_cost(job: Job, sampler: Sampler) -> tuple[float, float]:
    """Return seconds and stored bytes per row, measured on two batches of the plan's beginning."""
    pipeline = ShardPipeline(job, sampler)
    two_batches = {"rows_per_shard": 2 * job.run.content.sampling.batch_size}
    job = replace(job, run=job.run.model_copy(update=two_batches))
    rows = job.run.num_rows(0)
    silent = Console(quiet=True)

    def make() -> list[EncodedBatch]:
        (shard,) = pipeline.start(job.read([0]), bar)
        return [batch.result() for batch in shard.encoded]

    with pipeline.encoders, silent.progress("warm up", rows) as bar:
        make()
        began = time.perf_counter()
        made = make()
    seconds = time.perf_counter() - began
    stored = sum(len(image) for batch in made for image in batch.images if image is not None)
    return seconds / rows, stored / rows + ROW_OVERHEAD_BYTES


def finish(job: Job, shard: ShardInProgress, device: str) -> None:
    """Publish a shard when its images are encoded.

    Raises:
        UserError: If it cannot be written, or a row failed and ``job.fail`` is set.
    """
    encoded = [batch.result() for batch in shard.encoded]
    table = shard_table(job.run, job.plan, shard.rows, encoded)
    publish(job.out, job.run, shard.shard, table, device)


class ShardPipeline:
    """Sends shards of one run through one network."""

    def __init__(self, job: Job, sampler: Sampler) -> None:
        self._run = job.run
        self._plan = job.plan
        self._fail = job.fail
        self._sampler = sampler
        self._generate = sampler.generator()
        self._device = sampler.device
        self._batch_size = job.run.content.sampling.batch_size
        self.encoders = ThreadPoolExecutor(NUM_ENCODERS, thread_name_prefix="encode")

    def start(self, batches: Generator[PlannedBatch], bar: Advance) -> Generator[ShardInProgress]:
        """Send batches through the network; give each shard with its last batch on its way."""
        with closing(batches):
            for batch in batches:
                encoded = batch.shard.encoded
                if len(encoded) >= BATCHES_BEHIND:
                    encoded[-BATCHES_BEHIND].result()
                encoded.append(self._submit(batch.rows, batch.images))
                bar.advance(len(batch.rows))
                if batch.is_last:
                    yield batch.shard

    def _submit(self, rows: PlannedRows, images: BatchImages) -> Future[EncodedBatch]:
        with sampling_mode(self._device, self._run.content.sampling.precision):
            generated, finite, ready = self._start_batch(rows, images)
        encoding = self._run.content.encoding

        def encode() -> EncodedBatch:
            ready()
            made = encode_batch(generated.numpy(), finite.numpy(), images.errors, encoding)
            errors = [error for error in made.errors if error is not None]
            if errors and self._fail:
                raise UserError(f"--on-error fail: {errors[0]}")
            return made

        return self.encoders.submit(encode)

    def _start_batch(
        self, rows: PlannedRows, images: BatchImages
    ) -> tuple[UInt8[Tensor, "batch height width 3"], Bool[Tensor, " batch"], Callable[[], None]]:
        """Start the batch on the device; the tensors are filled when the third value returns."""
        target = _padded(self._plan.target_joints(rows), self._batch_size)
        random = RowRandom(_padded(rows.seed, self._batch_size), self._device)
        if self._plan.are_new:
            seeds = _padded(seeds_of(self._plan.seed, rows.people), self._batch_size)
            pose = Pose(upload(torch.from_numpy(target), self._device))
            result = self._sampler.draw_people(RowRandom(seeds, self._device), random, pose)
        else:
            joints = _padded(self._plan.source_joints[rows.source], self._batch_size)
            condition = condition_of(
                images.source, joints, target, device=self._device, **images.needed
            )
            result = self._generate(condition, random)
        result = result.float()
        # One pass: a sum is finite if and only if all of an image's values in [-1, 1] are.
        finite = torch.isfinite(result.sum(dim=(1, 2, 3)))
        generated = as_pixels(result)
        if self._device.type != "cuda":
            return generated, finite, lambda: None
        return _to_host(generated, finite)


def _padded(values: Shaped[np.ndarray, "rows ..."], rows: int) -> np.ndarray:
    """Return the values with the last row repeated up to ``rows``."""
    return np.concatenate([values, np.repeat(values[-1:], rows - len(values), axis=0)])


def _to_host(images: Tensor, finite: Tensor) -> tuple[Tensor, Tensor, Callable[[], None]]:
    """Queue the copy behind the batch, so that it does not wait for the batch after it."""
    copies = [torch.empty(x.shape, dtype=x.dtype, pin_memory=True) for x in (images, finite)]
    for copy, tensor in zip(copies, (images, finite), strict=True):
        copy.copy_(tensor, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return copies[0], copies[1], event.synchronize
