"""The training schedule of a system, as data: stages of phases, each one optimiser update."""

from __future__ import annotations

import math
from typing import Literal

from manifests.runtime.settings import Frozen


class Adam(Frozen):
    """Adam (Kingma and Ba 2015)."""

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.999


class RMSProp(Frozen):
    """RMSProp as TensorFlow computes it, for Wasserstein discriminators (``augment.training``)."""

    learning_rate: float


class Constant(Frozen):
    """The learning rate never changes."""

    kind: Literal["constant"] = "constant"

    def factor(self, step: int) -> float:
        """Return the multiplier of the learning rate for the update after ``step`` updates."""
        del step
        return 1.0


class LinearTail(Frozen):
    """Constant, then linear to zero, changing once per epoch of ``epoch_steps`` updates.

    The published PyTorch rule: after ``e`` finished epochs the factor is
    ``1 - max(0, e + 2 - constant_epochs) / (tail_epochs + 1)``, so the last epoch has rate 0.
    """

    kind: Literal["linear_tail"] = "linear_tail"
    epoch_steps: int
    constant_epochs: int
    tail_epochs: int

    @classmethod
    def over(cls, steps: int, num_epochs: int, constant_part: float) -> LinearTail:
        """Return the schedule of a stage whose rate changes about ``num_epochs`` times.

        >>> LinearTail.over(119, 60, 1 / 3)
        LinearTail(kind='linear_tail', epoch_steps=2, constant_epochs=20, tail_epochs=40)
        """
        epoch_steps = math.ceil(steps / num_epochs)
        epochs = math.ceil(steps / epoch_steps)
        constant = round(constant_part * epochs)
        return cls(epoch_steps=epoch_steps, constant_epochs=constant, tail_epochs=epochs - constant)

    def factor(self, step: int) -> float:
        """Return the multiplier of the learning rate for the update after ``step`` updates."""
        if not self.tail_epochs:
            return 1.0
        finished = step // self.epoch_steps
        late = max(0, finished + 2 - self.constant_epochs)
        return max(0.0, 1.0 - late / (self.tail_epochs + 1))


class Halving(Frozen):
    """Halved every ``every`` updates."""

    kind: Literal["halving"] = "halving"
    every: int

    def factor(self, step: int) -> float:
        """Return the multiplier of the learning rate for the update after ``step`` updates."""
        return float(0.5 ** (step // self.every))


class Phase(Frozen):
    """One optimiser update."""

    name: str
    trains: tuple[str, ...]
    """Dotted prefixes of parameter names; a leading ``-`` excludes: ``("flow", "-flow.mask")``."""
    optimizer: Adam | RMSProp
    schedule: Constant | LinearTail | Halving = Constant()
    repeat: int = 1
    """Updates per step (Wasserstein discriminators take several)."""
    batch: Literal["shared", "fresh"] = "shared"
    """Whether the phase uses the step's forward pass or one of its own on new pairs."""
    clamp: float | None = None
    """Largest magnitude of a trained weight after the update (Wasserstein weight clipping)."""


class Stage(Frozen):
    """A part of the training: every step runs the phases in order."""

    name: str
    steps: int
    batch_size: int
    phases: tuple[Phase, ...]
