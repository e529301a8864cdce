"""The log of a training: lines of JSON, and the same numbers optionally for TensorBoard.

A run that is resumed drops what a killed one wrote after the step that it starts from.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from manifests import io
from manifests.compute.distributed import SINGLE_PROCESS, ProcessGroup
from manifests.runtime.console import UserError
from manifests.runtime.files import read_file
from manifests.runtime.json_files import is_whole


@dataclass(frozen=True, slots=True)
class Progress:
    """What the steps since the last ``TrainingLog.progress`` came to."""

    losses: dict[str, float]
    """Means over its steps, by name, sorted."""
    images_per_second: float
    seconds: float
    """Since the training began or was resumed."""
    seconds_left: float
    """If the remaining steps are as fast."""


class TrainingLog:
    """Means of the losses between two lines, speed and time left; the primary process writes.

    Losses are added up on the device. A run whose losses are no numbers any more is stopped at the
    step where that begins.
    """

    def __init__(
        self,
        path: Path,
        step: int,
        num_steps: int,
        *,
        group: ProcessGroup = SINGLE_PROCESS,
        tensorboard: Path | None = None,
    ) -> None:
        """Cut the log back to a step.

        Args:
            path: The file of JSON lines.
            step: Steps that are done.
            num_steps: Steps of the whole training.
            group: The processes whose losses are averaged.
            tensorboard: Where TensorBoard's files go, if it gets any.
        """
        self._path = path
        self._done = step
        self._unchecked: tuple[Mapping[str, Tensor], int] | None = None
        self._num_steps = num_steps
        self._group = group
        self._began = time.monotonic()
        self._begin_interval(step)
        self._writer: Any = None
        if not group.is_primary:
            return
        if path.exists():
            io.write_bytes("".join(_lines_up_to(path, step)).encode(), path)
        if tensorboard is not None:
            library: Any = import_module("torch.utils.tensorboard")
            self._writer = library.SummaryWriter(str(tensorboard), purge_step=step + 1)

    def _begin_interval(self, step: int) -> None:
        self._step = step
        self._sums: dict[str, Tensor] = {}
        self._num_images = 0
        self._interval_began = time.monotonic()

    def add(self, losses: Mapping[str, Tensor], num_images: int) -> None:
        """Count the losses of one step in.

        The host does not wait for a GPU, so there a step is looked at when the next one is queued;
        every process of the group has to call it.

        Raises:
            UserError: If a loss of any process is not finite.
        """
        self.check()
        self._unchecked = losses, num_images
        if not any(loss.is_cuda for loss in losses.values()):
            self.check()

    def check(self) -> None:
        """Look at the losses of the last step, if that was not done yet.

        Raises:
            UserError: If one is not finite; the mean of the steps before is written first.
        """
        if self._unchecked is None:
            return
        (losses, num_images), self._unchecked = self._unchecked, None
        is_finite = not losses or bool(
            torch.stack([loss.float() for loss in losses.values()]).isfinite().all()
        )
        if self._group.any(not is_finite):
            self._refuse(losses)
        for name, loss in losses.items():
            self._sums[name] = self._sums[name] + loss if name in self._sums else loss
        self._num_images += num_images
        self._done += 1

    def _refuse(self, losses: Mapping[str, Tensor]) -> NoReturn:
        before = self._done
        if before > self._step:
            self.write(before, self.progress(before).losses)
        found = [f"{name} became {float(loss)}" for name, loss in losses.items()
                 if not math.isfinite(loss)]  # fmt: skip
        raise UserError(
            f"step {before + 1:,} of {self._num_steps:,}: the "
            f"{' and '.join(found) or 'losses of another process became no numbers'}, expected "
            "finite losses (a lower learning rate or --precision float32 may help); log and state "
            "of before are kept"
        )

    def progress(self, step: int) -> Progress:
        """Return what ``step`` and those before it, back to the last call, came to.

        Every process of the group has to call it.

        Raises:
            UserError: If a loss of the last step is not finite.
        """
        self.check()
        sums = self._group.mean(self._sums)
        now = time.monotonic()
        seconds = max(now - self._interval_began, 1e-9)
        count = max(step - self._step, 1)
        progress = Progress(
            losses={name: float(value) / count for name, value in sorted(sums.items())},
            images_per_second=self._num_images / seconds,
            seconds=now - self._began,
            seconds_left=(self._num_steps - step) * seconds / count,
        )
        self._begin_interval(step)
        return progress

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Write one line.

        Raises:
            UserError: If the line cannot be written.
        """
        if not self._group.is_primary:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **numbers}) + "\n")
        except OSError as error:
            raise UserError(f"{self._path}: cannot be written ({error.strerror})") from error
        if self._writer is not None:
            for name, number in numbers.items():
                self._writer.add_scalar(name, number, step)

    def close(self) -> None:
        """Finish TensorBoard's files."""
        if self._writer is not None:
            self._writer.close()


def _lines_up_to(path: Path, step: int) -> list[str]:
    """Return the whole lines of a log up to a step; what a damaged disk left between is dropped."""
    text = read_file(path, "the log of a training").decode("utf-8", "replace")
    lines = text.splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n") and _step_of(line) <= step]


def _step_of(line: str) -> float:
    try:
        step = json.loads(line)["step"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return math.inf
    return step if is_whole(step, 0, 2**63) else math.inf
