"""The grid of a study: its settings, its arms, and a cell for each run."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field
from tyro.conf import Suppress

from manifests.runtime.console import UserError
from manifests.runtime.settings import Count, Positive
from manifests.runtime.storage import StoragePath, storage_path
from manifests.runtime.tables import TableFiles
from reid.data.batch_sampler import real_rows_per_batch
from reid.data.dataset import select
from reid.data.inputs import Inputs
from reid.data.labels import labelled
from reid.evaluation.centralise import Centralisation
from reid.evaluation.score_settings import ScoreSettings
from reid.experiments.arms import ArmTraining, CellTraining, arm_training, named_part
from reid.models.backbone import did_you_mean
from reid.training.batches import composition_of
from reid.training.settings import Mix
from reid.training.train import TrainSettings

BASELINE: Final = "none"
RUNS: Final = "runs"
"""Folder of the cells' runs in that of the study."""

Control = Literal["repeated-real", "shuffled-labels", "synthetic-only", "added-real"]


class CellScoring(ScoreSettings):
    """Settings of 'reid score' that all runs share."""

    run: Suppress[Path] = Path()
    images: Suppress[Path] = Path()
    root: Suppress[Path | None] = None
    device: Suppress[Literal["auto", "cpu", "cuda"]] = "auto"
    near_duplicates: Suppress[bool] = False
    centralisation: Suppress[Centralisation] = Centralisation()


class StudySettings(TableFiles):
    """Train and score every cell of a grid: real fractions x arms x seeds.

    The arms are 'none' (real images alone, the baseline), each synthetic set, each set of flags,
    and each control.
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
    arms: tuple[str, ...] = ()
    """NAME='FLAGS' each: real images with further flags of 'reid train', for example
    scenes='--scene-added 16' both='--scene-added 16 --synthetic synthetic-{fraction}'."""
    controls: tuple[Control, ...] = ()
    """Arms with something else in the place of the first synthetic set; added-real in that of the
    first arm that adds images."""
    against: str | None = None
    """Name of an arm that the others are held against as well, in a table of their own; without
    it they are held against every control of as many real images."""
    seeds: tuple[Count, ...] = (0, 1, 2)
    """Every arm is trained once for each."""
    budget: Literal["steps", "epochs"] = "steps"
    """What is equal for all: optimiser steps (--train.steps), or --epochs over the real images."""
    epochs: Positive = 60
    """With --budget epochs: how often a run sees each of its real images."""
    html: Path | None = None
    """Also write a page to this file, with figures and the queries won and lost."""
    embed_images: bool = False
    """Put images into the page; without it the page links them where they lie."""
    tables_only: bool = False
    """Train nothing: write the tables of a finished study again, from the reports of its runs alone
    (report.json, queries.parquet)."""
    dry_run: bool = False
    """Say what every run has still to do and about how long all take, by a few steps timed here;
    train and write nothing."""
    worker: str | None = None
    """i/N: take every Nth run from run i on (counted from 0); on Slurm this is found out."""
    num_workers: int | None = None
    """How many workers share the study, where the environment does not say (Kubernetes)."""
    train: CellTraining = CellTraining()
    score: Annotated[
        CellScoring,
        # As 'reid train' scores by the same recipe.
        Field(default_factory=lambda given: CellScoring(flip_test=given["train"].flip_test)),
    ]


@dataclass(frozen=True, slots=True)
class Variant:
    """What is trained on beside the real images."""

    name: str
    folder: str | None = None
    """Of the synthetic set, with {fraction} where it depends on it."""
    control: Control | None = None
    flags: str | None = None
    """Of 'reid train', in which it differs from the others."""

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
        return Path(RUNS, f"f{self.fraction:g}", self.variant.name, f"seed-{self.seed}")


def variants_of(settings: StudySettings) -> list[Variant]:
    """Return the arms of the grid, the baseline first.

    Raises:
        UserError: If a name is missing or twice, an arm has flags that it cannot have, a control
            has nothing to replace, or there is no arm that the others shall be held against.
    """
    sets = [
        Variant(*named_part("--synthetic-sets", text, "FOLDER")) for text in settings.synthetic_sets
    ]
    named = [named_part("--arms", text, "'FLAGS'") for text in settings.arms]
    flagged = [_flagged(name, flags, settings) for name, flags in named]
    adds_sets = mix_of(settings) == "add"
    added = [
        arm
        for arm in (*sets, *flagged)
        if (adds_sets and arm.folder) or _adds_scenes(_arm_training(arm, settings))
    ]
    variants = [Variant(BASELINE), *sets, *flagged]
    for control in settings.controls:
        replaced = _replaced(control, sets, added)
        variants.append(replace(replaced, name=control, control=control))
    names = [variant.name for variant in variants]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"arm '{twice[0]}' is named twice; expected each name once")
    if settings.against is not None and settings.against not in names[1:]:
        near = did_you_mean(settings.against, names[1:])
        known = f"one of the arms {', '.join(names[1:])}" if names[1:] else "an arm of the study"
        raise UserError(f"--against: found '{settings.against}', expected {known}{near}")
    return variants


def _flagged(name: str, flags: str, settings: StudySettings) -> Variant:
    folder = arm_training(name, flags, settings.train).synthetic
    return Variant(name, None if folder is None else str(folder), flags=flags)


def _replaced(control: Control, sets: Sequence[Variant], added: Sequence[Variant]) -> Variant:
    """Return the arm in whose place a control stands: the first set, or the first that adds."""
    if control == "added-real":
        if not added:
            raise UserError(
                "--controls added-real: found no arm that adds images, expected --arms "
                "NAME='--scene-added 16', or --synthetic-sets with --train.synthetic-mix add"
            )
        return added[0]
    if not sets:
        raise UserError(
            f"--controls {control}: found no synthetic set that it could replace; expected "
            "--synthetic-sets NAME=FOLDER"
        )
    return sets[0]


def mix_of(settings: StudySettings) -> Mix:
    """Return how the synthetic sets are mixed in: as controls that replace are, where some are."""
    if settings.train.synthetic_mix is None and set(settings.controls) - {"added-real"}:
        return "replace"
    return settings.train.model_copy(update={"synthetic": Path()}).mix


def _arm_training(variant: Variant, settings: StudySettings) -> ArmTraining:
    """Return the settings that a variant's flags make of those that all arms share."""
    if variant.flags is None:
        return settings.train
    return arm_training(variant.name, variant.flags, settings.train)


