"""Which worker of how many this process is, and Slurm for any command."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from tyro.conf import arg

from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.settings import Frozen

_HINT: Final = "name this worker with --worker i/N (i counts from 0)"


@dataclass(frozen=True, slots=True)
class WorkerIndex:
    """WorkerIndex ``index`` of ``count``; ``index`` counts from 0."""

    index: int
    count: int
    origin: str
    """Where this is known from, for people."""

    def __str__(self) -> str:
        return f"worker {self.index} of {self.count} (from {self.origin})"


class Slurm(Frozen):
    """What a Slurm array task asks for."""

    job_name: str = "reid-augment"
    """Its name in the queue."""
    gpus: int = 1
    """GPUs per task."""
    cpus: int = 4
    """CPUs per task."""
    memory_gb: int = 16
    """Memory per task, in GB."""
    hours: int = 24
    """Time limit."""
    partition: str | None = None
    """The cluster's default where not set."""
    logs: str = "slurm-logs"
    """Folder of the logs, one file per task."""


class Submission(Frozen):
    """What becomes of a Slurm script."""

    print_script: Annotated[bool, arg(name="print")] = False
    """slurm: show the sbatch script and submit nothing."""
    wait: bool = False
    """slurm: wait for the job and end with its exit code."""


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


def sbatch(command: Sequence[str], num_workers: int, slurm: Slurm | None = None) -> str:
    """Return a Slurm script that runs a command as an array of ``num_workers`` tasks.

    The command finds out by ``worker_index`` which task it is. People are meant to edit the script.

    Raises:
        UserError: If there is no worker to start.
    """
    if num_workers < 1:
        raise UserError(f"number of workers: found {num_workers}, expected at least 1")
    slurm = slurm or Slurm()
    partition = f"#SBATCH --partition={slurm.partition}\n" if slurm.partition else ""
    gpus = f"#SBATCH --gres=gpu:{slurm.gpus}\n" if slurm.gpus else ""
    return f"""\
#!/bin/bash
# {num_workers} workers, one per array task; each makes many shards and skips finished ones.
# Submit this file again after any failure, from the same folder: nothing that is finished is made
# twice. Slurm does not make the folder of the logs: mkdir -p {shlex.quote(slurm.logs)}
#SBATCH --job-name={slurm.job_name}
#SBATCH --array=0-{num_workers - 1}
{partition}{gpus}\
#SBATCH --cpus-per-task={slurm.cpus}
#SBATCH --mem={slurm.memory_gb}G
#SBATCH --time={slurm.hours}:00:00
#SBATCH --output={slurm.logs}/%x-%A_%a.log
# A task that a dead node takes with it starts again by itself and goes on in the same log.
#SBATCH --requeue
#SBATCH --open-mode=append
# Two minutes before the time limit the worker is told to stop after the shard at hand.
#SBATCH --signal=B:TERM@120

set -euo pipefail
# The worker takes the place of the shell, so that signals reach it.
exec {shlex.join(command)}
"""


def check_launch_flags(launch: str | None, flags: Mapping[str, tuple[bool, str]]) -> None:
    """Check that no flag was given that says something of another way to start workers.

    Args:
        launch: The way that was asked for.
        flags: For each flag whether it was given, and the way that it belongs to.

    Raises:
        UserError: If one was; names it.
    """
    for flag, (given, needed) in flags.items():
        if given and launch != needed:
            found = f"--launch {launch}" if launch else "no --launch"
            raise UserError(f"{flag}: found {found}, expected --launch {needed}")


def submit(script: str, logs: Path, *, wait: bool, console: Console) -> Exit:
    """Hand a script to Slurm.

    Args:
        script: What ``sbatch`` returned.
        logs: Folder of the tasks' logs. It is made here: where it is missing, Slurm lets the tasks
            fail without a word.
        wait: Return when the last task has ended.
        console: Told the number of the job.

    Returns:
        ``DONE`` once Slurm has the job; with ``wait``, the highest exit code of its tasks, 1 for a
        task that was killed, and ``STOPPED_EARLY`` for a code that is none of ours.

    Raises:
        UserError: If there is no Slurm here, it refuses the script, or the folder cannot be made.
    """
    command = shutil.which("sbatch")
    if command is None:
        raise UserError(
            "found no command 'sbatch' on this machine; expected one that submits to a Slurm "
            "cluster (--print shows the script and submits nothing)"
        )
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{logs}: cannot be made ({error.strerror})") from error
    with tempfile.TemporaryFile("w+") as text, tempfile.TemporaryFile("w+") as complaints:
        text.write(script)
        text.seek(0)
        process = subprocess.Popen(
            [command, "--parsable", *(["--wait"] if wait else [])],
            stdin=text,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
        )
        job = ""
        with process:
            try:
                assert process.stdout is not None
                job = process.stdout.readline().strip().partition(";")[0]
                if job:
                    _say_submitted(job, logs, console)
                code = process.wait()
            except BaseException:
                process.kill()
                if job:
                    console.say(
                        f"Slurm job {job} goes on; 'scancel {job}' ends it",
                        event="not_waiting",
                        job=job,
                    )
                raise
        complaints.seek(0)
        if not job:
            raise UserError(f"sbatch: {complaints.read().strip()}")
    return _exit_of(job, code, console)


def _say_submitted(job: str, logs: Path, console: Console) -> None:
    console.say(
        f"Slurm job {job} is queued; 'squeue --job {job}' tells where it stands, logs in {logs}",
        event="submitted",
        job=job,
    )


def _exit_of(job: str, code: int, console: Console) -> Exit:
    if code not in {Exit.DONE, Exit.ROW_ERRORS}:
        console.say(
            f"Slurm job {job} ended with code {code}: the logs of its tasks say why; the same "
            "command goes on with what is not finished",
            event="ended",
            code=code,
        )
    return Exit(code) if code in set(Exit) else Exit.STOPPED_EARLY


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
    # A lone index (a batch script without srun sets SLURM_PROCID=0) says nothing of others.
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
