"""``augment status``: how far a run has come, from its folder alone."""

from __future__ import annotations

from typing import Annotated

from tyro.conf import Positional, arg

from augment.generation import shards
from augment.generation.run_config import require_run_config
from manifests.runtime.console import Console, Exit
from manifests.runtime.settings import Frozen
from manifests.runtime.storage import StoragePath, StoragePathFlag


class StatusSettings(Frozen):
    """Show how far a run has come; nothing is written."""

    out: Positional[StoragePathFlag]
    """Folder of the run, or its URL."""
    as_json: Annotated[bool, arg(name="json")] = False
    """One JSON object instead of text."""


class Status(Frozen):
    """How far a run has come."""

    finished: bool
    """Whether manifest and mark of success are there."""
    shards: int
    shards_complete: int
    shards_damaged: int
    rows: int
    rows_complete: int
    rows_failed: int
    unpublished_files: int
    """Files that writers are at, or that killed ones left."""

    def text(self) -> str:
        """Return the same for people."""
        how_far = "finished" if self.finished else "not finished"
        parts = f"{self.shards_complete:,} of {self.shards:,} shards"
        lines = [f"{how_far}: {parts}, {self.rows_complete:,} of {self.rows:,} rows"]
        if self.rows_failed:
            lines.append(f"{self.rows_failed:,} rows failed; --retry-failed makes them again")
        if self.shards_damaged:
            lines.append(f"{self.shards_damaged:,} shards are damaged and will be made again")
        if self.unpublished_files:
            lines.append(f"{self.unpublished_files:,} files are being written or were left behind")
        if not self.finished:
            lines.append("the same 'augment generate' command goes on")
        return "\n".join(lines) + "\n"


def status(settings: StatusSettings, console: Console) -> Exit:
    """Show how far the run has come.

    Raises:
        UserError: If the folder is not that of a run, or has a shard of another one.
    """
    found = look(settings.out)
    console.show(found.to_json() + "\n" if settings.as_json else found.text())
    return Exit.DONE


def look(out: StoragePath) -> Status:
    """Return how far the run in a folder has come.

    Raises:
        UserError: If the folder is not that of a run, or has a shard of another one.
    """
    run = require_run_config(out)
    states = [shards.shard_state(out, run, shard) for shard in range(run.num_shards)]
    complete = [shard for shard, state in enumerate(states) if state == "complete"]
    return Status(
        finished=len(complete) == run.num_shards and shards.read_success(out, run) is not None,
        shards=run.num_shards,
        shards_complete=len(complete),
        shards_damaged=states.count("damaged"),
        rows=run.content.rows,
        rows_complete=sum(run.num_rows(shard) for shard in complete),
        rows_failed=sum(shards.num_errors(shards.shard_file(out, shard)) for shard in complete),
        unpublished_files=len(shards.leftovers(out)),
    )
