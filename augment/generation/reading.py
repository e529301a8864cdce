"""Prefetching: the batches of a worker's shards, planned and with their images decoded.

Threads plan the next shard and read the images of the next batches while the device computes,
across the borders of shards too. Every queue is bounded. Batches never cross shards.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Generator, Iterable, Mapping
from concurrent.futures import Executor, Future
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8

from augment.generation.encoding import EncodedBatch
from augment.generation.plan import GenerationPlan, PlannedRows
from augment.generation.run_config import RunConfig
from augment.interface.system import Need
from manifests import pixels
from manifests.io import Images
from manifests.masks import Mask, mask_from_joints, mask_of
from manifests.runtime.files import is_endless
from manifests.runtime.prefetch import prefetch
from manifests.runtime.thread_pool import thread_pool
from manifests.scenes import alpha_of, hole_of, street

SHARDS_PREFETCHED = 1
BATCHES_PREFETCHED = 2
STREET_THREADS = min(8, os.cpu_count() or 1)
"""Threads that cut people out of streets: a GPU draws faster than one of them fills holes."""

ByteImage = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True, slots=True)
class BatchImages:
    """Decoded images of one batch, padded; a row that failed is black."""

    source: UInt8[np.ndarray, "batch height width 3"]
    errors: list[str | None]
    """Of the rows before the padding."""
    needed: Mapping[str, UInt8[np.ndarray, "batch ..."]]
    """What else the system needs: arguments of ``condition_of``."""


@dataclass(frozen=True, slots=True)
class ShardInProgress:
    """A shard on its way through the network; its images are encoded batch by batch."""

    shard: int
    rows: PlannedRows
    encoded: list[Future[EncodedBatch]] = field(default_factory=list[Future[EncodedBatch]])


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """One batch of a shard, planned and read."""

    shard: ShardInProgress
    rows: PlannedRows
    images: BatchImages
    is_last: bool
    """Of its shard."""


class ImageReader:
    """Reads the images of a table."""

    def __init__(self, images: Images, size: tuple[int, int]) -> None:
        """Take the table and the (width, height) that images are stretched to."""
        self._images = images
        self._size = size

    def mask(self, row: int) -> Mask:
        """Return where the person is in the image of a row."""
        return mask_of(self._images, row, self._size)

    def read(self, row: int) -> ByteImage | str:
        """Return the image of a row of the table, or what is wrong with it."""
        # One by one: a list of the whole column would be as long as the table of all workers.
        name = str(self._images.table["image_id"][row].as_py())
        try:
            file = self._images.file(row)
            if is_endless(file):
                return f"{name}: found no regular file, expected an image"
            data = file.read_bytes()
            expected = self._images.table["sha256"][row].as_py()
            if expected is not None and hashlib.sha256(data).hexdigest() != expected:
                return f"{name}: the file has changed since the images table was made"
            return pixels.resize(pixels.decode(data, name), self._size)
        except OSError as error:
            # The path would put this machine's folders into the shard.
            return f"{name}: cannot be read ({error.strerror})"
        except pixels.PixelError as error:
            return str(error)


class BatchReader:
    """Reads all images that the rows of a batch need.

    The sources of one person are kept until the next: rows of one person come one after the other
    and share a few. Their target poses are all different, so of those nothing is kept.
    """

    def __init__(
        self, plan: GenerationPlan, run: RunConfig, needs: Collection[Need], pool: Executor
    ) -> None:
        size = (run.content.width, run.content.height)
        self._shape = (run.content.sampling.batch_size, size[1], size[0])
        self._needs = frozenset(needs)
        self._plan = plan
        self._pool = pool
        self._sources = ImageReader(plan.sources, size)
        self._targets = ImageReader(plan.bank.images, size)
        self._person: str | None = None
        self._kept: dict[int, ByteImage | str] = {}

    def read(self, rows: PlannedRows) -> BatchImages:
        """Return the images of these rows; what is wrong with one of a row's is its error."""
        errors: list[str | None] = [None] * len(rows)
        source_rows, pose_rows = rows.source.tolist(), rows.pose.tolist()
        # Nobody has seen new people: their sources are black and not looked at.
        seen_in = [] if self._plan.are_new else map(self._source, source_rows, rows.people)
        source = self._batch(seen_in, errors)
        needed: dict[str, np.ndarray] = {}
        if "mask" in self._needs:
            alphas = (alpha_of(self._sources.mask(row)) for row in source_rows)
            needed["mask"] = self._padded(alphas)
        if self._plan.own_streets:
            needed |= self._own_streets(rows, source)
        elif self._needs & {"target_image", "background"}:
            seen = self._batch(map(self._targets.read, pose_rows), errors)
            if "target_image" in self._needs:
                needed["target_image"] = seen
            if "background" in self._needs:
                cut = [self._targets.mask(row) for row in pose_rows]
                needed["background"] = self._padded(self._pool.map(street, seen, cut), 3)
                needed["hole"] = self._padded(map(hole_of, cut))
        return BatchImages(source, errors, needed)

    def _own_streets(
        self, rows: PlannedRows, source: UInt8[np.ndarray, "batch height width 3"]
    ) -> dict[str, np.ndarray]:
        """Return the sources' own streets, with holes where the target poses will stand.

        Where the source's person stood the street is filled and not a hole: a system paints
        somebody into all of a hole.
        """
        first_rows = {row: place for place, row in enumerate(rows.source.tolist())}
        filled = self._pool.map(
            street,
            (source[place] for place in first_rows.values()),
            map(self._sources.mask, first_rows),
        )
        streets = dict(zip(first_rows, filled, strict=True))
        size = (self._shape[2], self._shape[1])
        joints = self._plan.target_joints(rows)
        holes = (hole_of(mask_from_joints(pose, size)) for pose in joints)
        return {
            "background": self._padded((streets[row] for row in rows.source.tolist()), 3),
            "hole": self._padded(holes),
        }

    def _source(self, row: int, person: str) -> ByteImage | str:
        if person != self._person:
            self._person, self._kept = person, {}
        if row not in self._kept:
            self._kept[row] = self._sources.read(row)
        return self._kept[row]

    def _batch(
        self, images: Iterable[ByteImage | str], errors: list[str | None]
    ) -> UInt8[np.ndarray, "batch height width 3"]:
        batch = np.zeros((*self._shape, 3), np.uint8)
        for position, image in enumerate(images):
            if isinstance(image, str):
                errors[position] = errors[position] or image
            else:
                batch[position] = image
        return batch

    def _padded(self, arrays: Iterable[np.ndarray], *channels: int) -> np.ndarray:
        batch = np.zeros((*self._shape, *channels), np.uint8)
        for position, array in enumerate(arrays):
            batch[position] = array
        return batch


def read_batches(
    plan: GenerationPlan, run: RunConfig, needs: Collection[Need], shards: Iterable[int]
) -> Generator[PlannedBatch]:
    """Give the batches of these shards, planned and read on a thread of its own.

    A few batches are ready before they are asked for, also where one shard ends and the next
    begins.
    """
    return prefetch(_batches(plan, run, needs, shards), BATCHES_PREFETCHED)


def _batches(
    plan: GenerationPlan, run: RunConfig, needs: Collection[Need], shards: Iterable[int]
) -> Generator[PlannedBatch]:
    size = run.content.sampling.batch_size
    # A shard takes longer to plan than a GPU takes for the batches that are prefetched.
    planned = prefetch(
        (ShardInProgress(shard, plan.rows(*run.shard_rows(shard))) for shard in shards),
        SHARDS_PREFETCHED,
    )
    with closing(planned), thread_pool(STREET_THREADS) as pool:
        reader = BatchReader(plan, run, needs, pool)
        for shard in planned:
            for start in range(0, len(shard.rows), size):
                rows = shard.rows[start : start + size]
                yield PlannedBatch(
                    shard, rows, reader.read(rows), is_last=start + size >= len(shard.rows)
                )
