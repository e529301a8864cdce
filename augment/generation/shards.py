"""The folder of a run: what appears in it, in which order, and how a dead run is taken up again.

``run.json`` comes first and is never replaced; ``data/part-000042.parquet`` exists if and only if
it is complete; ``manifest.parquet``, ``README.md`` and at last ``_SUCCESS`` follow from the shards.
Whatever starts with ``.`` or ``_`` is not data. No lock, no state elsewhere: any number of workers
may make the same shard, since they make the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from augment.generation.run_config import RunConfig
from manifests import io
from manifests.runtime import storage
from manifests.runtime.console import UserError
from manifests.runtime.files import read_file
from manifests.runtime.settings import Frozen
from manifests.runtime.storage import StoragePath
from manifests.schema import SHARD
from manifests.synthetic import SUCCESS

DATA: Final = "data"
MANIFEST_NAME: Final = "manifest.parquet"
CARD: Final = "README.md"

# pyarrow makes these functions at import time, where type checkers do not see them.
pc: Any = pyarrow.compute

_HUGGINGFACE = json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})
"""Schema metadata by which ``datasets`` opens the column ``image`` as images."""

ShardState = Literal["missing", "damaged", "complete"]


class Success(Frozen):
    """The contents of ``_SUCCESS``."""

    content_key: str
    layout_key: str
    rows: int
    shards: int
    manifest_sha256: str


def shard_name(shard: int) -> str:
    """Return the file name of a shard.

    >>> shard_name(42)
    'part-000042.parquet'
    """
    return f"part-{shard:06d}.parquet"


def shard_file(out: StoragePath, shard: int) -> StoragePath:
    """Return where a shard lies."""
    return out / DATA / shard_name(shard)


def shard_state(out: StoragePath, run: RunConfig, shard: int) -> ShardState:
    """Return the state of a shard by its footer; its pages are not read.

    A damaged file (cut off, not Parquet) holds nothing of worth and is made again.

    Raises:
        UserError: If the file is a sound shard of another run; it is left alone.
    """
    path = shard_file(out, shard)
    try:
        with io.parquet(path) as file:
            return state_of(file, path, run, shard)
    except FileNotFoundError:
        return "missing"
    except pa.ArrowException:
        return "damaged"
    except OSError as error:
        # Arrow reports a damaged file as an OSError without a number.
        if error.errno is None:
            return "damaged"
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def state_of(file: pq.ParquetFile, path: StoragePath, run: RunConfig, shard: int) -> ShardState:
    """Return the state of an open shard by its footer.

    Raises:
        UserError: If it is a sound shard of another run.
    """
    try:
        footer = footer_of(file)
    except UnicodeDecodeError:
        return "damaged"
    expected = {**keys_of(run), "shard": str(shard)}
    for name, value in expected.items():
        if footer.get(name) != value:
            raise UserError(
                f"{path}: a shard of another run, its {name} is {footer.get(name)!r} where "
                f"{value!r} is expected; move it away and run the same command again"
            )
    return "complete" if file.metadata.num_rows == run.num_rows(shard) else "damaged"


def publish(out: StoragePath, run: RunConfig, shard: int, table: pa.Table, device: str) -> None:
    """Write a shard whole or not at all.

    Raises:
        UserError: If the folder cannot be written.
    """
    assert table.schema.equals(SHARD), "a shard has the columns of schema.SHARD"
    footer = {**keys_of(run), "shard": str(shard), "device": device, "huggingface": _HUGGINGFACE}
    try:
        io.write_table(table, shard_file(out, shard), footer)
    except UserError as error:
        # Another worker published the same bytes and tidied ours away.
        gone = isinstance(error.__cause__, FileNotFoundError)
        if not (gone and shard_state(out, run, shard) == "complete"):
            raise


def unfinished(out: StoragePath, run: RunConfig) -> list[int]:
    """Return the shards that are missing or damaged.

    Raises:
        UserError: If there is a shard of another run.
    """
    return [shard for shard in range(run.num_shards) if shard_state(out, run, shard) != "complete"]


def num_rows_kept(out: StoragePath, run: RunConfig) -> int:
    """Return how many rows the shards hold that are there, by their names alone.

    Raises:
        UserError: If a store cannot be listed.
    """
    folder = out / DATA
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
    there = (shard for shard in range(run.num_shards) if shard_name(shard) in names)
    return sum(map(run.num_rows, there))


def read_success(out: StoragePath, run: RunConfig) -> Success | None:
    """Return the run's mark of success, none if it has none.

    Raises:
        UserError: If the mark is of another run.
    """
    path = out / SUCCESS
    if not path.exists():
        return None
    text = read_file(path, "the mark of a finished run")
    success = Success.from_json(text, where=str(path))
    if (success.content_key, success.layout_key) != (run.content_key, run.layout_key):
        raise UserError(f"{path}: the mark of another run; remove it and run the command again")
    return success


def withdraw(out: StoragePath) -> None:
    """Take ``_SUCCESS`` away before shards are made again."""
    (out / SUCCESS).unlink(missing_ok=True)
    storage.sync_folder(out)


def tidy(out: StoragePath) -> None:
    """Remove what killed writers left behind; called when every shard is complete.

    What may not be removed stays: it is in nobody's way.
    """
    for path in leftovers(out):
        with suppress(OSError):
            path.unlink()


def leftovers(out: StoragePath) -> list[Path]:
    """Return the files that writers are at, or that killed writers left."""
    return [*storage.unpublished(out), *storage.unpublished(out / DATA)]


def num_errors(file: StoragePath) -> int:
    """Return how many rows of a manifest or a shard have no image.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        with io.parquet(file) as opened:
            if "error" not in opened.schema.names:
                raise UserError(f"{file}: found no column 'error', expected a shard or a manifest")
            position = opened.schema.names.index("error")
            groups = range(opened.num_row_groups)
            nulls = sum(_num_null(opened, group, position) for group in groups)
            return opened.metadata.num_rows - nulls
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: missing or damaged ({error})") from error


def _num_null(file: pq.ParquetFile, group: int, position: int) -> int:
    """Return how often a column is null, by the footer: no page of a large file is read."""
    statistics = file.metadata.row_group(group).column(position).statistics
    if statistics is None or not statistics.has_null_count:
        return file.read_row_group(group, columns=["error"])["error"].null_count
    return statistics.null_count


def keys_of(run: RunConfig) -> Mapping[str, str]:
    """Return what shards and manifest say of their run."""
    return {"content_key": run.content_key, "layout_key": run.layout_key}


def footer_of(file: pq.ParquetFile) -> dict[str, str]:
    """Return the keys and values in a footer."""
    metadata = file.schema_arrow.metadata or {}
    return {key.decode(): value.decode() for key, value in metadata.items()}
