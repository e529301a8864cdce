"""A worker: "this is the run, I am one of so many, make my shards"; it knows no launcher.

Three things overlap, across the borders of shards too: threads plan the next shard and read and
decode the sources of the next batches, the device computes, threads encode what it computed and
write the shard before. Every queue is bounded, so memory does
not grow with the run. Batches never cross shards and the last one of a shard is padded, so that the
bytes of a row do not depend on who made it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor

from augment.generation.plan import GenerationPlan, PlannedRows, synthetic_id
from augment.generation.prefetch import prefetch
from augment.generation.run_config import Encoding, RunConfig
from augment.generation.sampler import Sampler, noise_of, sampling_mode
from augment.generation.shards import publish
from augment.interface.condition import Condition, as_floats, as_pixels
from augment.pose.pose import Pose
from manifests import pixels
from manifests.io import Images, keypoint_column
from manifests.runtime.console import Console, UserError
from manifests.runtime.storage import StoragePath
from manifests.schema import IMAGE_STRUCT, SHARD

NUM_ENCODERS = 2
SHARDS_PLANNED_AHEAD = 1
BATCHES_READ_AHEAD = 2
BATCHES_BEHIND = 4
ROW_OVERHEAD_BYTES = 350
"""What a row takes in its shard and in the manifest beside its image."""


class Advance(Protocol):
    """What counts the rows done."""

    def advance(self, count: int = 1) -> None:
        """Count further rows."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Decoded source images of one batch, padded; a row that failed is black."""

    pixels: UInt8[np.ndarray, "batch height width 3"]
    errors: list[str | None]


@dataclass(frozen=True, slots=True)
class Made:
    """Encoded images of one batch, without the padding."""

    images: list[bytes | None]
    errors: list[str | None]


class SourceReader:
    """Reads each source once for all its poses: rows of one person stand together."""

    def __init__(self, sources: Images, size: tuple[int, int]) -> None:
        self._sources = sources
        self._size = size
        self._person: str | None = None
        self._seen: dict[int, UInt8[np.ndarray, "height width 3"] | str] = {}

    def read(self, rows: np.ndarray, batch_size: int) -> Sources:
        """Return the images of these source rows; what is wrong with one becomes its error."""
        width, height = self._size
        batch = np.zeros((batch_size, height, width, 3), np.uint8)
        errors: list[str | None] = []
        for place, row in enumerate(rows.tolist()):
            found = self._one(row)
            if isinstance(found, str):
                errors.append(found)
            else:
                batch[place] = found
                errors.append(None)
        return Sources(batch, errors)

    def _one(self, row: int) -> UInt8[np.ndarray, "height width 3"] | str:
        person = self._value("person_id", row)
        if person != self._person:
            self._person, self._seen = person, {}
        if row not in self._seen:
            self._seen[row] = self._decode(row)
        return self._seen[row]

    def _value(self, column: str, row: int) -> str | None:
        # One by one: a list of the whole column would be as long as the table of all workers.
        return self._sources.table[column][row].as_py()

    def _decode(self, row: int) -> UInt8[np.ndarray, "height width 3"] | str:
        name = str(self._value("image_id", row))
        try:
            data = self._sources.file(row).read_bytes()
            expected = self._value("sha256", row)
            if expected is not None and hashlib.sha256(data).hexdigest() != expected:
                return f"{name}: the file has changed since the images table was made"
            return pixels.resize(pixels.decode(data, name), self._size)
        except OSError as error:
            # The path would put this machine's folders into the shard.
            return f"{name}: cannot be read ({error.strerror})"
        except pixels.PixelError as error:
            return str(error)


@dataclass(frozen=True, slots=True)
class Started:
    """A shard on its way through the network; its images are encoded batch by batch."""

    shard: int
    rows: PlannedRows
    batches: list[Future[Made]]


@dataclass(frozen=True, slots=True)
class Read:
    """One batch of a shard, planned and read."""

    shard: Started
    rows: PlannedRows
    sources: Sources
    last: bool
    """Of its shard."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker needs to know besides its network."""

    out: StoragePath
    run: RunConfig
    plan: GenerationPlan
    fail: bool = False
    """End at the first row that fails instead of recording it."""
    device: str = "auto"
    """Where this worker computes, ``cuda:1`` say; auto: on the run's kind of device."""


