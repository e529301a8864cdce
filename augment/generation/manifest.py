"""The end of a run: manifest, card and mark of success, from its shards alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from augment.generation.camera_counts import CameraCounts
from augment.generation.run_config import RunConfig
from augment.generation.shards import (
    CARD,
    MANIFEST_NAME,
    Success,
    footer_of,
    keys_of,
    num_rows_kept,
    read_success,
    shard_file,
    shard_name,
    state_of,
    tidy,
)
from manifests import io
from manifests.runtime import storage
from manifests.runtime.console import UserError, one_line
from manifests.runtime.storage import StoragePath
from manifests.schema import MANIFEST, SHARD
from manifests.synthetic import SUCCESS

# pyarrow makes these functions at import time, where type checkers do not see them.
pc: Any = pyarrow.compute


@dataclass
class Tally:
    """What the rows of a run came to."""

    rows: int = 0
    errors: int = 0
    devices: Counter[str] = field(default_factory=Counter[str])
    """Rows by the kind of device that made them."""
    cameras: CameraCounts = field(default_factory=CameraCounts)


def finalise(out: StoragePath, run: RunConfig, card: str) -> Success | None:
    """Write manifest, card and ``_SUCCESS``, in this order, if all shards are there.

    Whoever finds the run complete may call this, also several at once and again and again.

    Args:
        out: The run's folder.
        run: Its contents.
        card: The text of ``README.md``, with ``{errors}``, ``{devices}`` and ``{cameras}``
            to fill in.

    Returns:
        Nothing if shards are missing.

    Raises:
        UserError: If the shards do not add up to the plan, or the folder cannot be written.
    """
    if _some_missing(out, run):
        return None
    manifest = out / MANIFEST_NAME
    try:
        tally = _write_manifest(out, run)
        text = card.replace("{errors}", f"{tally.errors:,}").replace("{devices}", _devices(tally))
        text = text.replace("{cameras}", tally.cameras.table())
        io.write_bytes(text.encode(), out / CARD)
        success = Success(
            content_key=run.content_key,
            layout_key=run.layout_key,
            rows=run.content.rows,
            shards=run.num_shards,
            manifest_sha256=io.sha256_file(manifest),
        )
        io.write_bytes(success.to_json().encode() + b"\n", out / SUCCESS)
    except _NotComplete:
        return None
    except UserError as error:
        # Another finaliser was faster and tidied our file away: its files are the same.
        gone = isinstance(error.__cause__, FileNotFoundError)
        finished = read_success(out, run) if gone else None
        if finished is None:
            raise
        return finished
    tidy(out)
    return success


def _some_missing(out: StoragePath, run: RunConfig) -> bool:
    """Return whether names are missing: one listing, where many workers would open every shard."""
    return num_rows_kept(out, run) < run.content.rows


class _NotComplete(Exception):  # noqa: N818 - no error: other workers are at it
    """A shard is missing or damaged."""


def _write_manifest(out: StoragePath, run: RunConfig) -> Tally:
    """Write the manifest shard by shard, so that memory does not grow with the run.

    Each shard is opened once, for a look at its footer and for its rows.
    """
    tally = Tally()
    last: tuple[str, int] | None = None
    # The writer keeps a note of every row group until the end, so each shard is one.
    group_rows = max(io.ROW_GROUP_ROWS, run.rows_per_shard)
    with (
        storage.replacing(out / MANIFEST_NAME) as file,
        pq.ParquetWriter(
            file, MANIFEST.with_metadata(keys_of(run)), compression="zstd", write_statistics=True
        ) as writer,
    ):
        for shard in range(run.num_shards):
            device, rows = _rows_without_images(out, run, shard)
            last = _check_order(rows, last, shard_file(out, shard))
            tally.devices[device] += len(rows)
            tally.cameras.add(rows)
            tally.rows += len(rows)
            tally.errors += len(rows) - rows["error"].null_count
            writer.write_table(_with_location(rows, shard), row_group_size=group_rows)
        if tally.rows != run.content.rows:
            raise UserError(
                f"{out}: found {tally.rows:,} rows in the shards, planned {run.content.rows:,}"
            )
    return tally


def _rows_without_images(out: StoragePath, run: RunConfig, shard: int) -> tuple[str, pa.Table]:
    """Return the kind of device that made a shard, and its rows.

    Raises:
        _NotComplete: If it is missing, its footer is damaged, or it has too few rows.
        UserError: If it is of another run, cannot be read, or is damaged behind a sound footer.
    """
    path = shard_file(out, shard)
    columns = [name for name in SHARD.names if name != "image"]
    state = "damaged"
    try:
        with io.parquet(path) as file:
            state = state_of(file, path, run, shard)
            if state == "complete":
                return footer_of(file).get("device", "unknown"), file.read(columns=columns)
    except FileNotFoundError as error:
        raise _NotComplete from error
    except (pa.ArrowException, OSError) as error:
        # Arrow reports a damaged file as an OSError without a number.
        if state == "complete" or getattr(error, "errno", None) is not None:
            raise UserError(
                f"{path}: damaged ({one_line(str(error))}); remove it and run the command again"
            ) from error
    raise _NotComplete


def _with_location(rows: pa.Table, shard: int) -> pa.Table:
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
