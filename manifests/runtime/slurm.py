"""Job scripts for Slurm, and their submission."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.settings import Frozen


class Slurm(Frozen):
    """Resources of one Slurm array task."""

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
    """The cluster's default if not set."""
    logs: str = "slurm-logs"
    """Folder of the logs, one file per task."""


class Submission(Frozen):
    """What is done with a Slurm script."""

    print_script: Annotated[bool, arg(name="print")] = False
    """slurm: show the sbatch script and submit nothing."""
    wait: bool = False
    """slurm: wait for the job and end with its exit code."""


def sbatch(command: Sequence[str], num_workers: int, slurm: Slurm | None = None) -> str:
    """Return a Slurm script that runs a command as an array of ``num_workers`` tasks.

    Each task finds its index by ``cluster.worker_index``. The script is made to be edited.

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
#SBATCH --job-name={shlex.quote(slurm.job_name)}
#SBATCH --array=0-{num_workers - 1}
{partition}{gpus}\
#SBATCH --cpus-per-task={slurm.cpus}
#SBATCH --mem={slurm.memory_gb}G
#SBATCH --time={slurm.hours}:00:00
#SBATCH --output={shlex.quote(f"{slurm.logs}/%x-%A_%a.log")}
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
    """Check that no flag was given that belongs to another way of starting workers.

    Args:
        launch: The value of ``--launch``.
        flags: For each flag whether it was given, and the value of ``--launch`` it belongs to.

    Raises:
        UserError: If one was given; names it.
    """
    for flag, (given, needed) in flags.items():
        if given and launch != needed:
            found = f"--launch {launch}" if launch else "no --launch"
            raise UserError(f"{flag}: found {found}, expected --launch {needed}")


def submit(script: str, logs: Path, *, wait: bool, console: Console) -> Exit:
    """Submit a script to Slurm.

    Args:
        script: What ``sbatch`` returned.
        logs: Folder of the tasks' logs, made here: without it Slurm's tasks fail without a message.
        wait: Return when the last task has ended.
        console: Shows the number of the job.

    Returns:
        ``DONE`` once Slurm has the job; with ``wait``, the highest exit code of its tasks: 1 for a
        task that was killed, ``STOPPED_EARLY`` for a code that is not in ``Exit``.

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
    with tempfile.TemporaryFile("w+") as text, tempfile.TemporaryFile("w+") as errors:
        text.write(script)
        text.seek(0)
        process = subprocess.Popen(
            [command, "--parsable", *(["--wait"] if wait else [])],
            stdin=text,
            stdout=subprocess.PIPE,
            stderr=errors,
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
        errors.seek(0)
        if not job:
            raise UserError(f"sbatch: {errors.read().strip()}")
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
