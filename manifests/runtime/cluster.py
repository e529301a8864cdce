"""Which worker of how many this process is: from a flag, Slurm, torchrun or Kubernetes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from manifests.runtime.console import UserError

_HINT: Final = "name this worker with --worker i/N (i counts from 0)"


@dataclass(frozen=True, slots=True)
class WorkerIndex:
    """Worker ``index`` of ``count``, counted from 0."""

    index: int
    count: int
    origin: str
    """The flag or variables that it was read from."""

    def __str__(self) -> str:
        return f"worker {self.index} of {self.count} (from {self.origin})"


def worker_index(
    flag: str | None, environ: Mapping[str, str], num_workers: int | None
) -> WorkerIndex:
    """Return which worker this process is; the first of these rules that applies decides.

    ``flag``; a Slurm array; Slurm tasks (srun); torchrun; a Kubernetes indexed job, which needs
    ``num_workers``; else the only worker.

    Args:
        flag: ``i/N``, counted from 0, as ``--worker`` gives it.
        environ: The environment of the process.
        num_workers: How many workers there are, where the user says so.

    Raises:
        UserError: If a value is no number, index and count do not fit together, the indices of a
            Slurm array have gaps, or ``num_workers`` is missing or contradicts the rest.

    >>> worker_index("1/4", {}, None)
    WorkerIndex(index=1, count=4, origin='--worker')
    """
    worker = (
        _from_flag(flag)
        or _from_slurm_array(environ)
        or _from_pair(environ, "SLURM_PROCID", "SLURM_NTASKS")
        or _from_pair(environ, "RANK", "WORLD_SIZE")
        or _from_kubernetes(environ, num_workers)
        or WorkerIndex(0, 1, "no sign of other workers")
    )
    if num_workers is not None and num_workers != worker.count:
        raise UserError(
            f"number of workers: found {worker.count} from {worker.origin}, "
            f"expected {num_workers}; {_HINT}"
        )
    if not 0 <= worker.index < worker.count:
        raise UserError(
            f"{worker.origin}: found worker {worker.index} of {worker.count}, expected an index "
            f"from 0 to {worker.count - 1}"
        )
    return worker


def _from_flag(flag: str | None) -> WorkerIndex | None:
    if flag is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", flag)
    if match is None or int(match[1]) >= int(match[2]):
        raise UserError(f"--worker: found '{flag}', expected i/N with i from 0 to N - 1, like 0/4")
    return WorkerIndex(int(match[1]), int(match[2]), "--worker")


def _from_slurm_array(environ: Mapping[str, str]) -> WorkerIndex | None:
    if not environ.get("SLURM_ARRAY_TASK_ID"):
        return None
    task, count, first, last = (
        _number(environ, f"SLURM_ARRAY_TASK_{part}") for part in ("ID", "COUNT", "MIN", "MAX")
    )
    if count != last - first + 1:
        raise UserError(
            f"Slurm array: found {count} tasks with indices from {first} to {last}, "
            f"expected indices without gaps; {_HINT}"
        )
    return WorkerIndex(task - first, count, "the Slurm array, SLURM_ARRAY_TASK_ID")


def _from_pair(environ: Mapping[str, str], index: str, count: str) -> WorkerIndex | None:
    # An index without a count (a batch script without srun sets SLURM_PROCID=0) means nothing.
    if not environ.get(index) or not environ.get(count):
        return None
    return WorkerIndex(_number(environ, index), _number(environ, count), f"{index} and {count}")


def _from_kubernetes(environ: Mapping[str, str], num_workers: int | None) -> WorkerIndex | None:
    if not environ.get("JOB_COMPLETION_INDEX"):
        return None
    if num_workers is None:
        raise UserError(
            "JOB_COMPLETION_INDEX: found an index but no number of workers; "
            "expected --num-workers with the job's completions"
        )
    return WorkerIndex(
        _number(environ, "JOB_COMPLETION_INDEX"), num_workers, "JOB_COMPLETION_INDEX"
    )


def _number(environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name, "")
    if not value.isascii() or not value.isdigit():
        raise UserError(f"{name}: found '{value}', expected a whole number; {_HINT}")
    return int(value)
