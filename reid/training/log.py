"""The log of a training: lines of ``log.jsonl``, and the same numbers for TensorBoard.

A run that is continued drops what a killed one wrote after the step it starts from.
"""

from __future__ import annotations

import json
import math
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manifests.io import write_bytes
from manifests.runtime.console import UserError
from reid.models.run_folder import LOG, TENSORBOARD
from reid.training.recipes import TrainSettings


class Log:
    """Loss, rate, speed and time left every so many steps; validation scores."""

    def __init__(self, folder: Path, settings: TrainSettings, start: int) -> None:
        self._path = folder / LOG
        self._settings = settings
        self._losses: list[Tensor] = []
        self._began = time.monotonic()
        self._start = start
        self._last = (self._began, start)
        if self._path.exists():
            write_bytes("".join(_lines_up_to(self._path, start)).encode(), self._path)
        self._board: Any = None
        if settings.tensorboard:
            library: Any = import_module("torch.utils.tensorboard")
            self._board = library.SummaryWriter(str(folder / TENSORBOARD), purge_step=start + 1)

    def add(self, step: int, loss: Tensor, rate: float) -> None:
        """Take note of a step; write a line when one is due.

        Raises:
            UserError: If the loss is no longer finite, or the log cannot be written.
        """
        settings = self._settings
        self._losses.append(loss)
        done = step + 1
        if done % settings.log_every and done != settings.steps:
            return
        mean = float(torch.stack(self._losses).mean())
        self._losses = []
        if not math.isfinite(mean):
            raise UserError(
                f"the loss became {mean} by step {done} of {settings.steps}; expected a finite "
                f"number (--learning-rate {settings.learning_rate} may be too high)"
            )
        now = time.monotonic()
        speed = (done - self._last[1]) / max(now - self._last[0], 1e-9)
        left = (settings.steps - done) * (now - self._began) / (done - self._start)
        self._last = (now, done)
        self._write(
            done,
            {
                "loss": round(mean, 5),
                "learning_rate": rate,
                "images_per_second": round(speed * settings.batch_size, 1),
                "seconds": round(now - self._began, 1),
                "eta_seconds": round(left, 1),
            },
        )

    def validation(self, done: int, mean_average_precision: float) -> None:
        """Write the score of the validation people after ``done`` steps."""
        self._write(done, {"validation_mAP": mean_average_precision})

    def close(self) -> None:
        """Finish the files."""
        if self._board is not None:
            self._board.close()

    def _write(self, done: int, numbers: dict[str, float]) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": done, **numbers}) + "\n")
        except OSError as error:
            raise UserError(f"{self._path}: cannot be written ({error.strerror})") from error
        if self._board is not None:
            for name, number in numbers.items():
                self._board.add_scalar(name, number, done)


def _lines_up_to(path: Path, step: int) -> list[str]:
    lines = path.read_text("utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    return [line for line in whole if json.loads(line)["step"] <= step]
