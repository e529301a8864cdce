"""How fast a training is on this machine: a few of its steps, on some of its people."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from torch import Tensor

from manifests.compute.devices import pick_device
from manifests.pixels import naming_all_broken, read_all
from manifests.runtime.console import Bar, Console
from manifests.synthetic import Synthetic
from reid.data.controls import controlled
from reid.data.dataset import Selection, load_training_set
from reid.data.inputs import Inputs
from reid.models.features import embed
from reid.training.batches import Batches, Destination
from reid.training.loop import Trainer
from reid.training.settings import TrainSettings
from reid.training.train import make_trainer, scenes_of, select_rows

NUM_STEPS: Final = 8
"""Steps that are timed."""
_NUM_WARM_UP: Final = 2
"""Steps before these: the first ones set buffers up, and compile."""
NUM_STEPS_MADE: Final = _NUM_WARM_UP + NUM_STEPS
_NUM_EMBEDDED: Final = 64


@dataclass(frozen=True, slots=True)
class Speed:
    """What a training and its scoring take on this machine, in seconds."""

    per_step: float
    """Batch, forward and backward pass, update."""
    per_read: float
    """Per image that is decoded into memory."""
    per_embedded: float
    """Per image that a feature is taken of."""


def measure_speed(settings: TrainSettings, inputs: Inputs, bar: Bar) -> Speed:
    """Return how fast a training is; nothing is written.

    The steps are those of the run, but on the images of only as many people as a batch has images.

    Args:
        settings: Of the run.
        inputs: What the command has read before.
        bar: Counts ``NUM_STEPS_MADE`` steps.

    Raises:
        UserError: If the training could not begin.
    """
    settings = settings.model_copy(update={"steps": NUM_STEPS_MADE})
    whole, synthetic = select_rows(settings, inputs)
    part = _some_people(whole, synthetic, settings.batch_size)
    size = (settings.width, settings.height)
    with naming_all_broken(inputs.images(settings.images, settings.root)):
        began = time.perf_counter()
        some = read_all(part.train.take(np.arange(min(_NUM_EMBEDDED, len(part.train)))), size)
        per_read = (time.perf_counter() - began) / len(some)
        # What the run would read step by step is read so here.
        share = _num_rows(part) / _num_rows(whole)
        data = load_training_set(part, synthetic, size, settings.max_decoded_gb * 1e9 * share)
    data = controlled(data, settings.control, settings.seed)
    destination, silent = Destination(pick_device(settings.device)), Console(quiet=True)
    people = {*data.people, *whole.train.strings("person_id")}
    trainer = make_trainer(settings, len(people), destination, silent)
    destination = replace(destination, normalisation=trainer.network.normalisation)
    embed(trainer.network, some[:1], "warm up", silent)
    began = time.perf_counter()
    embed(trainer.network, some, "some", silent)
    per_embedded = (time.perf_counter() - began) / len(some)
    scenes = scenes_of(part.train, data, settings, silent)
    batches = Batches(data, settings, destination, 0, scenes)
    return Speed(_seconds_per_step(trainer, batches, bar), per_read, per_embedded)


def _seconds_per_step(trainer: Trainer, batches: Batches, bar: Bar) -> float:
    trainer.network.module.train()
    began = 0.0
    for batch in batches:
        loss = trainer.update(batch)
        if trainer.done in {_NUM_WARM_UP, NUM_STEPS_MADE}:
            _wait_for(loss)
        if trainer.done == _NUM_WARM_UP:
            began = time.perf_counter()
        bar.advance()
    return (time.perf_counter() - began) / NUM_STEPS


def _wait_for(loss: Tensor) -> None:
    """Wait until the device has done what was queued."""
    loss.item()


def _some_people(selection: Selection, synthetic: Synthetic | None, num_people: int) -> Selection:
    """Return the rows of some of the real people, and of all that are in the synthetic set alone.

    Those with synthetic images and with masks come first: batches and scenes need some.
    """
    train = selection.train
    real = np.array(train.strings("person_id"))
    made = np.empty(0, real.dtype)
    if synthetic is not None:
        made = np.array(synthetic.take(selection.synthetic_rows).strings("person_id"))
    shown = {*made.tolist()}
    masked = {*real[np.asarray(train.table["mask"].is_valid())].tolist()}
    order = sorted({*real.tolist()}, key=lambda who: (who not in shown, who not in masked, who))
    left_out = np.array(order[num_people:], real.dtype)
    return replace(
        selection,
        train=train.take(np.flatnonzero(~np.isin(real, left_out))),
        synthetic_rows=selection.synthetic_rows[~np.isin(made, left_out)],
    )


def _num_rows(selection: Selection) -> int:
    return len(selection.train) + len(selection.synthetic_rows)
