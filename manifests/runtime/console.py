"""What a command writes for its user: messages, errors with exit codes, progress."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import IntEnum
from typing import Literal, NoReturn

from tqdm import tqdm

LogFormat = Literal["text", "json"]

PLAIN_PROGRESS_SECONDS = 30.0


class UserError(ValueError):
    """A mistake of the user's: what was found, what was expected, where."""


class Exit(IntEnum):
    """Exit codes of every command."""

    DONE = 0
    BUG = 1
    REFUSED = 2
    ROW_ERRORS = 3
    STOPPED_EARLY = 75
    INTERRUPTED = 130


class Bar:
    """Progress of one loop: a bar on a terminal, a plain line every 30 s elsewhere."""

    def __init__(self, console: Console, label: str, total: int, unit: str, start: int) -> None:
        self._console = console
        self._label = label
        self._total = total
        self._unit = unit
        self._start = self._count = start
        self._began = self._last_line = time.monotonic()
        self._bar = (
            tqdm(total=total, initial=start, desc=label, unit=unit, leave=False, file=sys.stderr)
            if console.shows_bars
            else None
        )

    def advance(self, count: int = 1) -> None:
        """Count further items done."""
        self._count += count
        if self._bar is not None:
            self._bar.update(count)
            return
        now = time.monotonic()
        if now - self._last_line >= PLAIN_PROGRESS_SECONDS:
            self._last_line = now
            rate = (self._count - self._start) / (now - self._began)
            self._console.say(
                f"{self._label}: {self._count:,} of {self._total:,} ({rate:.1f} {self._unit}/s)",
                event="progress",
                label=self._label,
                done=self._count,
                total=self._total,
                rate=round(rate, 3),
            )

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()


class Console:
    """All output of a command: messages to standard error, results to standard output."""

    def __init__(self, *, quiet: bool = False, log_format: LogFormat = "text") -> None:
        self._quiet = quiet
        self._log_format: LogFormat = log_format

    @property
    def shows_bars(self) -> bool:
        """Whether to show a progress bar: on a terminal, as text, unless quiet."""
        return not self._quiet and self._log_format == "text" and sys.stderr.isatty()

    @property
    def flags(self) -> list[str]:
        """Flags that give another process of ours the same output options."""
        quiet = ["--quiet"] if self._quiet else []
        return quiet + (["--log-format", "json"] if self._log_format == "json" else [])

    def say(self, message: str, *, event: str = "message", **fields: object) -> None:
        """Write one line; in the JSON format ``event`` and ``fields`` go with it."""
        if self._quiet:
            return
        if self._log_format == "json":
            line = json.dumps({"event": event, "message": message, **fields}, sort_keys=True)
        else:
            line = message
        if self.shows_bars:
            tqdm.write(line, file=sys.stderr)
        else:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    def show(self, text: str) -> None:
        """Write a command's result to standard output, also when quiet."""
        sys.stdout.write(text)
        sys.stdout.flush()

    @contextmanager
    def progress(self, label: str, total: int, unit: str = "img", start: int = 0) -> Generator[Bar]:
        """Count ``total`` items from ``start`` while the block runs."""
        bar = Bar(self, label, total, unit, start)
        try:
            yield bar
        finally:
            bar.close()


def exit_with(command: Callable[[], Exit]) -> NoReturn:
    """Run a command and leave the process with its exit code.

    A ``UserError`` becomes one sentence and code 2, an interrupt code 130; any other exception
    is a bug and shows its traceback with code 1.
    """
    try:
        code = command()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        code = Exit.REFUSED
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on from here\n")
        code = Exit.INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        code = Exit.INTERRUPTED
    except Exception:  # noqa: BLE001 - the process border: a bug must end with code 1
        traceback.print_exc()
        code = Exit.BUG
    sys.exit(int(code))
