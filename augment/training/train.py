"""Train a pose-transfer network: ``augment train``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch

from augment.training import run_folder
from augment.training.inputs import (
    build_network,
    facts_of_files,
    load_frozen_networks,
    load_images,
)
from augment.training.loop import Trainer
from augment.training.run_folder import LOG, SAMPLES, STATE, SUCCESS, WEIGHTS
from augment.training.samples import contact_sheet
from augment.training.settings import TrainSettings, settings_for
from manifests import io
from manifests.compute.devices import pick_device
from manifests.compute.distributed import ProcessGroup, init_distributed, rank_device
from manifests.compute.precision import settled_precision
from manifests.compute.training_log import Progress, TrainingLog
from manifests.compute.training_state import read_training_state, restoring
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.one_process import alone_in
from manifests.runtime.run_record import RUN_RECORD
from manifests.runtime.signals import SOON, recording

__all__ = ["TrainSettings", "settings_for", "train"]


def train(settings: TrainSettings, console: Console) -> Exit:
    """Train, or go on, until the plan's end.

    Args:
        settings: Of the class that ``settings_for`` gives.
        console: Where progress goes.

    Raises:
        UserError: If the folder belongs to a run with other settings or to another process, or the
            input is unusable.
    """
    deadline = _deadline(settings.stop_after_minutes)
    device = pick_device(rank_device(settings.device))
    record = settings.out / RUN_RECORD
    precision = settled_precision(settings.precision, device, [record])
    settings = settings.model_copy(update={"precision": precision})
    with init_distributed(device) as group:
        if not group.is_primary:
            console = Console(quiet=True)
        return _train(settings, device, group, deadline, console)


def _train(
    settings: TrainSettings,
    device: torch.device,
    group: ProcessGroup,
    deadline: float,
    console: Console,
) -> Exit:
    out = settings.out
    facts = facts_of_files(settings) | ({"processes": group.size} if group.size > 1 else {})
    network = build_network(settings, device)
    if not network.stages():
        raise UserError(
            f"--generator {settings.generator}: has nothing to train; 'augment generate --weights "
            f"{settings.generator}' makes images with it"
        )
    training, of_images = load_images(settings, network, device, console)
    facts |= of_images
    trainer = Trainer(network, training, settings, device, group)
    load_frozen_networks(network, device)
    trainer.begin_at(_first_step(settings, trainer.num_steps))
    # Last of the checks: what is refused before shall not make the folder that of another run.
    run_folder.write_run_record(settings, facts)
    with alone_in(out) if group.is_primary else nullcontext():
        return _train_in(trainer, settings, facts, deadline, console)


def _train_in(
    trainer: Trainer,
    settings: TrainSettings,
    facts: dict[str, Any],
    deadline: float,
    console: Console,
) -> Exit:
    """Train in a folder that is ours alone."""
    out, group = settings.out, trainer.group
    if group.is_primary:
        run_folder.remove_leftovers(out)
    if (out / SUCCESS).exists():
        console.say(f"{out}: already complete")
        return Exit.DONE
    state = out / STATE
    if state.exists():
        found = read_training_state(state, trainer.device)
        with restoring(state):
            trainer.restore(found)
        console.say(f"{out}: goes on from step {trainer.step:,}")
    save = partial(run_folder.save, trainer, settings, facts)
    if _run_steps(trainer, settings, deadline, save, console):
        if group.is_primary:
            io.write_bytes(b"", out / SUCCESS)
        console.say(f"{out / WEIGHTS}: trained {trainer.step:,} steps")
        return Exit.DONE
    console.say(f"{out}: stopped at step {trainer.step:,}; the same command goes on")
    return Exit.STOPPED_EARLY


def _run_steps(
    trainer: Trainer,
    settings: TrainSettings,
    deadline: float,
    save: Callable[[], None],
    console: Console,
) -> bool:
    """Make the remaining steps; return whether the plan's end was reached."""
    out, group = settings.out, trainer.group
    log = TrainingLog(out / LOG, trainer.step, trainer.num_steps, group=group)
    with (
        recording(*SOON) as received,
        console.progress("train", trainer.num_steps, "step", trainer.step) as bar,
    ):
        for terms in trainer.steps():
            step = trainer.step
            log.add(terms, trainer.stage.batch_size)
            bar.advance()
            last = step == trainer.num_steps
            if last or step % settings.log_every == 0:
                progress = log.progress(step)
                line = _line(progress, trainer.learning_rates)
                log.write(step, line)
                text = _sentence(progress, step, trainer.num_steps)
                console.say(text, event="train", step=step, **line)
            if group.is_primary and (last or step % settings.samples_every == 0):
                io.write_bytes(contact_sheet(trainer), out / SAMPLES / f"step-{step:06d}.png")
            stopping = group.any(bool(received) or time.monotonic() >= deadline)
            if last or stopping or step % settings.save_every == 0:
                log.check()
                save()
            if stopping and not last:
                return False
    return True


def _deadline(minutes: float | None) -> float:
    """Return when a command that was given some minutes has to stop, by the monotonic clock."""
    return math.inf if minutes is None else time.monotonic() + 60 * minutes


def _first_step(settings: TrainSettings, num_steps: int) -> int:
    first = settings.first_step
    if first is None:
        return 0
    if settings.init is None:
        raise UserError(f"--first-step {first}: found no --init, expected weights to begin with")
    if not 0 <= first < num_steps:
        raise UserError(f"--first-step {first}: expected a step from 0 to {num_steps - 1:,}")
    return first


def _line(progress: Progress, rates: Mapping[str, float]) -> dict[str, float]:
    """Return what a line of ``log.jsonl`` says beside the step.

    The learning rate stands there once where all phases have the same.
    """
    if len(set(rates.values())) == 1:
        learning = {"learning_rate": next(iter(rates.values()))}
    else:
        learning = {f"learning_rate/{phase}": rate for phase, rate in rates.items()}
    return {
        "images_per_second": round(progress.images_per_second, 2),
        "seconds": round(progress.seconds, 1),
        "seconds_left": round(progress.seconds_left),
        **progress.losses,
        **learning,
    }


def _sentence(progress: Progress, step: int, num_steps: int) -> str:
    losses = "  ".join(
        f"{name.split('/')[-1]} {value:.3f}" for name, value in progress.losses.items()
    )
    return (
        f"step {step:,}/{num_steps:,}  {progress.images_per_second:.1f} img/s  "
        f"{progress.seconds_left / 60:.0f} min left  {losses}"
    )
