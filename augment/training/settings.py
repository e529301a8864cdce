"""The settings of ``augment train``, and which of them make a run another run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from augment import generators
from augment.training.loop import LoopSettings
from manifests.runtime.settings import Count, Frozen, NotNegative, Positive


class TrainSettings(LoopSettings):
    """Train a pose-transfer network on the train rows of an images table."""

    generator: str = "patn"
    """System to train; its own settings follow as --config.NAME."""
    images: Path
    """Images table that 'augment index' made."""
    out: Path
    """Folder of this run; the same command goes on with it."""
    root: Path | None = None
    """Where the images lie, if not where the table says."""
    init: str | None = None
    """Weights to start from: a shipped name or a file of the same system and settings.
    Discriminators that the file holds start from it too."""
    first_step: int | None = None
    """Step of the plan at which to begin with --init: the steps that those weights have had."""
    real_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Train on this part of the train rows, spread over all people."""
    data_seed: Count = 0
    """Chooses that part; 'augment generate' and 'reid train' choose the same by the same seed."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    save_every: Positive = 250
    """Steps between two checkpoints."""
    log_every: Positive = 50
    """Steps between two lines of the log."""
    samples_every: Positive = 1_000
    """Steps between two contact sheets."""
    stop_after_minutes: NotNegative | None = None
    """Save and leave with exit code 75 after so long; the same command goes on."""
    fp16: bool = True
    """Store the weights in half precision."""


NOT_PART_OF_THE_RUN = (
    "images",
    "out",
    "root",
    "device",
    "save_every",
    "log_every",
    "samples_every",
    "stop_after_minutes",
)
"""Settings that a resumed run may change; the images are compared by their digests."""

DECIDING_FACTS = (
    "train_sha256",
    "identity_sha256",
    "features_sha256",
    "init_sha256",
    "processes",
)
"""Facts that a resumed run must share, where they apply."""


def settings_for(arguments: Sequence[str]) -> type[TrainSettings]:
    """Return the settings of ``augment train``, with those of the system that is named.

    Raises:
        UserError: If there is no such system.
    """
    return generators.with_config(TrainSettings, arguments)


def config_of(settings: TrainSettings) -> Frozen:
    """Return the settings of the system itself."""
    return getattr(settings, "config")  # noqa: B009 - the class is made by settings_for
