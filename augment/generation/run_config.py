"""What a run is: everything that decides its bytes, and the keys that follow from it.

``content_key`` stands for the rows and their images, ``layout_key`` for their cut into shards as
well. Neither holds launchers, workers, paths, logging or time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import pyarrow.compute
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from augment.generation.choices import Choices, NewPeople, Purpose
from manifests.compute.precision import Precision
from manifests.io import Images, keypoint_array
from manifests.runtime import run_record
from manifests.runtime.console import UserError
from manifests.runtime.settings import Frozen
from manifests.runtime.storage import StoragePath

CODE_VERSION: Final = 7
"""Raised when the same settings and inputs begin to give other bytes."""

# pyarrow makes these functions at import time, where type checkers do not see them.
pc: Any = pyarrow.compute

_NUM_SHARDS: Final = 8
"""Shards that a small job has at least, unless they would be smaller than a batch."""

_BLOCK_ROWS: Final = 65_536
"""Rows that ``table_digest`` looks at at once."""

ImageFormat = Literal["jpg", "png"]
Subsampling = Literal["4:2:0", "4:4:4"]


class Sampling(Frozen):
    """How the network is run; each of these can change a byte of an image."""

    device: str
    """cpu or cuda."""
    precision: Precision
    batch_size: int
    threads: int
    """Threads of the CPU kernels."""
    cpu: str | None
    """Widest instructions of the CPU kernels; none on a GPU."""
    memory_format: Literal["channels_last"] = "channels_last"
    folded: bool = True
    """Batch normalisation folded into the convolutions."""
    torch: str
    compiled: bool = False
    """The network turned into fused kernels, on a GPU replayed as one graph."""

    @model_serializer(mode="wrap")
    def _without_default(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave ``compiled`` out where it is false: the keys of runs made before it stay."""
        fields: dict[str, Any] = handler(self)
        return {k: value for k, value in fields.items() if k != "compiled" or value}


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


