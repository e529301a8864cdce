"""What a study has still to do, and about how long that takes: ``reid study --dry-run``."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from manifests.compute.devices import device_class, pick_device
from manifests.runtime.console import Console, duration
from manifests.schema import JUNK
from reid.data.inputs import Inputs
from reid.experiments.grid import Cell, StudySettings
from reid.models.run_folder import TrainingRun
from reid.training.added import needs_scenes, num_added
from reid.training.loop import saved_steps
from reid.training.settings import TrainSettings
from reid.training.speed import NUM_STEPS, NUM_STEPS_MADE, Speed, measure_speed
from reid.training.train import select_rows

State = Literal["done", "trained", "begun", "new"]
"""``trained``: what is left is to score it. ``begun``: it goes on from its saved steps."""

_NOT_THE_COST: Final = {
    "images", "out", "root", "recipe", "synthetic", "synthetic_share", "synthetic_mix",
    "synthetic_added", "scene_added", "control", "real_fraction", "val_people", "data_seed",
    "weights", "steps", "learning_rate", "schedule", "milestones", "warmup", "fixbase", "seed",
    "label_smoothing", "synthetic_smoothing", "synthetic_weight", "checkpoint_every", "log_every",
    "tensorboard", "score", "protocol", "flip_test",
}  # fmt: skip
"""Settings that a step takes no longer for; how many images are added counts by itself."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is left to do of a run."""

    state: State
    steps: int = 0
    images_per_step: int = 0
    num_read: int = 0
    """Images that are decoded into memory, for training, validation and scoring."""
    num_embedded: int = 0
    """Images that a feature is taken of, each time counted."""

    @property
    def num_seen(self) -> int:
        """Return how many images its steps see."""
        return self.steps * self.images_per_step

    def seconds(self, speed: Speed) -> float:
        """Return how long it takes at a speed."""
        return (
            self.steps * speed.per_step
            + self.num_read * speed.per_read
            + self.num_embedded * speed.per_embedded
        )


def dry_run(
    settings: StudySettings,
    trainings: Mapping[Cell, TrainSettings],
    complete: Collection[Cell],
    inputs: Inputs,
    console: Console,
) -> None:
    """Say what each run has still to do, and the time of all; nothing is written.

    The time is that of a few steps, and of some images read and embedded, on this machine. Runs
    whose steps cost the same are measured once.

    Args:
        settings: Of the study.
        trainings: Every cell, and what it trains.
        complete: The cells that are trained and scored.
        inputs: What the command has read before.
        console: Where it is said.

    Raises:
        UserError: If a run could not begin, or its saved state cannot be read.
    """
    num_ranked = _num_ranked(settings, inputs)
    works = {
        cell: Work("done") if cell in complete else _work(settings, training, num_ranked, inputs)
        for cell, training in trainings.items()
    }
    left = [cell for cell in works if cell not in complete]
    costs = {cell: _cost(trainings[cell]) for cell in left}
    speeds = _measure(trainings, costs, inputs, console)
    seconds = {cell: works[cell].seconds(speeds[costs[cell]]) for cell in left}
    for cell, work in works.items():
        _say_cell(cell, work, trainings[cell], seconds.get(cell, 0.0), console)
    _say_sum(settings, list(trainings), works, sum(seconds.values()), console)


def _measure(
    trainings: Mapping[Cell, TrainSettings],
    costs: Mapping[Cell, str],
    inputs: Inputs,
    console: Console,
) -> dict[str, Speed]:
    """Return the speed of each kind of step, measured on the first run of that kind."""
    first_of: dict[str, Cell] = {}
    for cell, cost in costs.items():
        first_of.setdefault(cost, cell)
    with console.progress("measuring", len(first_of) * NUM_STEPS_MADE, "step") as bar:
        return {
            cost: measure_speed(trainings[cell], inputs, bar) for cost, cell in first_of.items()
        }


