"""The grid of a study: its settings, its arms, and a cell for each run."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field
from tyro.conf import Suppress

from manifests.runtime.console import UserError
from manifests.runtime.settings import Frozen
from manifests.runtime.storage import StoragePath, StoragePathFlag, storage_path
from reid.data.batch_sampler import real_rows_per_batch
from reid.data.dataset import select
from reid.data.inputs import Inputs
from reid.data.labels import labelled
from reid.evaluation.ranking import Protocol
from reid.evaluation.score import ScoreSettings
from reid.training.batches import composition_of
from reid.training.train import TrainSettings

BASELINE: Final = "none"

Control = Literal["repeated-real", "shuffled-labels", "synthetic-only", "added-real"]


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


def variants_of(settings: StudySettings) -> list[Variant]:
    """Return the arms of the grid, the baseline first.

    Raises:
        UserError: If a name is missing or twice, or a control has nothing to replace.
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
            f"--controls {settings.controls[0]}: found no synthetic set that it could "
            "replace; expected --synthetic-sets NAME=FOLDER"
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


def training_of(settings: StudySettings, cell: Cell, inputs: Inputs | None = None) -> TrainSettings:
    """Return the settings of 'reid train' for a cell; ``inputs`` holds what has been read before.

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
        values |= {"synthetic_share": None, "synthetic_mix": "replace"}
    if cell.variant.control is not None:
        values["control"] = cell.variant.control
    if settings.budget == "epochs":
        values["steps"] = _steps(settings, cell.fraction, synthetic, inputs or Inputs())
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
    settings: StudySettings, fraction: float, folder: StoragePath | None, inputs: Inputs
) -> int:
    """Return the steps of a cell; a control has those of the set that it replaces."""
    training = settings.train
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
