"""Which worker of how many this process is: from a flag, Slurm, torchrun or Kubernetes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from manifests.runtime.console import Console, UserError

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

    @property
    def is_plain(self) -> bool:
        """Whether nothing speaks of other workers."""
        return self.origin == _ALONE

    @property
    def introduction(self) -> str:
        """The first line of a command that shares work out: who this is, and how to say else."""
        if self.origin == "--worker" or self.count == 1:
            return str(self)
        return f"{self}; --worker 0/1 makes everything here"

    def with_inner(self, inner: WorkerIndex) -> WorkerIndex:
        """Return which worker this is of all, where each of ours starts as many as ``inner``."""
        return WorkerIndex(
            self.index * inner.count + inner.index,
            self.count * inner.count,
            f"{self.origin}, times {inner.origin}",
        )


def worker_index(
    flag: str | None, environ: Mapping[str, str], num_workers: int | None
) -> WorkerIndex:
    """Return which worker this process is.

    ``flag`` decides alone. Else launchers within launchers multiply: a Slurm array, the tasks of
    its step (srun; a batch script without srun is one process, whatever ``--ntasks`` says) or a
    Kubernetes indexed job, which needs ``num_workers``, and torchrun. One torchrun over all tasks
    of a step counts once.

    Args:
        flag: ``i/N``, counted from 0, as ``--worker`` gives it.
        environ: The environment of the process.
        num_workers: How many workers there are, where the user says so; of a Kubernetes job how
            many pods.

    Raises:
        UserError: If a value is no number, index and count do not fit together, the indices of a
            Slurm array have gaps, launchers contradict each other, or ``num_workers`` is missing or
            contradicts the rest.

    >>> worker_index("1/4", {}, None)
    WorkerIndex(index=1, count=4, origin='--worker')
    """
    given = _from_flag(flag)
    if given is not None:
        return _as_expected(given, num_workers)
    array = _from_slurm_array(environ)
    tasks = _from_pair(environ, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    pods = None if tasks else _from_kubernetes(environ, num_workers)
    torchrun = _from_pair(environ, "RANK", "WORLD_SIZE")
    worker = _nested(array, _spanned(tasks or pods, torchrun, environ))
    worker = worker or WorkerIndex(0, 1, _why_alone(environ))
    return worker if pods else _as_expected(worker, num_workers)


def check_one_training(environ: Mapping[str, str]) -> None:
    """Check that the tasks of a Slurm step, if there are several, make one training together.

    Raises:
        UserError: If torchrun does not span all of them: each would train the same run.
    """
    tasks = _from_pair(environ, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    if tasks is None or tasks.count == 1:
        return
    torchrun = _from_pair(environ, "RANK", "WORLD_SIZE")
    if torchrun is None or not _spans(torchrun, tasks, environ):
        raise UserError(
            f"found {tasks} and no torchrun over all of them: each would train the same run; "
            "expected one task a node, 'srun --ntasks-per-node 1 torchrun --nnodes N ...', or, for "
            "trainings with an --out each, 'env -u SLURM_STEP_NUM_TASKS' before the command"
        )


def check_one_process(environ: Mapping[str, str]) -> None:
    """Check that no launcher started several processes of a command that shares nothing out.

    Raises:
        UserError: If one did: each would do all of the work, in one place.
    """
    for index, count in (("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"), ("RANK", "WORLD_SIZE")):
        found = _from_pair(environ, index, count)
        if found is not None and found.count > 1:
            raise UserError(
                f"found {found}: each would do all of the work; expected one process, as by 'srun "
                f"--ntasks 1', or, where each has an --out of its own, 'env -u {count}' before the "
                "command"
            )


def introduce(worker: WorkerIndex, console: Console) -> None:
    """Say who this is, the first line of a command that shares work out; nothing where alone."""
    if not worker.is_plain:
        console.say(worker.introduction, event="worker", index=worker.index, count=worker.count)


def _why_alone(environ: Mapping[str, str]) -> str:
    tasks = environ.get("SLURM_NTASKS", "")
    if tasks in {"", "1"}:
        return _ALONE
    return f"no step of srun, though SLURM_NTASKS is {tasks}"


_ALONE: Final = "no sign of other workers"


def _as_expected(worker: WorkerIndex, num_workers: int | None) -> WorkerIndex:
    if num_workers is not None and num_workers != worker.count:
        raise UserError(
            f"number of workers: found {worker.count} from {worker.origin}, "
            f"expected {num_workers}; {_HINT}"
        )
    return worker


def _nested(outer: WorkerIndex | None, inner: WorkerIndex | None) -> WorkerIndex | None:
    if outer is None or inner is None or inner.count == 1:
        return outer or inner
    return inner if outer.count == 1 else outer.with_inner(inner)


def _spanned(
    outer: WorkerIndex | None, torchrun: WorkerIndex | None, environ: Mapping[str, str]
) -> WorkerIndex | None:
    """Return the workers of one torchrun over all outer ones, or of one in each of them."""
    if outer is None or torchrun is None or outer.count == 1:
        return _nested(outer, torchrun)
    if _spans(torchrun, outer, environ):
        return torchrun
    groups = environ.get("GROUP_WORLD_SIZE", "")
    if groups == "1":
        return outer.with_inner(torchrun)
    raise UserError(
        f"found {outer} and {torchrun} with GROUP_WORLD_SIZE '{groups}', expected one torchrun "
        f"over all {outer.count} or one in each of them; {_HINT}"
    )


def _spans(torchrun: WorkerIndex, outer: WorkerIndex, environ: Mapping[str, str]) -> bool:
    """Return whether one torchrun started processes of all outer ones."""
    groups = environ.get("GROUP_WORLD_SIZE", "")
    # A script may name RANK and WORLD_SIZE after the outer ones.
    is_same = not groups and (outer.index, outer.count) == (torchrun.index, torchrun.count)
    return is_same or groups == str(outer.count)


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
    return _checked(WorkerIndex(task - first, count, "the Slurm array, SLURM_ARRAY_TASK_ID"))


def _from_pair(environ: Mapping[str, str], index: str, count: str) -> WorkerIndex | None:
    # An index without a count (a batch script without srun sets SLURM_PROCID=0) means nothing.
    if not environ.get(index) or not environ.get(count):
        return None
    numbers = _number(environ, index), _number(environ, count)
    return _checked(WorkerIndex(*numbers, f"{index} and {count}"))


def _from_kubernetes(environ: Mapping[str, str], num_workers: int | None) -> WorkerIndex | None:
    if not environ.get("JOB_COMPLETION_INDEX"):
        return None
    if num_workers is None:
        raise UserError(
            "JOB_COMPLETION_INDEX: found an index but no number of workers; "
            "expected --num-workers with the job's completions"
        )
    index = _number(environ, "JOB_COMPLETION_INDEX")
    return _checked(WorkerIndex(index, num_workers, "JOB_COMPLETION_INDEX"))


def _checked(worker: WorkerIndex) -> WorkerIndex:
    if not 0 <= worker.index < worker.count:
        raise UserError(
            f"{worker.origin}: found worker {worker.index} of {worker.count}, expected an index "
            f"from 0 to {worker.count - 1}"
        )
    return worker


def _number(environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name, "")
    if not value.isascii() or not value.isdigit():
        raise UserError(f"{name}: found '{value}', expected a whole number; {_HINT}")
    return int(value)
