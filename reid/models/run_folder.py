"""The folder of one training run: what it holds, how it is read back.

``run.json`` is written first and never changes; ``last.pt`` is the training state; a run is
complete when ``last.safetensors`` exists. ``best.safetensors`` stands beside it where validation
people were set aside. ``report.json`` and ``queries.parquet`` come from scoring.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from manifests.io import write_bytes
from manifests.runtime import run_record
from manifests.runtime.console import UserError
from manifests.runtime.json_files import is_whole

LOG: Final = "log.jsonl"
TENSORBOARD: Final = "tensorboard"
STATE: Final = "last.pt"
REPORT: Final = "report.json"
QUERIES: Final = "queries.parquet"

_MOST_PIXELS: Final = 10_000

Which = Literal["last", "best"]


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """A training run on disk."""

    folder: Path
    facts: dict[str, Any]

    @property
    def recipe(self) -> dict[str, Any]:
        """Return the settings that decide the weights, inputs by their sha256."""
        return self.facts["config"]

    @property
    def people(self) -> set[str]:
        """Return who was trained on, or set aside to choose the weights."""
        return {*self.facts["people"], *self.facts.get("validation_people", ())}

    def check_knows(self, people: Collection[str]) -> None:
        """Check that the network can say whom images of these people look like.

        Raises:
            UserError: If it saw synthetic images, or nobody of them.
        """
        if self.recipe["synthetic_sha256"] is not None:
            raise UserError(
                f"--run {self.folder} was trained on synthetic images, which it would take for "
                "their people; expected a run on real images alone"
            )
        if not self.people & set(people):
            raise UserError(
                f"--run {self.folder} was trained on {len(self.people):,} other people than the "
                f"{len(set(people)):,} of the images; expected a run on these"
            )

    @property
    def is_complete(self) -> bool:
        """Return whether training has finished."""
        return self.weights("last").exists()

    @property
    def default_weights(self) -> Which:
        """Return ``best`` where validation people chose it, else ``last``."""
        return "best" if self.recipe["val_people"] else "last"

    def weights(self, which: Which) -> Path:
        """Return the file of the weights after the last step or of the best validation score."""
        return self.folder / f"{which}.safetensors"


def read_run(folder: Path) -> TrainingRun:
    """Return the run in a folder.

    Raises:
        UserError: If there is none, or it is a run of another command.
    """
    facts = run_record.read(folder / run_record.RUN_RECORD)
    if "people" not in facts or "model" not in facts["config"]:
        raise UserError(f"{folder}: found the run of another command, expected one of 'reid train'")
    recipe, people = facts["config"], [facts["people"], facts.get("validation_people", [])]
    is_sound = (
        isinstance(recipe["model"], str)
        and all(is_whole(recipe.get(name), 1, _MOST_PIXELS) for name in ("width", "height"))
        and all(isinstance(names, list) for names in people)
        and all(isinstance(name, str) for names in people for name in names)
        and isinstance(recipe.get("neck", "none"), str)
        and is_whole(recipe.get("last_stride", 2), 1, 2)
        and isinstance(recipe.get("images_sha256"), str)
        and isinstance(recipe.get("synthetic_sha256"), str | None)
        and isinstance(recipe.get("real_fraction"), float | int)
        and is_whole(recipe.get("data_seed"), 0, 2**64)
        and is_whole(recipe.get("val_people"), 0, 2**31)
        and is_whole(facts.get("num_real"), 0, 2**63)
    )
    if not is_sound:
        raise UserError(
            f"{folder / run_record.RUN_RECORD}: found other entries of model, size, inputs or "
            "people than expected of what 'reid train' writes"
        )
    return TrainingRun(folder, facts)


def write_json(value: object, path: Path) -> None:
    """Write indented JSON, whole or not at all."""
    write_bytes((json.dumps(value, indent=2, sort_keys=True) + "\n").encode(), path)
