"""The folder of a run: what appears in it, in which order, and how a dead run is taken up again.

``run.json`` comes first and is never replaced; ``data/part-000042.parquet`` exists if and only if
it is complete; ``manifest.parquet``, ``README.md`` and at last ``_SUCCESS`` follow from the shards.
Whatever starts with ``.`` or ``_`` is not data. No lock, no state elsewhere: any number of workers
may make the same shard, since they make the same bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from augment.generation.run_config import RunConfig
from manifests import io
from manifests.runtime import storage
from manifests.runtime.console import UserError
from manifests.runtime.settings import Frozen
from manifests.runtime.storage import StoragePath
from manifests.schema import MANIFEST, SHARD
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


@dataclass
class Tally:
    """What the rows of a run came to."""

    rows: int = 0
    errors: int = 0
    devices: Counter[str] = field(default_factory=Counter[str])
    """Rows by the kind of device that made them."""


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
    """Return what a look at the footer of a shard tells; its pages are not read.

    A damaged file (cut off, not Parquet) holds nothing of worth and is made again.

    Raises:
        UserError: If the file is a sound shard of another run; it is left alone.
    """
    path = shard_file(out, shard)
    try:
        with io.parquet(path) as file:
            footer = _footer(file)
            rows = file.metadata.num_rows
    except FileNotFoundError:
        return "missing"
    except pa.ArrowException:
        return "damaged"
    except OSError as error:
        # Arrow reports a damaged file as an OSError without a number.
        if error.errno is None:
            return "damaged"
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    expected = {**_keys(run), "shard": str(shard)}
    for name, value in expected.items():
        if footer.get(name) != value:
            raise UserError(
                f"{path}: a shard of another run, its {name} is {footer.get(name)!r} where "
                f"{value!r} is expected; move it away and run the same command again"
            )
    return "complete" if rows == run.num_rows(shard) else "damaged"


def publish(out: StoragePath, run: RunConfig, shard: int, table: pa.Table, device: str) -> None:
    """Write a shard whole or not at all.

    Raises:
        UserError: If the place cannot be written.
    """
    assert table.schema.equals(SHARD), "a shard has the columns of schema.SHARD"
    footer = {**_keys(run), "shard": str(shard), "device": device, "huggingface": _HUGGINGFACE}
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


def finalise(out: StoragePath, run: RunConfig, card: str) -> Success | None:
    """Write manifest, card and ``_SUCCESS``, in this order, if all shards are there.

    Whoever finds the run complete may call this, also several at once and again and again.

    Args:
        out: The run's folder.
        run: Its contents.
        card: The text of ``README.md``, with ``{errors}`` and ``{devices}`` to fill in.

    Returns:
        Nothing if shards are missing.

    Raises:
        UserError: If the shards do not add up to the plan, or the folder cannot be written.
    """
    if _some_missing(out, run) or unfinished(out, run):
        return None
    manifest = out / MANIFEST_NAME
    try:
        tally = _write_manifest(out, run)
        text = card.replace("{errors}", f"{tally.errors:,}").replace("{devices}", _devices(tally))
        io.write_bytes(text.encode(), out / CARD)
        success = Success(
            content_key=run.content_key,
            layout_key=run.layout_key,
            rows=run.content.rows,
            shards=run.num_shards,
            manifest_sha256=io.sha256_file(manifest),
        )
        io.write_bytes(success.to_json().encode() + b"\n", out / SUCCESS)
    except UserError as error:
        # Another finaliser was faster and tidied our file away: its files are the same.
        gone = isinstance(error.__cause__, FileNotFoundError)
        finished = read_success(out, run) if gone else None
        if finished is None:
            raise
        return finished
    tidy(out)
    return success


def read_success(out: StoragePath, run: RunConfig) -> Success | None:
    """Return the run's mark of success, none if it has none.

    Raises:
        UserError: If the mark is of another run.
    """
    path = out / SUCCESS
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
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
            place = opened.schema.names.index("error")
            groups = range(opened.num_row_groups)
            nulls = sum(_num_null(opened, group, place) for group in groups)
            return opened.metadata.num_rows - nulls
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: missing or damaged ({error})") from error


def _num_null(file: pq.ParquetFile, group: int, place: int) -> int:
    """Return how often a column is null, by the footer: no page of a large file is read."""
    statistics = file.metadata.row_group(group).column(place).statistics
    if statistics is None or not statistics.has_null_count:
        return file.read_row_group(group, columns=["error"])["error"].null_count
    return statistics.null_count


def _some_missing(out: StoragePath, run: RunConfig) -> bool:
    """Return whether names are missing: one listing, where many workers would open every shard."""
    folder = out / DATA
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
    return any(shard_name(shard) not in names for shard in range(run.num_shards))


def _write_manifest(out: StoragePath, run: RunConfig) -> Tally:
    """Write the manifest shard by shard, so that memory does not grow with the run."""
    tally = Tally()
    last: tuple[str, int] | None = None
    columns = [name for name in SHARD.names if name != "image"]
    # The writer keeps a note of every row group until the end, so each shard is one.
    group_rows = max(io.ROW_GROUP_ROWS, run.rows_per_shard)
    with (
        storage.replacing(out / MANIFEST_NAME) as file,
        pq.ParquetWriter(
            file, MANIFEST.with_metadata(_keys(run)), compression="zstd", write_statistics=True
        ) as writer,
    ):
        for shard in range(run.num_shards):
            path = shard_file(out, shard)
            try:
                with io.parquet(path) as part:
                    tally.devices[_footer(part).get("device", "unknown")] += part.metadata.num_rows
                    rows = part.read(columns=columns)
            except (pa.ArrowException, OSError) as error:
                raise UserError(f"{path}: damaged ({error}); run the command again") from error
            last = _check_order(rows, last, path)
            tally.rows += len(rows)
            tally.errors += len(rows) - rows["error"].null_count
            writer.write_table(_with_place(rows, shard), row_group_size=group_rows)
        if tally.rows != run.content.rows:
            raise UserError(
                f"{out}: found {tally.rows:,} rows in the shards, planned {run.content.rows:,}"
            )
    return tally


def _with_place(rows: pa.Table, shard: int) -> pa.Table:
    numbers = pa.array(np.arange(len(rows), dtype=np.int32))
    names = pa.repeat(pa.scalar(shard_name(shard)), len(rows))
    placed = rows.append_column("shard", names).append_column("shard_row", numbers)
    return pa.Table.from_arrays(placed.columns, schema=MANIFEST)


def _check_order(
    rows: pa.Table, last: tuple[str, int] | None, path: StoragePath
) -> tuple[str, int] | None:
    """Refuse rows that do not rise by (person, k): then none stands twice, in or across shards."""
    if not len(rows):
        return last
    people, k = rows["person_id"].combine_chunks(), rows["k"].combine_chunks()
    before, after = (people[:-1], k[:-1]), (people[1:], k[1:])
    rises = pc.or_(
        pc.less(before[0], after[0]),
        pc.and_(pc.equal(before[0], after[0]), pc.less(before[1], after[1])),
    )
    first = (people[0].as_py(), k[0].as_py())
    if not pc.all(rises, min_count=0).as_py() or (last is not None and not last < first):
        raise UserError(f"{path}: rows stand twice or out of order; remove the file and run again")
    return people[-1].as_py(), k[-1].as_py()


def _devices(tally: Tally) -> str:
    kinds = sorted(tally.devices)
    if len(kinds) < 2:
        return "".join(kinds)
    mixed = ", ".join(f"{tally.devices[kind]:,} rows on {kind}" for kind in kinds)
    return f"{mixed} (mixed, so another run may differ in a byte)"


def _keys(run: RunConfig) -> Mapping[str, str]:
    return {"content_key": run.content_key, "layout_key": run.layout_key}


def _footer(file: pq.ParquetFile) -> dict[str, str]:
    metadata = file.schema_arrow.metadata or {}
    return {key.decode(): value.decode() for key, value in metadata.items()}
