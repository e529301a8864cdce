"""``augment verify``: every image hashed again, every row held against the manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from tyro.conf import Positional

from augment.generation import shards
from augment.generation.run_config import RunConfig, require_run_config
from manifests import io
from manifests.runtime import run_record
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.settings import Frozen
from manifests.runtime.storage import StoragePath, StoragePathFlag
from manifests.schema import MANIFEST, SHARD
from manifests.synthetic import SUCCESS


class VerifySettings(Frozen):
    """Read a whole run again and hash every image; nothing is written."""

    out: Positional[StoragePathFlag]
    """Folder of the run, or its URL."""


def verify(settings: VerifySettings, console: Console) -> Exit:
    """Say what is wrong with the run, one line each.

    Returns:
        ``DONE`` if nothing is, else ``REFUSED``.

    Raises:
        UserError: If the folder is not that of a run, or has a shard of another one.
    """
    run = require_run_config(settings.out)
    found = 0
    for problem in problems(settings.out, run):
        found += 1
        console.show(problem + "\n")
    if found:
        console.say(f"{settings.out}: {found:,} problems", event="verified", problems=found)
        return Exit.REFUSED
    console.say(
        f"{settings.out}: {run.content.rows:,} rows in {run.num_shards:,} shards are sound",
        event="verified",
        problems=0,
    )
    return Exit.DONE


def problems(out: StoragePath, run: RunConfig) -> Iterator[str]:
    """Give every problem as a sentence; memory stays at the rows of one shard.

    Raises:
        UserError: If there is a shard or a mark of another run, or the manifest is damaged.
    """
    record = run_record.read(out / run_record.RUN_RECORD)
    for name in ("content_key", "layout_key"):
        if record.get(name) != getattr(run, name):
            yield f"{out / run_record.RUN_RECORD}: its {name} does not follow from its other fields"
    yield from _unexpected_files(out, run)
    success = shards.read_success(out, run)
    if success is None:
        yield f"{out}: not finished; the same 'augment generate' command goes on"
    manifest = out / shards.MANIFEST_NAME
    if success is not None and not manifest.is_file():
        yield f"{manifest}: missing"
    elif success is not None and io.sha256_file(manifest) != success.manifest_sha256:
        yield f"{manifest}: its SHA-256 is not the one in {SUCCESS}"
    rows = _ManifestRows(manifest) if success is not None and manifest.is_file() else None
    for shard in range(run.num_shards):
        expected = None if rows is None else rows.take(run.num_rows(shard))
        yield from _shard_problems(out, run, shard, expected)


class _ManifestRows:
    """The rows of a manifest from first to last, never more than one of its row groups at once."""

    def __init__(self, path: StoragePath) -> None:
        self._path = path
        self._groups = self._read()
        self._rest = MANIFEST.empty_table()

    def take(self, count: int) -> pa.Table:
        """Return the next rows, fewer at the end.

        Raises:
            UserError: If the manifest is damaged or none.
        """
        while len(self._rest) < count and (group := next(self._groups, None)) is not None:
            self._rest = pa.concat_tables([self._rest, group])
        taken, self._rest = self._rest.slice(0, count), self._rest.slice(count)
        return taken

    def _read(self) -> Iterator[pa.Table]:
        try:
            with io.parquet(self._path) as file:
                if file.schema_arrow.names != MANIFEST.names:
                    raise UserError(f"{self._path}: its columns are not those of a manifest")
                for group in range(file.num_row_groups):
                    rows = file.read_row_group(group)
                    rows.validate(full=True)
                    yield rows.replace_schema_metadata(None)
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"{self._path}: damaged ({error}); remove {SUCCESS} and run the same command again"
            ) from error


def _unexpected_files(out: StoragePath, run: RunConfig) -> Iterator[str]:
    known = {shards.shard_name(shard) for shard in range(run.num_shards)}
    folder = out / shards.DATA
    for path in sorted(folder.iterdir(), key=str) if folder.is_dir() else ():
        if path.name not in known and not path.name.startswith((".", "_")):
            yield f"{path}: no shard of this run"


def _shard_problems(
    out: StoragePath, run: RunConfig, shard: int, manifest: pa.Table | None
) -> Iterator[str]:
    path = shards.shard_file(out, shard)
    state = shards.shard_state(out, run, shard)
    if state != "complete":
        yield f"{path}: {state}; the same 'augment generate' command makes it again"
        return
    columns = [name for name in SHARD.names if name != "image"]
    try:
        with io.parquet(path) as file:
            if not file.schema_arrow.equals(SHARD):
                yield f"{path}: its columns are not those of a shard"
                return
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group)
                # Bytes that are no text fail at whoever looks at them.
                rows.validate(full=True)
                yield from _row_problems(rows, path)
                if manifest is not None:
                    if not _equal(manifest.slice(0, len(rows)), rows, columns):
                        yield f"{path}: row group {group} differs from the manifest"
                    manifest = manifest.slice(len(rows))
    except (pa.ArrowException, OSError) as error:
        yield f"{path}: damaged ({error}); remove it and run the same command again"


def _equal(first: pa.Table, second: pa.Table, columns: list[str]) -> bool:
    """Return whether two tables agree; a missing joint (NaN) equals a missing joint."""
    plain = [name for name in columns if name != "keypoints"]
    joints = [io.keypoint_array(table["keypoints"]) for table in (first, second)]
    return first.select(plain).equals(second.select(plain)) and np.array_equal(
        joints[0], joints[1], equal_nan=True
    )


def _row_problems(rows: pa.Table, path: StoragePath) -> Iterator[str]:
    fields = ("image_id", "sha256", "error", "image")
    for name, sha256, error, image in zip(
        *(rows[field].to_pylist() for field in fields), strict=True
    ):
        if (image is None) != (error is not None):
            found = "neither image nor" if image is None else "both image and"
            yield f"{path}: row '{name}' has {found} error"
        elif image is not None and hashlib.sha256(image["bytes"] or b"").hexdigest() != sha256:
            yield f"{path}: the image of row '{name}' does not have its SHA-256"
