"""What a run is: everything that decides its bytes, and the keys that follow from it.

``content_key`` stands for the rows and their images, ``layout_key`` for their cut into shards as
well. Neither holds launchers, workers, paths, logging or time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Final, Literal

import numpy as np
from pydantic import JsonValue

from manifests.io import Images
from manifests.settings import Frozen

CODE_VERSION: Final = 1
"""Raised when the same settings and inputs begin to give other bytes."""

Precision = Literal["bf16", "float32"]
ImageFormat = Literal["jpg", "png"]
Subsampling = Literal["4:2:0", "4:4:4"]


class Sampling(Frozen):
    """How the network is run; each of these can change a byte of an image."""

    device: Literal["cpu", "cuda"]
    precision: Precision
    batch_size: int
    threads: int
    """Threads of the CPU kernels."""
    cpu_capability: str
    """Widest vector instructions that the CPU kernels use."""
    memory_format: Literal["channels_last"] = "channels_last"
    folded: bool = True
    """Batch normalisation folded into the convolutions."""
    torch: str


class Encoding(Frozen):
    """How images are stored."""

    image_format: ImageFormat = "jpg"
    quality: int | None = 95
    """Of JPEG, 1 to 100; none for PNG."""
    subsampling: Subsampling | None = "4:2:0"
    """Of JPEG's colours; none for PNG."""

    @property
    def ending(self) -> str:
        """File ending with its dot."""
        return f".{self.image_format}"


class Content(Frozen):
    """What decides every row and every byte of an image."""

    code_version: int = CODE_VERSION
    generator: str
    weights_sha256: str
    images_sha256: str
    """Of the train rows, see ``table_digest``."""
    poses_sha256: str
    """Of the pose bank."""
    per_id: int
    seed: int
    width: int
    height: int
    encoding: Encoding
    sampling: Sampling


class Run(Frozen):
    """The contents of ``run.json``."""

    content: Content
    rows: int
    rows_per_shard: int
    content_key: str
    layout_key: str
    made_from: dict[str, JsonValue]
    """The creator's settings, paths included; for people, nothing reads it."""
    versions: dict[str, str]

    @property
    def num_shards(self) -> int:
        """How many shards hold all rows."""
        return -(-self.rows // self.rows_per_shard)

    def shard_rows(self, shard: int) -> tuple[int, int]:
        """Return the first row of a shard and the row after its last."""
        start = shard * self.rows_per_shard
        return start, min(start + self.rows_per_shard, self.rows)


def make_run(
    content: Content,
    rows: int,
    rows_per_shard: int,
    made_from: Mapping[str, JsonValue],
    versions: Mapping[str, str],
) -> Run:
    """Return a run with its keys."""
    content_key = content.digest()
    layout = f"{content_key}\0{rows_per_shard}"
    return Run(
        content=content,
        rows=rows,
        rows_per_shard=rows_per_shard,
        content_key=content_key,
        layout_key=hashlib.sha256(layout.encode()).hexdigest(),
        made_from=dict(made_from),
        versions=dict(versions),
    )


def differences(found: Run, asked: Run) -> list[str]:
    """Return one sentence part per field that makes two runs different, sorted by field.

    >>> differences.__name__
    'differences'
    """
    old, new = (_fields(run) for run in (found, asked))
    return [
        f"{name} is {old[name]!r} there and {new[name]!r} here"
        for name in sorted(old)
        if old[name] != new[name]
    ]


def default_rows_per_shard(rows: int, batch_size: int) -> int:
    """Return about a 64th of the job, 512 to 20,480, a multiple of the batch size.

    One kill costs at most a shard, one file holds at most about 95 MB.

    >>> default_rows_per_shard(7_510, 16)
    512
    >>> default_rows_per_shard(100_000, 48)
    1584
    """
    wanted = min(max(-(-rows // 64), 512), 20_480)
    whole = -(-wanted // batch_size) * batch_size
    return whole if whole <= 20_480 else max(1, 20_480 // batch_size) * batch_size


def table_digest(images: Images) -> str:
    """Return the SHA-256 of what the rows say, whatever their order and the file they came from."""
    order = np.argsort(np.asarray(images.strings("image_id"), object), kind="stable")
    rows = images.take(order)
    digest = hashlib.sha256()
    for name in ("image_id", "person_id", "sha256"):
        for value in rows.strings(name):
            digest.update(b"\0" if value is None else value.encode() + b"\1")
    for name in ("camera_id", "sequence", "frame", "width", "height"):
        values = rows.table[name]
        digest.update(np.asarray(values.is_null()).tobytes())
        digest.update(np.asarray(values.fill_null(0)).astype("<i8").tobytes())
    joints = rows.keypoints()
    digest.update(np.where(np.isnan(joints), np.float32(np.nan), joints).astype("<f4").tobytes())
    return digest.hexdigest()


def _fields(run: Run) -> dict[str, JsonValue]:
    fields = dict(_flat(run.content.model_dump(mode="json"), ""))
    return {**fields, "rows_per_shard": run.rows_per_shard}


def _flat(value: Mapping[str, JsonValue], prefix: str) -> Iterator[tuple[str, JsonValue]]:
    for name, part in value.items():
        if isinstance(part, dict):
            yield from _flat(part, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", part
