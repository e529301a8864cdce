"""The training log: one JSON line per report, cut back to the step that a resumed run starts at."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from augment.training.parallel import Ranks
from manifests import io
from manifests.runtime.console import UserError


class TrainingLog:
    """Means of the loss terms since the last line, images per second, time left.

    Terms are added up on the device; only a report waits for them. The first rank writes.
    """

    def __init__(self, path: Path, step: int, num_steps: int, ranks: Ranks) -> None:
        self._path = path
        self._num_steps = num_steps
        self._ranks = ranks
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._images = 0
        self._began = time.monotonic()
        kept = _lines_up_to(path, step)
        if ranks.first and path.exists():
            io.write_bytes("".join(kept).encode(), path)

    def add(self, terms: Mapping[str, Tensor], num_images: int) -> None:
        """Remember the loss terms of one step."""
        for name, term in terms.items():
            self._sums[name] = self._sums[name] + term if name in self._sums else term
        self._count += 1
        self._images += num_images

    def report(self, step: int) -> dict[str, float]:
        """Write one line and return it; rates cover the steps since the last line.

        Raises:
            UserError: If the line cannot be written.
        """
        sums = self._ranks.mean(self._sums)
        seconds = time.monotonic() - self._began
        line = {
            "step": step,
            "images_per_second": round(self._images / seconds, 2),
            "seconds_left": round((self._num_steps - step) * seconds / max(self._count, 1)),
            **{name: float(value) / self._count for name, value in sorted(sums.items())},
        }
        if self._ranks.first:
            self._append(json.dumps(line) + "\n")
        self._sums, self._count, self._images = {}, 0, 0
        self._began = time.monotonic()
        return line

    def _append(self, text: str) -> None:
        try:
            with self._path.open("a") as file:
                file.write(text)
        except OSError as error:
            raise UserError(f"{self._path}: cannot be written ({error.strerror})") from error


def _lines_up_to(path: Path, step: int) -> list[str]:
    if not path.exists():
        return []
    whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in whole if json.loads(line)["step"] <= step]
