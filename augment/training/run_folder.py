"""A training run's folder: its settings, its state, what it made.

``run.json`` is written once; ``state.pt`` holds all that the next step depends on;
``weights.safetensors`` the EMA of the weights; ``log.jsonl`` and ``samples/`` are for people.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from augment.checkpoints import store
from augment.training.inputs import Facts
from augment.training.loop import Trainer
from augment.training.settings import DECIDING_FACTS, NOT_PART_OF_THE_RUN, TrainSettings, config_of
from manifests.compute.training_state import check_finite_weights, write_training_state
from manifests.runtime import run_record
from manifests.runtime.console import UserError

STATE = "state.pt"
WEIGHTS = "weights.safetensors"
LOG = "log.jsonl"
SAMPLES = "samples"
SUCCESS = "_SUCCESS"

OWN_FILES = (STATE, WEIGHTS, LOG, SAMPLES, SUCCESS)
"""What a run writes beside ``run.json``; where that is missing, these are somebody else's."""


def write_run_record(settings: TrainSettings, facts: Facts) -> None:
    """Write ``run.json``, or check that the one there is of the same run.

    Raises:
        UserError: If it is that of another run, holds files that this one would overwrite, or
            cannot be written.
    """
    out = settings.out
    expected = "a new folder or a run of 'augment train'"
    run_record.check_no_unexpected_files(
        out, (name for name in OWN_FILES if (out / name).exists()), expected
    )
    config: dict[str, Any] = settings.model_dump(mode="json", exclude=set(NOT_PART_OF_THE_RUN))
    config |= {name: facts[name] for name in DECIDING_FACTS if name in facts}
    if (out / run_record.RUN_RECORD).is_file():
        stored = run_record.read(out / run_record.RUN_RECORD)["config"].get("config")
        if not isinstance(stored, dict):
            raise UserError(f"{out}: found the run of another command, expected {expected}")
        # A run that began before there was a setting has its default.
        defaults = type(config_of(settings))().model_dump(mode="json")
        config["config"] = {
            name: value
            for name, value in config["config"].items()
            if name in stored or value != defaults[name]
        }
    run_record.write(out, config, {"versions": run_record.versions("torch", "numpy")})


def save(trainer: Trainer, settings: TrainSettings, facts: Facts) -> None:
    """Write the EMA of the weights and the state; every process has to call it.

    Raises:
        UserError: If a weight is not finite, or a file cannot be written.
    """
    check_finite_weights(trainer.network, settings.out / STATE)
    state = trainer.state()
    if not trainer.group.is_primary:
        return
    header = store.Header(
        generator=settings.generator,
        config=_shareable(config_of(settings).model_dump(mode="json")),
        facts={**facts, "steps": trainer.step, "images_seen": trainer.images_seen},
    )
    store.save_weights(trainer.ema.tensors, settings.out / WEIGHTS, header, fp16=settings.fp16)
    # Last: what a killed run finds here, all other files already stand for.
    write_training_state(state, settings.out / STATE)


def _shareable(config: dict[str, Any]) -> dict[str, Any]:
    """Return settings that name files without the folders of whoever trained."""
    return {
        name: Path(value).name if isinstance(value, str) and _is_file(value) else value
        for name, value in config.items()
    }


def _is_file(value: str) -> bool:
    """Return whether a setting is the path of a file; names of networks have a slash too."""
    return Path(value).is_absolute() or bool(Path(value).suffix)


def remove_leftovers(out: Path) -> None:
    """Remove the temporary files of a process that was killed."""
    for name in (STATE, WEIGHTS, LOG, f"{SAMPLES}/step-*.png", SUCCESS):
        folder, _, last = name.rpartition("/")
        for path in sorted((out / folder).glob(f".{last}.*.tmp")):
            path.unlink()
