"""What the log of a re-ID training says: losses, rate and speed, and validation scores."""

from __future__ import annotations

import math

from torch import Tensor

from manifests.compute.training_log import TrainingLog
from manifests.runtime.console import UserError
from reid.models.run_folder import LOG, TENSORBOARD
from reid.training.settings import TrainSettings


def open_log(settings: TrainSettings, start: int) -> TrainingLog:
    """Return the log of a run, cut back to the step that it starts from."""
    tensorboard = settings.out / TENSORBOARD if settings.tensorboard else None
    return TrainingLog(settings.out / LOG, start, settings.steps, tensorboard=tensorboard)


def log_step(
    log: TrainingLog, settings: TrainSettings, done: int, loss: Tensor, learning_rate: float
) -> None:
    """Count a step in; write a line when one is due.

    Raises:
        UserError: If the loss is no longer finite, or the log cannot be written.
    """
    log.add({"loss": loss}, settings.batch_size)
    if done % settings.log_every and done != settings.steps:
        return
    progress = log.progress(done)
    mean = progress.losses["loss"]
    if not math.isfinite(mean):
        raise UserError(
            f"the loss became {mean} by step {done} of {settings.steps}; expected a finite "
            f"number (--learning-rate {settings.learning_rate} may be too high)"
        )
    log.write(
        done,
        {
            "loss": round(mean, 5),
            "learning_rate": learning_rate,
            "images_per_second": round(progress.images_per_second, 1),
            "seconds": round(progress.seconds, 1),
            "eta_seconds": round(progress.seconds_left, 1),
        },
    )