def _adds_scenes(training: ArmTraining) -> bool:
    return training.scene_added > 0 and training.control == "none"


def cells_of(settings: StudySettings) -> list[Cell]:
    """Return the cells, seed by seed, so that an unfinished study has whole grids of fewer seeds.

    Raises:
        UserError: If the arms, fractions or seeds make no grid.
    """
    for name in ("fractions", "seeds"):
        values = getattr(settings, name)
        if not values or len(set(values)) < len(values):
            raise UserError(f"--{name}: found {list(values)}, expected at least one, each once")
    variants = variants_of(settings)
    return [
        Cell(fraction, variant, seed)
        for seed in settings.seeds
        for fraction in settings.fractions
        for variant in variants
    ]


def training_of(settings: StudySettings, cell: Cell, inputs: Inputs | None = None) -> TrainSettings:
    """Return the settings of 'reid train' for a cell; ``inputs`` holds what has been read before.

    Raises:
        UserError: If 'reid train' cannot do what the cell needs, or an input cannot be used.
    """
    synthetic = cell.variant.synthetic(cell.fraction)
    training = _arm_training(cell.variant, settings)
    values: dict[str, Any] = json.loads(training.to_json())
    values |= {
        "images": str(settings.images),
        "out": str(settings.out / cell.folder),
        "root": settings.root and str(settings.root),
        "real_fraction": cell.fraction,
        "seed": cell.seed,
        "protocol": settings.score.protocol,
        "synthetic": synthetic and str(synthetic),
    }
    mix = mix_of(settings)
    values["synthetic_mix"] = mix
    if synthetic is None:
        values |= {"synthetic_share": None, "synthetic_mix": "replace"}
    if cell.variant.control is not None:
        values["control"] = cell.variant.control
    if settings.budget == "epochs":
        replacing = None if mix == "add" else synthetic
        values["steps"] = _steps(settings, training, cell.fraction, replacing, inputs or Inputs())
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


def _steps(
    settings: StudySettings,
    training: ArmTraining,
    fraction: float,
    folder: StoragePath | None,
    inputs: Inputs,
) -> int:
    """Return the steps of a cell; a control has those of the arm that it replaces.

    Args:
        settings: Of the study.
        training: Of the cell's arm.
        fraction: Of the real images.
        folder: Of synthetic images that take the place of real ones in a batch.
        inputs: What has been read before.
    """
    synthetic = None if folder is None else inputs.synthetic(folder)
    chosen = select(
        inputs.images(settings.images, settings.root),
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
    composition = composition_of(training)
    if synthetic is None:
        composition = replace(composition, synthetic_share=None)
    real_per_batch = real_rows_per_batch(labels, np.arange(len(names)) >= num_real, composition)
    return steps_for_epochs(settings.epochs, num_real, real_per_batch)
