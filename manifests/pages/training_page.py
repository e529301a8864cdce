"""The page of one training: what its log holds as curves, its sample sheets, its settings.

Written at any time, also while the training runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import numpy as np

from manifests.pages.charts import Axis, Figure, Series, Words, lines
from manifests.pages.page import embedded, entries, in_words, linked, write_page
from manifests.runtime import run_record
from manifests.runtime.console import Console, UserError
from manifests.runtime.files import read_file
from manifests.runtime.json_files import is_whole
from manifests.runtime.tables import Table

LOG: Final = "log.jsonl"
SAMPLES: Final = "samples"

_LEFT: Final = ("eta_seconds", "seconds_left")
"""How a log calls the time left, by the program that trained."""
_NO_CURVES: Final = {"step", "seconds", *_LEFT}
_FIRST: Final = ("loss", "learning_rate", "images_per_second")
_MAX_POINTS: Final = 200

Line = dict[str, float]


@dataclass(frozen=True, slots=True)
class Training:
    """A training on disk, and what is known of it beside its log."""

    folder: Path
    program: str
    """The command that trained."""
    scores: Table | None = None


def is_training(folder: Path) -> bool:
    """Return whether a folder is that of a training that has written a line of its log."""
    return (folder / LOG).is_file()


def write_training_page(page: Path, training: Training, console: Console, *, embed: bool) -> None:
    """Write the page, and say how large it is.

    Args:
        page: HTML file; its folder exists.
        training: What it is about.
        console: Says how large the page is.
        embed: Put the sample sheets into the page; else they are linked.

    Raises:
        UserError: If there is no line in the log, or the page cannot be written.
    """
    folder = training.folder
    log = read_log(folder / LOG)
    sheets = sorted((folder / SAMPLES).glob("step-*.png"))
    last = log[-1]
    record = folder / run_record.RUN_RECORD
    config = run_record.read(record)["config"] if record.is_file() else {}
    context: dict[str, Any] = {
        "title": f"Training: {folder.resolve().name}",
        "kind": "One training, as far as it has come",
        "program": training.program,
        "sections": [
            ("answer", "In short"),
            ("curves", "Curves"),
            *([("sheets", "Sample sheets")] if sheets else []),
            ("provenance", "Settings"),
        ],
        "facts": _facts(log, config.get("steps")),
        "scores": training.scores,
        "figures": curves(log),
        "every": _every(log),
        "sheets": [
            (
                int(path.stem.rpartition("-")[2]),
                embedded(path.read_bytes()) if embed else linked(path, page.absolute().parent),
            )
            for path in sheets
        ],
        "embed": embed,
        "config": entries(config),
    }
    size = write_page(page, "training.html", context)
    console.say(f"{page}: {in_words(size)}, step {last['step']:,.0f}", event="page", bytes=size)


def read_log(path: Path) -> list[Line]:
    """Return the lines of a log; one that is being written is left out.

    Raises:
        UserError: If there is none, or it holds something else.
    """
    if not path.is_file():
        raise UserError(f"{path.parent}: found no {LOG}, expected the folder of a training")
    text = read_file(path, "the log of a training").decode("utf-8", "replace")
    log = [_line(line, path) for line in text.split("\n")[:-1]]
    if not log:
        raise UserError(f"{path}: holds no line yet, expected at least one")
    return log


def _line(text: str, path: Path) -> Line:
    line: Any = None
    with suppress(ValueError, RecursionError):
        line = json.loads(text)
    is_sound = (
        isinstance(line, dict)
        and is_whole(line.get("step"), 0, 2**53)
        and all(type(n) is float or is_whole(n, -(2**63), 2**63) for n in line.values())
    )
    if not is_sound:
        raise UserError(
            f"{path}: found a line that is no log of a training ('{text.strip()[:80]}'), expected "
            "a step and its numbers"
        )
    return line


def _facts(log: Sequence[Line], num_steps: float | None) -> list[tuple[str, str, str]]:
    last = log[-1]
    facts = [("steps", f"{last['step']:,.0f}", f"of {num_steps:,}" if num_steps else "done")]
    if "seconds" in last:
        left = next((last[name] for name in _LEFT if name in last), 0.0)
        about = f"so far; {_in_time(left)} left" if left else "in all"
        facts.append(("time", _in_time(_spent(log)), about))
    speeds = [line["images_per_second"] for line in log if "images_per_second" in line]
    if speeds:
        facts.append(("speed", f"{np.median(speeds):,.1f}", "images a second, the median"))
    return facts


def _spent(log: Sequence[Line]) -> float:
    """Return the seconds of a training, which its log counts anew from every resumption.

    >>> _spent([{"seconds": 50.0}, {"seconds": 100.0}, {"seconds": 10.0}, {"seconds": 20.0}])
    120.0
    """
    seconds = [line["seconds"] for line in log if "seconds" in line]
    ends = [now for now, then in zip_longest(seconds, seconds[1:]) if then is None or then < now]
    return sum(ends)


def _in_time(seconds: float) -> str:
    """Return a time for people.

    >>> _in_time(50), _in_time(5000)
    ('50 s', '1 h 23 min')
    """
    hours, minutes = divmod(round(seconds / 60), 60)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _every(log: Sequence[Line]) -> int:
    return -(-len(log) // _MAX_POINTS)


def curves(log: Sequence[Line]) -> list[Figure]:
    """Return a figure for every number of a log, the most looked at first."""
    names = dict.fromkeys(name for line in log for name in line)
    shown = [*(name for name in _FIRST if name in names)]
    shown += [name for name in names if name not in {*_FIRST, *_NO_CURVES}]
    return [_curve(log, name) for name in shown]


def _curve(log: Sequence[Line], name: str) -> Figure:
    points = [
        (line["step"], float(line[name])) for line in log if isinstance(line.get(name), int | float)
    ]
    every = -(-max(len(points), 1) // _MAX_POINTS)
    blocks = [points[start : start + every] for start in range(0, len(points), every)]
    # The step is that of a block's last line, as a line of the log is of the steps before it.
    steps = [block[-1][0] for block in blocks]
    means = [float(np.mean([value for _, value in block])) for block in blocks]
    title = name.replace("_", " ")
    said = f"from {means[0]:.4g} at step {steps[0]:,.0f} to {means[-1]:.4g} at {steps[-1]:,.0f}"
    return lines(
        Words(title, f"{title} {said}"),
        Axis("step"),
        Axis(title, form=".5g"),
        [Series(title, steps, means)],
    )
