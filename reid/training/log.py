"""What the log of a re-ID training says: losses, rate and speed, and validation scores."""

from __future__ import annotations

from torch import Tensor

from manifests.compute.distributed import ProcessGroup
from manifests.compute.training_log import TrainingLog
from reid.models.run_folder import LOG, TENSORBOARD
from reid.training.settings import TrainSettings


def open_log(settings: TrainSettings, start: int, group: ProcessGroup) -> TrainingLog:
    """Return the log of a run, cut back to the step that it starts from."""
    return TrainingLog(
        settings.out / LOG,
        start,
        settings.steps,
        group=group,
        tensorboard=settings.out / TENSORBOARD if settings.tensorboard else None,
    )


def log_step(
    log: TrainingLog, settings: TrainSettings, done: int, loss: Tensor, learning_rate: float
) -> None:
    """Count a step in; write a line when one is due. Every process has to call it.

    Raises:
        UserError: If the loss is not finite, or the log cannot be written.
    """
    log.add({"loss": loss}, settings.batch_size)
    if done % settings.log_every and done != settings.steps:
        return
    progress = log.progress(done)
    log.write(
        done,
        {
            "loss": round(progress.losses["loss"], 5),
            "learning_rate": learning_rate,
            "images_per_second": round(progress.images_per_second, 1),
            "seconds": round(progress.seconds, 1),
            "eta_seconds": round(progress.seconds_left, 1),
        },
    )
