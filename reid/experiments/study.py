"""The grid that the field prints, real fractions x arms x seeds, one run each: ``reid study``.

A cell is a run of ``reid train`` in OUT/runs/f0.2/patn/seed-0 and is complete when it is scored, so
a study goes on where it stopped, its grid can grow, and several workers can share it. Whoever finds
all cells complete writes OUT/study.parquet, one row per run, and OUT/study.md, a table per
fraction.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field
from tyro.conf import Suppress

from manifests.io import read_images, write_bytes, write_table
from manifests.runtime import cluster, run_record
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.settings import Frozen
from manifests.runtime.storage import StoragePath, StoragePathFlag, storage_path
from manifests.synthetic import read_synthetic
from reid.data.batch_sampler import real_rows_per_batch
from reid.data.dataset import select
from reid.data.labels import labelled
from reid.evaluation.ranking import Protocol
from reid.evaluation.score import TARGETS, ScoreSettings, check_rankable, choices, score
from reid.experiments.compare import Arm, arm_of, check_alike, compare_families, markdown
from reid.models.run_folder import REPORT, TrainingRun, read_run
from reid.training.batches import plan_of
from reid.training.train import TrainSettings, recipe_of, train

BASELINE: Final = "none"
TABLE: Final = "study.md"
ROWS: Final = "study.parquet"

Control = Literal["repeated-real", "shuffled-labels", "synthetic-only"]

STUDY: Final = pa.schema(
    [
        pa.field("fraction", pa.float64(), nullable=False),
        pa.field("arm", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("folder", pa.string(), nullable=False),
        pa.field("synthetic", pa.string()),
        pa.field("control", pa.string()),
        pa.field("steps", pa.int64(), nullable=False),
        pa.field("num_real", pa.int64(), nullable=False),
        pa.field("num_synthetic", pa.int64(), nullable=False),
        pa.field("num_from_outside", pa.int64()),
        pa.field("seen_real", pa.int64()),
        pa.field("seen_synthetic", pa.int64()),
        pa.field("weights", pa.string(), nullable=False),
        pa.field("num_queries", pa.int64(), nullable=False),
        pa.field("num_matched", pa.int64(), nullable=False),
        *(
            pa.field(name, pa.float64(), nullable=False)
            for name in (
                "mAP",
                "mAP_trapezoidal",
                "mINP",
                "rank_1",
                "rank_5",
                "rank_10",
                "rank_20",
            )
        ),
    ]
)
"""One row per run; ``folder`` starts at OUT, scores are shares of one."""


class CellTraining(TrainSettings):
    """Settings of 'reid train' that all runs share; what the grid decides is hidden."""

    images: Suppress[Path] = Path()
    out: Suppress[Path] = Path()
    root: Suppress[Path | None] = None
    synthetic: Suppress[StoragePathFlag | None] = None
    real_fraction: Suppress[float] = 1.0
    seed: Suppress[int] = 0
    score: Suppress[bool] = False
    protocol: Suppress[Protocol] = "market1501"


class CellScoring(ScoreSettings):
    """Settings of 'reid score' that all runs share."""

    run: Suppress[Path] = Path()
    images: Suppress[Path] = Path()
    root: Suppress[Path | None] = None
    device: Suppress[Literal["auto", "cpu", "cuda"]] = "auto"
    near_duplicates: Suppress[bool] = False


class StudySettings(Frozen):
    """Train and score every cell of a grid: real fractions x arms x seeds.

    The arms are 'none' (real images alone, the baseline), each synthetic set, and each control.
    """

    images: Path
    """Table of real images, from 'augment index'."""
    out: Path
    """Folder of the study. The same command goes on with it; a larger grid adds to it."""
    root: Path | None = None
    """Where the images' relative paths start, if not where the table says."""
    fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.2, 0.4, 0.6, 0.8, 1.0)
    """Parts of the real train images."""
    synthetic_sets: tuple[str, ...] = ()
    """NAME=FOLDER of 'augment generate' each; {fraction} in FOLDER stands for the fraction, for
    sets made from the same part: patn=synthetic-{fraction}."""
    controls: tuple[Control, ...] = ()
    """Arms with something else in the place of the first synthetic set."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Every arm is trained once for each."""
    budget: Literal["steps", "epochs"] = "steps"
    """What is equal for all: optimiser steps (--train.steps), or --epochs over the real images."""
    epochs: Annotated[int, Field(gt=0)] = 60
    """With --budget epochs: how often a run sees each of its real images."""
    worker: str | None = None
    """i/N: take every Nth run from run i on (counted from 0); on Slurm this is found out."""
    num_workers: int | None = None
    """How many workers share the study, where the environment does not say (Kubernetes)."""
    train: CellTraining = CellTraining()
    score: CellScoring = CellScoring()


