"""The grid that the field prints, real fractions x arms x seeds, one run each: ``reid study``.

A cell is a run of ``reid train`` in OUT/runs/f0.2/patn/seed-0 and is complete when it is scored, so
a study goes on where it stopped, its grid can grow, and several workers can share it. Whoever finds
all cells complete writes OUT/study.parquet, one row per run, and OUT/study.md, a table per
fraction. They need nothing of a run but its report.json and queries.parquet, so ``--tables-only``
writes them again where images and weights are no longer there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence

from manifests.compute.precision import recorded_precision
from manifests.runtime import cluster, run_record
from manifests.runtime.console import Console, Exit, UserError, duration
from reid.data.inputs import Inputs
from reid.evaluation.report import read_report, read_scored
from reid.evaluation.score import TARGETS, check_rankable, score
from reid.evaluation.score_settings import ScoreSettings, other_scoring
from reid.experiments.dry_run import dry_run, num_seen
from reid.experiments.grid import Cell, StudySettings, cells_of, training_of
from reid.experiments.study_tables import pictures_of, write_results
from reid.models.run_folder import REPORT, TrainingRun, read_run
from reid.training.train import (
    TrainSettings,
    check_masks,
    choices_of,
    recipe_of,
    train,
)


def study(settings: StudySettings, console: Console) -> Exit:
    """Make this worker's cells as far as they are not complete, and the table when all are.

    Returns:
        ``DONE`` if this worker's cells are complete, ``ROW_ERRORS`` if some of them failed.

    Raises:
        UserError: If the settings or an input cannot be used, or a cell's folder holds a run of
            other settings.
    """
    cells = cells_of(settings)
    pictures_of(settings).check(settings.html)
    if settings.tables_only:
        return _write_tables(settings, cells, console)
    if settings.train.recipe_note:
        console.say(settings.train.recipe_note)
    if settings.dry_run:
        return _dry_run(settings, cells, console)
    settings = _with_precision(settings, cells)
    worker = cluster.worker_index(settings.worker, os.environ, settings.num_workers)
    cluster.introduce(worker, console)
    own = cells[worker.index :: worker.count]
    inputs = Inputs()
    trainings = {cell: training_of(settings, cell, inputs) for cell in own}
    for training in trainings.values():
        _check_same_study(training, inputs)
    left = [cell for cell in own if not _is_complete(settings, cell)]
    console.say(
        f"{settings.out}: {len(cells):,} runs, {len(left):,} left for {worker}",
        event="study",
        runs=len(cells),
        left=len(left),
    )
    if left:
        _check_rankable(settings, inputs)
        for cell in left:
            _check_masks(trainings[cell], inputs)
    failed = _make_all(settings, {cell: trainings[cell] for cell in left}, inputs, console)
    if failed:
        console.say(
            f"{settings.out}: {len(failed):,} of {len(own):,} runs failed", event="study_failed"
        )
        return Exit.ROW_ERRORS
    missing = [cell for cell in cells if not _is_complete(settings, cell)]
    if missing:
        console.say(
            f"{settings.out}: {worker} is done; {len(missing):,} runs of other workers are missing",
            event="part_done",
            missing=len(missing),
        )
        return Exit.DONE
    console.show(write_results(settings, cells, console))
    return Exit.DONE


def check_usable(settings: StudySettings, inputs: Inputs) -> dict[Cell, TrainSettings]:
    """Check every cell, without making one, and return what each trains.

    Raises:
        UserError: As ``study`` does.
    """
    cells = cells_of(settings)
    settings = _with_precision(settings, cells)
    trainings = {cell: training_of(settings, cell, inputs) for cell in cells}
    for training in trainings.values():
        _check_same_study(training, inputs)
        _check_masks(training, inputs)
    _check_rankable(settings, inputs)
    return trainings


def _with_precision(settings: StudySettings, cells: Sequence[Cell]) -> StudySettings:
    """Return the settings with the arithmetic of the runs that have begun, for all alike.

    Otherwise machines of several kinds would make runs that cannot be held against each other.
    """
    records = [settings.out / cell.folder / run_record.RUN_RECORD for cell in cells]
    if settings.train.precision != "auto" or not (found := recorded_precision(records)):
        return settings
    training = settings.train.model_copy(update={"precision": found})
    return settings.model_copy(update={"train": training})


def _write_tables(settings: StudySettings, cells: Sequence[Cell], console: Console) -> Exit:
    if settings.dry_run:
        raise UserError("--dry-run: found it and --tables-only, expected one of them")
    for cell in cells:
        _check_report(settings, cell)
    console.show(write_results(settings, cells, console))
    return Exit.DONE


def _dry_run(settings: StudySettings, cells: Sequence[Cell], console: Console) -> Exit:
    inputs = Inputs()
    trainings = check_usable(settings, inputs)
    complete = {cell for cell in cells if _is_complete(settings, cell)}
    dry_run(settings, trainings, complete, inputs, console)
    return Exit.DONE


def _scoring_of(settings: StudySettings, cell: Cell) -> ScoreSettings:
    first = cells_of(settings)[0]
    return settings.score.model_copy(
        update={
            "run": settings.out / cell.folder,
            "images": settings.images,
            "root": settings.root,
            "device": settings.train.device,
            # The table's own images are the same for all.
            "near_duplicates": cell == first,
        }
    )


def _check_rankable(settings: StudySettings, inputs: Inputs) -> None:
    images = inputs.images(settings.images, settings.root)
    check_rankable(images, settings.images, settings.score.protocol)


def _check_masks(training: TrainSettings, inputs: Inputs) -> None:
    """Check now what would end a cell after hours of others."""
    check_masks(inputs.images(training.images, training.root).only("train"), training)


def _check_same_study(training: TrainSettings, inputs: Inputs) -> None:
    record = training.out / run_record.RUN_RECORD
    recipe = recipe_of(training, inputs)
    if record.exists():
        run_record.check_same_config(record, recipe)


def _check_report(settings: StudySettings, cell: Cell) -> None:
    """Check by a cell's report alone that its run was trained and scored as the settings say.

    Inputs are known there by their digests, and steps of equal epochs follow from the inputs.
    """
    by_steps = settings.model_copy(update={"budget": "steps"})
    expected = choices_of(training_of(by_steps, cell))
    if settings.budget == "epochs":
        del expected["steps"]
    scored = read_scored(settings.out / cell.folder)
    found, run = scored.recipe, TrainingRun(scored.folder, scored.report)
    differing = run_record.differences({name: found.get(name) for name in expected}, expected)
    differing = differing or other_scoring(scored.report, _scoring_of(settings, cell), run)
    if differing:
        raise UserError(
            f"{settings.out / cell.folder}: belongs to another run ({'; '.join(differing)}); "
            "expected the same settings or another --out"
        )


def _is_complete(settings: StudySettings, cell: Cell) -> bool:
    """Return whether a cell has been trained, and scored as the settings ask."""
    folder = settings.out / cell.folder
    scoring = _scoring_of(settings, cell)
    names = [target.partition("=")[0] for target in scoring.targets]
    reports = [folder, *(folder / TARGETS / name for name in names)]
    if not all((report / REPORT).exists() for report in reports):
        return False
    run = read_run(folder)
    return not any(other_scoring(report, scoring, run) for report in map(read_report, reports))


def _make_all(
    settings: StudySettings,
    trainings: Mapping[Cell, TrainSettings],
    inputs: Inputs,
    console: Console,
) -> list[Cell]:
    """Train and score cells and return those that failed; the first one says how fast it goes."""
    failed: list[Cell] = []
    to_see = {
        cell: num_seen(training)
        for cell, training in trainings.items()
        if not TrainingRun(training.out, {}).is_complete
    }
    is_said = False
    for cell, training in trainings.items():
        # A run that goes on from its middle says nothing of a whole one.
        is_new = not (training.out / run_record.RUN_RECORD).exists()
        began = time.monotonic()
        is_made = _make(settings, cell, training, inputs, console)
        to_see.pop(cell, None)
        if not is_made:
            failed.append(cell)
        elif is_new and not is_said:
            is_said = True
            seconds_per_image = (time.monotonic() - began) / num_seen(training)
            _say_time_left(list(to_see.values()), seconds_per_image, console)
    return failed


def _say_time_left(to_see: Sequence[int], seconds_per_image: float, console: Console) -> None:
    """Say how long runs take that see so many images each."""
    if not to_see:
        return
    seconds = sum(to_see) * seconds_per_image
    console.say(
        f"about {duration(seconds)} for the {len(to_see):,} runs that are left, if they take as "
        "long per image as this one",
        event="time_left",
        runs=len(to_see),
        seconds=round(seconds, 1),
    )


def _make(
    settings: StudySettings,
    cell: Cell,
    training: TrainSettings,
    inputs: Inputs,
    console: Console,
) -> bool:
    """Train and score a cell; return whether that went well."""
    console.say(f"run {cell.folder}", event="cell", folder=str(cell.folder))
    try:
        train(training, console, inputs, distributed=False)
        score(_scoring_of(settings, cell), console, inputs, replaces=True)
    except UserError as error:
        console.say(f"run {cell.folder} failed: {error}", event="cell_failed", error=str(error))
        return False
    return True