def work(job: Job, sampler: Sampler, shards: Iterable[int], bar: Advance) -> None:
    """Make these shards and publish each; one is written while the next computes.

    What has been through the network when the work is interrupted is still published.

    Args:
        job: The run, its folder and its plan.
        sampler: The network and where it runs.
        shards: The numbers of the shards.
        bar: Told how many rows have been through the network.

    Raises:
        UserError: If a shard cannot be written, or a row fails and that shall be the end.
    """
    worker = Worker(job, sampler)
    with worker.encoders, ThreadPoolExecutor(1, thread_name_prefix="write") as writer:
        before: Future[None] | None = None
        try:
            with closing(worker.start(read(job, shards), bar)) as all_started:
                for started in all_started:
                    if before is not None:
                        before.result()
                    before = writer.submit(finish, job, started, sampler.kind)
        finally:
            if before is not None:
                before.result()


def read(job: Job, shards: Iterable[int]) -> Generator[Read]:
    """Give the batches of these shards, planned and read on a thread of its own.

    A few batches are ready before they are asked for, also where one shard ends and the next
    begins.
    """
    return prefetch(_read(job, shards), BATCHES_READ_AHEAD)


def _read(job: Job, shards: Iterable[int]) -> Generator[Read]:
    content = job.run.content
    size = content.sampling.batch_size
    reader = SourceReader(job.plan.sources, (content.width, content.height))
    # A shard takes longer to plan than a GPU takes for the batches that are read ahead.
    planned = prefetch(
        (Started(shard, job.plan.rows(*job.run.shard_rows(shard)), []) for shard in shards),
        SHARDS_PLANNED_AHEAD,
    )
    with closing(planned):
        for shard in planned:
            for first in range(0, len(shard.rows), size):
                rows = shard.rows[first : first + size]
                sources = reader.read(rows.source, size)
                yield Read(shard, rows, sources, last=first + size >= len(shard.rows))


def sample_cost(job: Job, sampler: Sampler) -> tuple[float, float]:
    """Return seconds and stored bytes per row, measured on two batches of the plan's beginning."""
    worker = Worker(job, sampler)
    two_batches = {"rows_per_shard": 2 * job.run.content.sampling.batch_size}
    job = replace(job, run=job.run.model_copy(update=two_batches))
    rows = job.run.num_rows(0)
    silent = Console(quiet=True)

    def make() -> list[Made]:
        (started,) = worker.start(read(job, [0]), bar)
        return [batch.result() for batch in started.batches]

    with worker.encoders, silent.progress("warm up", rows) as bar:
        make()
        began = time.perf_counter()
        made = make()
    seconds = time.perf_counter() - began
    stored = sum(len(image) for batch in made for image in batch.images if image is not None)
    return seconds / rows, stored / rows + ROW_OVERHEAD_BYTES


def finish(job: Job, started: Started, device: str) -> None:
    """Publish a shard when its images are encoded.

    Raises:
        UserError: If it cannot be written, or a row failed and that shall be the end.
    """
    made = [batch.result() for batch in started.batches]
    table = shard_table(job.run, job.plan, started.rows, made)
    publish(job.out, job.run, started.shard, table, device)


class Worker:
    """Sends shards of one run through one network."""

    def __init__(self, job: Job, sampler: Sampler) -> None:
        self._run = job.run
        self._plan = job.plan
        self._fail = job.fail
        self._noise_width = sampler.network.noise_width()
        self._images = sampler.generator()
        self._device = sampler.device
        self._batch_size = job.run.content.sampling.batch_size
        self.encoders = ThreadPoolExecutor(NUM_ENCODERS, thread_name_prefix="encode")

    def start(self, batches: Generator[Read], bar: Advance) -> Generator[Started]:
        """Send batches through the network; give each shard with its last batch on its way."""
        with closing(batches):
            for batch in batches:
                made = batch.shard.batches
                if len(made) >= BATCHES_BEHIND:
                    made[-BATCHES_BEHIND].result()
                made.append(self._submit(batch.rows, batch.sources))
                bar.advance(len(batch.rows))
                if batch.last:
                    yield batch.shard

    def _submit(self, rows: PlannedRows, sources: Sources) -> Future[Made]:
        with sampling_mode(self._device, self._run.content.sampling.precision):
            images, finite, ready = self._generate(rows, sources)
        encoding = self._run.content.encoding

        def encode() -> Made:
            ready()
            made = encode_batch(images.numpy(), finite.numpy(), sources.errors, encoding)
            errors = [error for error in made.errors if error is not None]
            if errors and self._fail:
                raise UserError(f"--on-error fail: {errors[0]}")
            return made

        return self.encoders.submit(encode)

    def _generate(
        self, rows: PlannedRows, sources: Sources
    ) -> tuple[UInt8[Tensor, "batch height width 3"], Bool[Tensor, " batch"], Callable[[], None]]:
        """Start the batch on the device; the tensors are filled when the third value returns."""
        pose = _padded(self._plan.source_joints[rows.source], self._batch_size)
        target = _padded(self._plan.bank.joints[rows.pose], self._batch_size)
        noise = noise_of(rows.seed, self._noise_width)
        condition = Condition(
            as_floats(self._to_device(torch.from_numpy(sources.pixels))),
            Pose(self._to_device(torch.from_numpy(pose))),
            Pose(self._to_device(torch.from_numpy(target))),
        )
        if noise is not None:
            noise = self._to_device(torch.from_numpy(_padded(noise.numpy(), self._batch_size)))
        result = self._images(condition, noise).float()
        # One pass: a sum is finite if and only if all of an image's values in [-1, 1] are.
        finite = torch.isfinite(result.sum(dim=(1, 2, 3)))
        images = as_pixels(result)
        if self._device.type != "cuda":
            return images, finite, lambda: None
        return _to_host(images, finite)

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)