@dataclass(frozen=True, slots=True)
class Variant:
    """What is trained on beside the real images."""

    name: str
    folder: str | None = None
    """Of the synthetic set, with {fraction} where it depends on it."""
    control: Control | None = None

    def synthetic(self, fraction: float) -> StoragePath | None:
        """Return the folder of the synthetic set for a fraction."""
        if self.folder is None:
            return None
        return storage_path(self.folder.replace("{fraction}", f"{fraction:g}"))


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of the grid."""

    fraction: float
    variant: Variant
    seed: int

    @property
    def folder(self) -> Path:
        """Return where the run lies, from OUT."""
        return Path("runs", f"f{self.fraction:g}", self.variant.name, f"seed-{self.seed}")


def study(settings: StudySettings, console: Console) -> Exit:
    """Make this worker's cells as far as they are not complete, and the table when all are.

    Returns:
        ``DONE`` if this worker's cells are complete, ``ROW_ERRORS`` if some of them failed.

    Raises:
        UserError: If the settings or an input cannot be used, or a cell's folder holds a run of
            other settings.
    """
    worker = cluster.worker_index(settings.worker, os.environ, settings.num_workers)
    cells = cells_of(settings)
    own = cells[worker.index :: worker.count]
    plans = {cell: training_of(settings, cell) for cell in own}
    for plan in plans.values():
        _check_same_study(plan)
    left = [cell for cell in own if not _is_complete(settings, cell)]
    console.say(
        f"{settings.out}: {len(cells):,} runs, {len(left):,} left for {worker}",
        event="study",
        runs=len(cells),
        left=len(left),
    )
    if left:
        _check_rankable(settings)
    failed = [cell for cell in left if not _make(settings, cell, plans[cell], console)]
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
    text = write_results(settings, cells)
    console.show(text)
    return Exit.DONE


def check_usable(settings: StudySettings) -> None:
    """Check every cell, without making one.

    Raises:
        UserError: As ``study`` does.
    """
    for cell in cells_of(settings):
        _check_same_study(training_of(settings, cell))
    _check_rankable(settings)


def variants_of(settings: StudySettings) -> list[Variant]:
    """Return the arms of the grid, the baseline first.

    Raises:
        UserError: If a name is missing or twice, or a control has nothing to stand in for.
    """
    variants = [Variant(BASELINE)]
    for text in settings.synthetic_sets:
        name, _, folder = text.partition("=")
        if not folder or not name or not name.replace("-", "").replace("_", "").isalnum():
            raise UserError(
                f"--synthetic-sets: found '{text}', expected NAME=FOLDER with a name of letters, "
                "digits, '-' and '_'"
            )
        variants.append(Variant(name, folder))
    if settings.controls and len(variants) == 1:
        raise UserError(
            f"--controls {settings.controls[0]}: found no synthetic set that it could stand in "
            "for; expected --synthetic-sets NAME=FOLDER"
        )
    variants += [Variant(name, variants[1].folder, name) for name in settings.controls]
    names = [variant.name for variant in variants]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"arm '{twice[0]}' is named twice; expected each name once")
    return variants


def cells_of(settings: StudySettings) -> list[Cell]:
    """Return the cells, seed by seed, so that an unfinished study has whole grids of fewer seeds.

    Raises:
        UserError: If the arms, fractions or seeds make no grid.
    """
    for name in ("fractions", "seeds"):
        values = getattr(settings, name)
        if not values or len(set(values)) < len(values):
            raise UserError(f"--{name}: found {list(values)}, expected at least one, each once")
    return [
        Cell(fraction, variant, seed)
        for seed in settings.seeds
        for fraction in settings.fractions
        for variant in variants_of(settings)
    ]


def training_of(settings: StudySettings, cell: Cell) -> TrainSettings:
    """Return the settings of 'reid train' for a cell.

    Raises:
        UserError: If 'reid train' cannot do what the cell needs, or an input cannot be used.
    """
    synthetic = cell.variant.synthetic(cell.fraction)
    values: dict[str, Any] = json.loads(settings.train.to_json())
    values |= {
        "images": str(settings.images),
        "out": str(settings.out / cell.folder),
        "root": settings.root and str(settings.root),
        "real_fraction": cell.fraction,
        "seed": cell.seed,
        "protocol": settings.score.protocol,
        "synthetic": synthetic and str(synthetic),
    }
    if synthetic is None:
        values["synthetic_share"] = None
    if cell.variant.control is not None:
        values["control"] = cell.variant.control
    if settings.budget == "epochs":
        values["steps"] = _steps(settings, cell.fraction, synthetic)
    return TrainSettings.from_json(json.dumps(values), where=str(cell.folder))


def steps_for_epochs(epochs: int, num_real: int, real_per_batch: float) -> int:
    """Return the steps in which every real image is seen ``epochs`` times on average.

    >>> steps_for_epochs(10, num_real=100, real_per_batch=20), steps_for_epochs(10, 100, 15.5)
    (50, 65)

    Raises:
        UserError: If no real image is ever seen.
    """
    if not real_per_batch:
        raise UserError(
            "--budget epochs: found no real image in the batches, expected a smaller "
            "--train.synthetic-share, or --budget steps"
        )
    return math.ceil(epochs * num_real / real_per_batch)


def _steps(settings: StudySettings, fraction: float, folder: StoragePath | None) -> int:
    """Return the steps of a cell; a control has those of the set that it stands in for."""
    training = settings.train
    synthetic = None if folder is None else read_synthetic(folder)
    chosen = select(
        read_images(settings.images, settings.root),
        synthetic,
        real_fraction=fraction,
        num_validation_people=training.val_people,
        data_seed=training.data_seed,
    )
    names = chosen.train.strings("person_id")
    num_real = len(names)
    if synthetic is not None:
        names += synthetic.take(chosen.synthetic_rows).strings("person_id")
    _, labels = labelled(names)
    plan = plan_of(training)
    if synthetic is None:
        plan = replace(plan, synthetic_share=None)
    real_per_batch = real_rows_per_batch(labels, np.arange(len(names)) >= num_real, plan)
    return steps_for_epochs(settings.epochs, num_real, real_per_batch)


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


def _check_rankable(settings: StudySettings) -> None:
    images = read_images(settings.images, settings.root)
    check_rankable(images, settings.images, settings.score.protocol)


def _check_same_study(plan: TrainSettings) -> None:
    claim = plan.out / run_record.RUN_RECORD
    recipe = recipe_of(plan)
    if claim.exists():
        run_record.check_same_config(claim, recipe)


def _is_complete(settings: StudySettings, cell: Cell) -> bool:
    """Return whether a cell has been trained, and scored as the settings ask."""
    folder = settings.out / cell.folder
    scoring = _scoring_of(settings, cell)
    names = [target.partition("=")[0] for target in scoring.targets]
    reports = [folder / REPORT, *(folder / TARGETS / name / REPORT for name in names)]
    if not all(path.exists() for path in reports):
        return False
    run = read_run(folder)
    which = run.default_weights if scoring.which == "auto" else scoring.which
    return all(
        report["weights"] == which and choices(scoring, run).items() <= report["protocol"].items()
        for report in (json.loads(path.read_text("utf-8")) for path in reports)
    )


def _make(settings: StudySettings, cell: Cell, plan: TrainSettings, console: Console) -> bool:
    """Train and score a cell; return whether that went well."""
    console.say(f"run {cell.folder}", event="cell", folder=str(cell.folder))
    try:
        train(plan, console, distributed=False)
        score(_scoring_of(settings, cell), console)
    except UserError as error:
        console.say(f"run {cell.folder} failed: {error}", event="cell_failed", error=str(error))
        return False
    return True


def write_results(settings: StudySettings, cells: Sequence[Cell]) -> str:
    """Write the rows and the tables of complete cells; return the tables.

    Raises:
        UserError: If the runs cannot be held against each other.
    """
    families = {
        fraction: [
            arm_of(
                variant.name,
                [
                    settings.out / cell.folder
                    for cell in cells
                    if (cell.fraction, cell.variant) == (fraction, variant)
                ],
            )
            for variant in variants_of(settings)
        ]
        for fraction in settings.fractions
    }
    check_alike([arm for arms in families.values() for arm in arms])
    rows = pa.Table.from_pylist([_row(settings.out, cell) for cell in cells], STUDY)
    write_table(rows, settings.out / ROWS, {})
    text = tables(settings, families)
    write_bytes(text.encode(), settings.out / TABLE)
    return text


def tables(settings: StudySettings, families: dict[float, list[Arm]]) -> str:
    """Return the Markdown of a study: a table per fraction, and what to know of its sets."""
    compared = compare_families([(arms[0], arms[1:]) for arms in families.values()])
    count = sum(map(len, compared))
    lines = [f"# Study: {len(settings.seeds)} seeds, {_budget(settings)}", ""]
    if count:
        lines += [f"All p values are corrected together, for {count} comparisons (Holm).", ""]
    for (fraction, arms), comparisons in zip(families.items(), compared, strict=True):
        num_real = arms[0].runs[0].report["num_real"]
        lines += [f"## {fraction:.0%} of the real train images ({num_real:,})", ""]
        lines += [markdown(arms[0], comparisons)]
        lines += [f"- {arm.name}: {_origin(arm)}." for arm in arms[1:]]
        lines += [""] if arms[1:] else []
    runs = [run for arms in families.values() for arm in arms for run in arm.runs]
    found = [run.report.get("leakage", {}).get("near_duplicates") for run in runs]
    # One run looks for them, of a table that is the same for all.
    for block in list(filter(None, found))[:1]:
        pairs = block["num_pairs"]
        lines += [f"Near-duplicates between train and gallery: {pairs:,} pairs.", ""]
    return "\n".join(lines)


def _budget(settings: StudySettings) -> str:
    if settings.budget == "epochs":
        return (
            f"as many steps as show every run its real images {settings.epochs:,} times, a control "
            "those of the set in whose place it stands"
        )
    return f"{settings.train.steps:,} steps for every run"


def _origin(arm: Arm) -> str:
    origin = arm.runs[0].report.get("leakage", {}).get("synthetic")
    return origin["summary"] if origin else "nothing is known of its synthetic images"


def _row(out: Path, cell: Cell) -> dict[str, Any]:
    run = TrainingRun(
        out / cell.folder, json.loads((out / cell.folder / REPORT).read_text("utf-8"))
    )
    report = run.facts
    synthetic = cell.variant.synthetic(cell.fraction)
    seen = report.get("seen", {})
    origin = report.get("leakage", {}).get("synthetic") or {}
    return {
        "fraction": cell.fraction,
        "arm": cell.variant.name,
        "seed": cell.seed,
        "folder": cell.folder.as_posix(),
        "synthetic": synthetic and str(synthetic),
        "control": cell.variant.control,
        "steps": run.recipe["steps"],
        "num_real": report["num_real"],
        "num_synthetic": report["num_synthetic"],
        "num_from_outside": origin.get("num_from_outside"),
        "seen_real": seen.get("real"),
        "seen_synthetic": seen.get("synthetic"),
        "weights": report["weights"],
        "num_queries": report["num_queries"],
        "num_matched": report["num_matched"],
        **report["scores"],
    }
