"""The folder of one training run: what it holds, how it is read back.

``run.json`` is written first and never changes; ``last.pt`` is the training state; a run is
complete when ``last.safetensors`` exists. ``best.safetensors`` stands beside it where validation
people were set aside. ``report.json`` and ``queries.parquet`` come from scoring.
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal

from manifests.console import UserError
from manifests.io import write_bytes

FACTS: Final = "run.json"
LOG: Final = "log.jsonl"
STATE: Final = "last.pt"
REPORT: Final = "report.json"
QUERIES: Final = "queries.parquet"

Which = Literal["last", "best"]


@dataclass(frozen=True, slots=True)
class Run:
    """A training run on disk."""

    folder: Path
    facts: dict[str, Any]

    @property
    def recipe(self) -> dict[str, Any]:
        """Return the settings that decide the weights, inputs by their sha256."""
        return self.facts["recipe"]

    @property
    def is_complete(self) -> bool:
        """Return whether training has finished."""
        return self.weights("last").exists()

    @property
    def default_weights(self) -> Which:
        """Return ``best`` where validation people chose it, else ``last``."""
        return "best" if self.recipe["val_people"] else "last"

    def weights(self, which: Which) -> Path:
        """Return the file of the weights after the last step or of the best validation score."""
        return self.folder / f"{which}.safetensors"


def read_run(folder: Path) -> Run:
    """Return the run in a folder.

    Raises:
        UserError: If there is none.
    """
    path = folder / FACTS
    try:
        return Run(folder, json.loads(path.read_text("utf-8")))
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no {FACTS}; expected a folder from reid train") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON ({error}); expected what reid train wrote") from error


def write_json(value: object, path: Path) -> None:
    """Write indented JSON, whole or not at all."""
    write_bytes((json.dumps(value, indent=2, sort_keys=True) + "\n").encode(), path)


def versions() -> dict[str, str]:
    """Return the versions of what computes the numbers."""
    names = ("torch", "torchreid", "numpy", "pyarrow")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in names}


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Return the entries that differ, each as ``name: found, expected``.

    >>> differences({"steps": 10, "seed": 0}, {"steps": 20, "seed": 0})
    ['steps: 10, now 20']
    """
    names = sorted(set(found) | set(expected))
    return [
        f"{name}: {found.get(name)!r}, now {expected.get(name)!r}"
        for name in names
        if found.get(name) != expected.get(name)
    ]