class Content(Choices, NewPeople):
    """What decides every row and every byte of an image."""

    code_version: int = CODE_VERSION
    generator: str
    weights_sha256: str
    images_sha256: str
    """Of the rows that may be sources, see ``table_digest``."""
    poses_sha256: str
    """Of the pose bank."""
    target_images_sha256: str | None = None
    """Of the files that the bank's poses were seen in, for a system that looks at them."""
    masks_sha256: str | None = None
    """Of the masks of sources and of what poses were seen in, for a system that looks at them."""
    centrality_sha256: str | None = None
    """Of how central the sources are, where they are chosen by it."""
    rows: int
    per_id: int
    seed: int
    purpose: Purpose = "training"
    options: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    """Of the system's class ``Options``."""
    width: int
    height: int
    encoding: Encoding
    sampling: Sampling

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what a system does not have: its runs keep their keys."""
        fields: dict[str, Any] = handler(self)
        optional = ("options", "target_images_sha256", "masks_sha256", "centrality_sha256")
        chosen = {**Choices.model_fields, **NewPeople.model_fields}
        for name, choice in chosen.items():
            if fields[name] == choice.default:
                del fields[name]
        if self.purpose == "training":
            del fields["purpose"]
        return {k: value for k, value in fields.items() if k not in optional or value}


class RunConfig(Frozen):
    """A run: its contents and their cut into shards."""

    content: Content
    rows_per_shard: int

    @property
    def content_key(self) -> str:
        """Equal if and only if rows and images are meant to be equal."""
        return self.content.digest()

    @property
    def layout_key(self) -> str:
        """Equal if and only if the shards are meant to be equal, byte for byte."""
        text = f"{self.content_key}\0{self.rows_per_shard}"
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def num_shards(self) -> int:
        """How many shards hold all rows."""
        return -(-self.content.rows // self.rows_per_shard)

    def shard_rows(self, shard: int) -> tuple[int, int]:
        """Return the first row of a shard and the row after its last."""
        start = shard * self.rows_per_shard
        return start, min(start + self.rows_per_shard, self.content.rows)

    def num_rows(self, shard: int) -> int:
        """Return how many rows a shard has."""
        start, stop = self.shard_rows(shard)
        return stop - start


def begin(out: StoragePath, run: RunConfig, made_from: dict[str, Any]) -> None:
    """Make a folder the home of a run, or check that it is.

    Args:
        out: Made if it is missing.
        run: What the settings ask for.
        made_from: The settings themselves, kept for people.

    Raises:
        UserError: If another run lives there (the fields that differ are named), the folder holds
            something else, or it cannot be written.
    """
    if is_begun(out, run):
        return
    facts = {
        "content_key": run.content_key,
        "layout_key": run.layout_key,
        "settings": made_from,
        "versions": run_record.versions("torch", "numpy", "pyarrow", "opencv-python-headless"),
    }
    run_record.write(out, _config(run), facts)


def is_begun(out: StoragePath, run: RunConfig) -> bool:
    """Return whether a folder is the home of a run already; if not, it is free for it.

    Raises:
        UserError: If another run lives there, or the folder holds something else.
    """
    return run_record.is_home_of(
        out, _config(run), "an empty folder or a run of 'augment generate'"
    )


def read_run_config(out: StoragePath) -> RunConfig | None:
    """Return the run of a folder, none if nobody has begun one.

    Raises:
        UserError: If ``run.json`` is not of a run of ``augment generate``.
    """
    path = out / run_record.RUN_RECORD
    if not path.is_file():
        return None
    config = run_record.read(path)["config"]
    if "content" not in config:
        raise UserError(f"{path}: found the run of another command, expected 'augment generate'")
    return RunConfig.from_json(json.dumps(config), where=str(path))


def require_run_config(out: StoragePath) -> RunConfig:
    """Return the run of a folder.

    Raises:
        UserError: If there is none.
    """
    run = read_run_config(out)
    if run is None:
        found = f"a folder without {run_record.RUN_RECORD}" if out.is_dir() else "no such folder"
        found = "a file" if out.is_file() else found
        raise UserError(f"{out}: {found}; expected the OUT of 'augment generate'")
    return run


def default_rows_per_shard(rows: int, batch_size: int) -> int:
    """Return about a 64th of the job, 512 to 20,480, a multiple of the batch size.

    Of a job below 4,096 rows it is at most an eighth, but a batch at least: one kill costs at most
    a shard. One file holds at most about 95 MB. Batches hold the same rows whatever the multiple,
    so no image depends on it.

    >>> default_rows_per_shard(7_510, 16), default_rows_per_shard(150, 16)
    (512, 16)
    >>> default_rows_per_shard(100_000, 48)
    1584
    """
    if rows < _NUM_SHARDS * 512:
        return max(rows // _NUM_SHARDS // batch_size, 1) * batch_size
    about = min(max(-(-rows // 64), 512), 20_480)
    whole = -(-about // batch_size) * batch_size
    return whole if whole <= 20_480 else max(1, 20_480 // batch_size) * batch_size


def table_digest(images: Images) -> str:
    """Return the SHA-256 of what the rows say, whatever their order and the file they came from."""
    rows = images.take(pc.sort_indices(images.table["image_id"]).to_numpy())
    digest = hashlib.sha256()
    for name in ("image_id", "person_id", "sha256"):
        digest.update(b"[")
        for first in range(0, len(rows), _BLOCK_ROWS):
            # The text of one JSON list, without holding all of it.
            block = rows.table[name].slice(first, _BLOCK_ROWS).to_pylist()
            digest.update((", " * bool(first) + json.dumps(block)[1:-1]).encode())
        digest.update(b"]")
    for name in ("camera_id", "sequence", "frame", "width", "height"):
        values = rows.table[name]
        digest.update(np.asarray(values.is_null()).tobytes())
        digest.update(np.asarray(values.fill_null(0)).astype("<i8").tobytes())
    for first in range(0, len(rows), _BLOCK_ROWS):
        joints = keypoint_array(rows.table["keypoints"].slice(first, _BLOCK_ROWS))
        # One NaN: others differ in bits that mean nothing.
        joints = np.where(np.isnan(joints), np.float32(np.nan), joints)
        digest.update(joints.astype("<f4").tobytes())
    return digest.hexdigest()


def masks_digest(tables: Sequence[Images]) -> str:
    """Return the SHA-256 of the masks of some tables, by image, in any row order."""
    digest = hashlib.sha256()
    for images in tables:
        rows = images.take(pc.sort_indices(images.table["image_id"]).to_numpy()).table
        digest.update(b"[")
        for first in range(0, len(rows), _BLOCK_ROWS):
            block = rows.slice(first, _BLOCK_ROWS)
            for name, mask in zip(
                *(block[c].to_pylist() for c in ("image_id", "mask")), strict=True
            ):
                digest.update(f"{name}\0{len(mask or b'')}\0".encode() + (mask or b""))
    return digest.hexdigest()


def _config(run: RunConfig) -> dict[str, Any]:
    return run.model_dump(mode="json")