def encode_batch(
    images: UInt8[np.ndarray, "batch height width 3"],
    finite: Bool[np.ndarray, " batch"],
    errors: list[str | None],
    encoding: Encoding,
) -> Made:
    """Return the encoded images of the rows before the padding; failed rows have none."""
    encoded: list[bytes | None] = []
    errors = list(errors)
    for row, error in enumerate(errors):
        if error is None and not finite[row]:
            errors[row] = "the network's output is not finite"
        encoded.append(None if errors[row] else encode(images[row], encoding))
    return Made(encoded, errors)


def encode(image: UInt8[np.ndarray, "height width 3"], encoding: Encoding) -> bytes:
    """Return the file of one image."""
    if encoding.image_format == "png":
        return pixels.encode_png(image)
    assert encoding.quality is not None
    assert encoding.subsampling is not None
    return pixels.encode_jpeg(image, encoding.quality, encoding.subsampling)


def shard_table(
    run: RunConfig, plan: GenerationPlan, rows: PlannedRows, made: list[Made]
) -> pa.Table:
    """Return the rows of a shard with their images, as ``schema.SHARD`` says."""
    content = run.content
    images = [image for batch in made for image in batch.images]
    errors = [error for batch in made for error in batch.errors]
    source = plan.sources.take(rows.source).table
    source_ids = source["image_id"].to_pylist()
    names = [
        synthetic_id(name, k, content.encoding.ending)
        for name, k in zip(source_ids, rows.k.tolist(), strict=True)
    ]
    digests = [None if image is None else hashlib.sha256(image).hexdigest() for image in images]
    count = len(rows)
    columns = {
        "image_id": pa.array(names),
        "path": pa.nulls(count, pa.string()),
        "split": pa.repeat(pa.scalar("train"), count),
        "person_id": pa.array(rows.people, pa.string()),
        "camera_id": source["camera_id"],
        "sequence": source["sequence"],
        "frame": source["frame"],
        "width": pa.repeat(pa.scalar(content.width, pa.int32()), count),
        "height": pa.repeat(pa.scalar(content.height, pa.int32()), count),
        "keypoints": keypoint_column(plan.bank.joints[rows.pose]),
        "sha256": pa.array(digests, pa.string()),
        "k": pa.array(rows.k.astype(np.int32)),
        "source_id": pa.array(source_ids),
        "pose_id": plan.bank.pose_ids.take(pa.array(rows.pose)),
        "seed": pa.array(rows.seed),
        "generator": pa.repeat(pa.scalar(content.generator), count),
        "weights_sha256": pa.repeat(pa.scalar(content.weights_sha256), count),
        "weight": pa.repeat(pa.scalar(1.0, pa.float32()), count),
        "error": pa.array(errors, pa.string()),
        "image": _image_column(images, names),
    }
    return pa.Table.from_arrays([_one_chunk(columns[name]) for name in SHARD.names], schema=SHARD)


def _image_column(images: list[bytes | None], names: list[str]) -> pa.Array:
    parts = [pa.array(images, pa.binary()), pa.array(names, pa.string())]
    missing = pa.array([image is None for image in images])
    return pa.StructArray.from_arrays(parts, fields=list(IMAGE_STRUCT), mask=missing)


def _one_chunk(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _padded(values: Float32[np.ndarray, "rows ..."], rows: int) -> np.ndarray:
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