def _cost(training: TrainSettings) -> str:
    """Return what a step's time follows from, as text that is equal where the times are."""
    kept = training.model_dump(mode="json", exclude=_NOT_THE_COST)
    added = {"added": num_added(training), "scenes": needs_scenes(training)}
    return json.dumps(kept | added, sort_keys=True)


def _work(
    settings: StudySettings, training: TrainSettings, num_ranked: int, inputs: Inputs
) -> Work:
    scoring = {"num_read": num_ranked, "num_embedded": num_ranked}
    if settings.score.flip_test:
        scoring["num_embedded"] *= 2
    per_step = training.batch_size + num_added(training)
    if TrainingRun(training.out, {}).is_complete:
        return Work("trained", 0, per_step, **scoring)
    done = saved_steps(training)
    steps = training.steps - done
    selection, _ = select_rows(training, inputs)
    num_validations = -(-steps // training.checkpoint_every)
    scoring["num_read"] += sum(
        map(len, (selection.train, selection.synthetic_rows, selection.validation))
    )
    scoring["num_embedded"] += num_validations * len(selection.validation)
    return Work("begun" if done else "new", steps, per_step, **scoring)


def num_seen(training: TrainSettings) -> int:
    """Return how many images all steps of a run see."""
    return training.steps * (training.batch_size + num_added(training))


def _num_ranked(settings: StudySettings, inputs: Inputs) -> int:
    """Return how many images a run is scored on: queries and gallery, of all its test sets."""
    tables = [inputs.images(settings.images, settings.root)]
    tables += [inputs.images(Path(one.partition("=")[2])) for one in settings.score.targets]
    return sum(
        person != JUNK
        for table in tables
        for split in ("query", "gallery")
        for person in table.only(split).strings("person_id")
    )


def _say_cell(
    cell: Cell, work: Work, training: TrainSettings, seconds: float, console: Console
) -> None:
    added = f" + {num_added(training)}" if num_added(training) else ""
    steps = f"{work.steps:,} steps of {training.batch_size}{added} images ({work.num_seen:,} seen)"
    about = {
        "done": "done",
        "trained": f"trained, to be scored, about {duration(seconds)}",
        "begun": f"begun, {steps} left, about {duration(seconds)}",
        "new": f"{steps}, about {duration(seconds)}",
    }
    console.say(
        f"{cell.folder}: {about[work.state]}",
        event="dry_run_cell",
        folder=str(cell.folder),
        state=work.state,
        steps=work.steps,
        images_per_step=work.images_per_step,
        images=work.num_seen,
        seconds=round(seconds, 3),
    )


def _say_sum(
    settings: StudySettings,
    cells: Sequence[Cell],
    works: Mapping[Cell, Work],
    seconds: float,
    console: Console,
) -> None:
    arms = list(dict.fromkeys(cell.variant.name for cell in cells))
    fractions = [f"{fraction:g}" for fraction in settings.fractions]
    axes = (("arms", arms), ("fractions", fractions), ("seeds", list(map(str, settings.seeds))))
    grid = " x ".join(f"{len(names)} {axis} ({', '.join(names)})" for axis, names in axes)
    left = [work for work in works.values() if work.state != "done"]
    steps, images = sum(work.steps for work in left), sum(work.num_seen for work in left)
    device = device_class(pick_device(settings.train.device))
    time = (
        f": {steps:,} steps, {images:,} images seen; about {duration(seconds)} on one {device} as "
        f"busy as now, by {NUM_STEPS} steps of each kind timed here, with the images read and "
        "embedded for the scores, without their ranking"
    )
    console.say(
        f"{len(works):,} runs: {grid}; {len(works) - len(left):,} done, {len(left):,} left"
        + (time if left else ""),
        event="dry_run",
        runs=len(works),
        done=len(works) - len(left),
        left=len(left),
        steps=steps,
        images=images,
        seconds=round(seconds, 3),
    )
