"""``reid study``: in this process, or as a Slurm job array."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import create_model
from tyro.conf import OmitArgPrefixes, arg

from manifests.runtime.command_line import arguments_of, value_of
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.run_record import RUN_RECORD
from manifests.runtime.settings import Frozen
from manifests.runtime.slurm import Slurm, Submission, check_launch_flags, sbatch, submit
from reid.data.inputs import Inputs
from reid.experiments.arms import CellTraining
from reid.experiments.grid import RUNS, CellScoring, StudySettings
from reid.experiments.study import check_usable, study
from reid.training.settings import with_recipe


class Launcher(Submission):
    """Where the workers run."""

    launch: Literal["slurm"] | None = None
    """slurm: submit a job array of --num-workers tasks; default: this process is a worker."""


class LaunchSettings(Frozen):
    """Train and score every cell of a grid, here or on a cluster."""

    study: Annotated[StudySettings, arg(name="")]
    launcher: OmitArgPrefixes[Launcher] = Launcher()
    slurm: Slurm = Slurm()


def settings_for(arguments: Sequence[str]) -> type[LaunchSettings]:
    """Return the settings of ``reid study``, defaults by the recipe of a command line.

    Raises:
        UserError: If there is no such recipe.
    """
    out = value_of("--out", arguments, default="")
    records = sorted(Path(out, RUNS).rglob(RUN_RECORD)) if out else []
    training = with_recipe(CellTraining, arguments, "train.", records[:1])
    score = CellScoring(flip_test=training().flip_test)
    grid = create_model(
        StudySettings.__name__,
        __base__=StudySettings,
        train=(training, training()),
        score=(CellScoring, score),
    )
    study: Any = (Annotated[grid, arg(name="")], ...)
    return create_model(LaunchSettings.__name__, __base__=LaunchSettings, study=study)


def launch(settings: LaunchSettings, console: Console) -> Exit:
    """Make the study where the settings say.

    Returns:
        That of ``study``; with Slurm ``DONE`` once the job is submitted, or its exit code.

    Raises:
        UserError: If settings contradict each other, an input is bad, or there is no Slurm.
    """
    grid, launcher, slurm = settings.study, settings.launcher, settings.slurm
    others = {
        "--print": (launcher.print_script, "slurm"),
        "--wait": (launcher.wait, "slurm"),
        "--slurm": (slurm != Slurm(), "slurm"),
    }
    check_launch_flags(launcher.launch, others)
    if launcher.launch is None:
        return study(grid, console)
    if grid.dry_run:
        return study(grid, console)
    if grid.worker is not None:
        raise UserError(f"--worker: found '{grid.worker}' and --launch, expected one of them")
    if grid.tables_only:
        raise UserError("--tables-only: found it and --launch, expected one of them")
    if grid.num_workers is None:
        raise UserError("--launch slurm: found no --num-workers, expected how many tasks to start")
    command = [
        *(sys.executable, "-m", "reid.cli", "study"),
        *_study_arguments(grid.model_copy(update={"num_workers": None})),
        *console.flags,
    ]
    script = sbatch(command, grid.num_workers, slurm)
    if launcher.print_script:
        console.show(script)
        return Exit.DONE
    # A bad input shall show now and not after hours in the queue.
    check_usable(grid, Inputs())
    return submit(script, Path(slurm.logs), wait=launcher.wait, console=console)


def _study_arguments(grid: StudySettings) -> list[str]:
    """Return the command-line arguments of a study, without values that its recipe gives.

    The recipe is named: another machine could take another.
    """
    recipe = grid.train.recipe
    plain = grid.model_copy(update={"train": type(grid).model_fields["train"].default})
    named = ["--train.recipe", recipe]
    trained = arguments_of(grid.train, "train.", CellTraining(recipe=recipe))
    return [*arguments_of(plain), *named, *trained]
