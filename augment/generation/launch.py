"""``augment generate``: in this process, as a Slurm job array, or on Ray."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import create_model
from tyro.conf import OmitArgPrefixes, arg

from augment.generation.demo_people import made_up_people
from augment.generation.job import Executor, generate
from augment.generation.options import with_options
from augment.generation.plan import GenerationPlan
from augment.generation.ray_pool import connect
from augment.generation.resolve import Weights, open_weights, plan_of
from augment.generation.run_config import RunConfig
from augment.generation.settings import DEFAULT_WEIGHTS, GenerateSettings
from augment.generation.shard_actor import ShardActor
from augment.generation.worker import Job
from manifests.runtime.command_line import arguments_of
from manifests.runtime.console import Console, Exit, Stopped, UserError
from manifests.runtime.settings import Frozen
from manifests.runtime.signals import stopping
from manifests.runtime.slurm import Slurm, Submission, check_launch_flags, sbatch, submit


class Launcher(Submission):
    """Where the workers run."""

    launch: Literal["slurm", "ray"] | None = None
    """slurm: submit a job array of --num-workers tasks; ray: actors, one per GPU or CPU; default:
    this process is a worker."""
    ray_address: str | None = None
    """ray: host:port of the head; default: $RAY_ADDRESS, else a Ray on this machine alone."""


class LaunchSettings(Frozen):
    """Make images of the same people in other poses, here or on a cluster."""

    job: Annotated[GenerateSettings, arg(name="")] = GenerateSettings()
    launcher: OmitArgPrefixes[Launcher] = Launcher()
    slurm: Slurm = Slurm()


def settings_for(arguments: Sequence[str]) -> type[LaunchSettings]:
    """Return the settings of ``augment generate``, with the options of the system that is named.

    Raises:
        UserError: If there are no such weights.
    """
    job = with_options(GenerateSettings, arguments)
    if job is GenerateSettings:
        return LaunchSettings
    return create_model(
        "LaunchSettings",
        __base__=LaunchSettings,
        __doc__=LaunchSettings.__doc__,
        job=cast("Any", (Annotated[job, arg(name="")], job())),
    )


def launch(settings: LaunchSettings, console: Console, weights: Weights | None = None) -> Exit:
    """Run the job where the settings say.

    Args:
        settings: What to make, and where.
        console: Where progress and the outcome are reported.
        weights: The network; by default ``settings.job.weights`` is opened.

    Returns:
        That of ``generate``; with Slurm ``DONE`` once the job is submitted, or its exit code.

    Raises:
        UserError: If settings contradict each other, an input is bad, or there is no such cluster.
    """
    _check_flags(settings)
    launcher = settings.launcher.launch
    if launcher is None:
        return generate(settings.job, console, weights)
    # What the environment says of other workers is not meant for the one who starts them.
    alone = settings.job.model_copy(update={"worker": "0/1", "num_workers": None})
    if settings.job.dry_run:
        return generate(alone, console, weights)
    try:
        if launcher == "slurm":
            with stopping():
                return _on_slurm(settings, console, weights)
        return _on_ray(settings, alone, console, weights)
    except Stopped as stopped:
        return stopped.code


def _on_slurm(settings: LaunchSettings, console: Console, weights: Weights | None) -> Exit:
    job = settings.job
    assert job.num_workers is not None
    command = [
        *(sys.executable, "-m", "augment.cli", "generate"),
        *arguments_of(job.model_copy(update={"num_workers": None})),
        *console.flags,
    ]
    script = sbatch(command, job.num_workers, settings.slurm)
    if settings.launcher.print_script:
        console.show(script)
        return Exit.DONE
    # A bad input shall show now and not after hours in the queue.
    if job.images is None:
        made_up_people(job.out, console)
    else:
        weights = weights or open_weights(job.weights or DEFAULT_WEIGHTS)
        plan_of(job, weights)
    logs = Path(settings.slurm.logs)
    return submit(script, logs, wait=settings.launcher.wait, console=console)


def _on_ray(
    settings: LaunchSettings, alone: GenerateSettings, console: Console, weights: Weights | None
) -> Exit:
    # The workers start in folders of their own.
    paths: dict[str, object] = {
        name: path.absolute() for name, path in alone if isinstance(path, Path)
    }
    if alone.weights is not None and Path(alone.weights).is_file():
        paths["weights"] = str(Path(alone.weights).absolute())
    with connect(
        settings.launcher.ray_address,
        settings.job.num_workers,
        console,
        gpus=not settings.job.device.startswith("cpu"),
    ) as workers:

        def begin(job: GenerateSettings, plan: GenerationPlan, found: Weights) -> RunConfig:
            # Not here: the device and what follows from it are the workers'.
            del plan, found
            # All are alike; what counts is how many share the job.
            job = job.model_copy(update={"worker": f"0/{workers.count}"})
            return RunConfig.from_json(
                workers.begin(ShardActor, job, weights), where="the run of a worker"
            )

        def make(job: Job, found: Weights, numbers: Sequence[int], console: Console) -> None:
            del found
            rows = sum(job.run.num_rows(shard) for shard in numbers)
            with console.progress("generate", rows) as bar:
                for made in workers.make(numbers):
                    bar.advance(made)

        return generate(alone.model_copy(update=paths), console, weights, Executor(begin, make))


def _check_flags(settings: LaunchSettings) -> None:
    job, launcher, slurm = settings.job, settings.launcher, settings.slurm
    others = {
        "--print": (launcher.print_script, "slurm"),
        "--wait": (launcher.wait, "slurm"),
        "--slurm": (slurm != Slurm(), "slurm"),
        "--ray-address": (launcher.ray_address is not None, "ray"),
    }
    check_launch_flags(launcher.launch, others)
    if launcher.launch is not None and job.worker is not None:
        raise UserError(f"--worker: found '{job.worker}' and --launch, expected one of them")
    if launcher.launch != "slurm":
        return
    if job.num_workers is None:
        raise UserError("--launch slurm: found no --num-workers, expected how many tasks to start")
    if job.retry_failed and job.num_workers > 1:
        raise UserError(f"--retry-failed: found {job.num_workers} workers, expected a single one")
