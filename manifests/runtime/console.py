"""What a command writes for its user: messages, errors with exit codes, progress."""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from enum import IntEnum
from typing import Final, Literal, NoReturn, TextIO

from tqdm import tqdm

LogFormat = Literal["text", "json"]

PLAIN_PROGRESS_SECONDS = 30.0
FIRST_PROGRESS_SECONDS = 10.0
"""To the first of these lines: who has just begun wants to know how long it takes."""


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


class Stopped(BaseException):
    """The process was told to end.

    Not an ``Exception``: nothing that records the errors of rows may swallow it.
    """

    def __init__(self, code: Exit) -> None:
        super().__init__(code)
        self.code = code


class Bar:
    """Progress of one loop: a bar on a terminal; elsewhere a line after 10 s, then every 30 s.

    Both say how fast it goes and how long the rest takes at that speed.
    """

    def __init__(self, console: Console, label: str, total: int, unit: str, start: int) -> None:
        self._console = console
        self._label = label
        self._total = total
        self._unit = unit
        self._start = self._count = start
        self._began = time.monotonic()
        self._next_line = self._began + FIRST_PROGRESS_SECONDS
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
        if now >= self._next_line and self._count > self._start:
            self._next_line = now + PLAIN_PROGRESS_SECONDS
            rate = (self._count - self._start) / (now - self._began)
            seconds = (self._total - self._count) / rate
            speed = f"{rate:.1f} {self._unit}/s" if rate >= 1 else f"{1 / rate:.1f} s/{self._unit}"
            self._console.say(
                f"{self._label}: {self._count:,} of {self._total:,} ({speed}, about "
                f"{duration(seconds)} left)",
                event="progress",
                label=self._label,
                done=self._count,
                total=self._total,
                rate=round(rate, 3),
                seconds_left=round(seconds, 1),
            )

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()


def _has_columns(terminal: TextIO) -> bool:
    """Return whether a terminal has a width: one of none, as some programs open, shows no bar."""
    try:
        return os.get_terminal_size(terminal.fileno()).columns > 0
    except (OSError, ValueError):  # it does not say
        return True


class Console:
    """All output of a command: messages to standard error, results to standard output."""

    def __init__(self, *, quiet: bool = False, log_format: LogFormat = "text") -> None:
        self._quiet = quiet
        self._log_format: LogFormat = log_format

    @property
    def shows_bars(self) -> bool:
        """Whether to show a progress bar: on a terminal, as text, unless quiet."""
        # A process that was started without standard error has none.
        is_terminal = getattr(sys.stderr, "isatty", bool)() and _has_columns(sys.stderr)
        return not self._quiet and self._log_format == "text" and is_terminal

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
            with suppress(OSError, ValueError):  # a terminal that was closed
                tqdm.write(line, file=sys.stderr)
        else:
            write_error(line + "\n")

    def record(self, message: str, *, event: str, **fields: object) -> None:
        """Write one line for programs, in the JSON format alone: people read it in the result."""
        if self._log_format == "json":
            self.say(message, event=event, **fields)

    def suggest(self, *command: object) -> None:
        """Name the command that shows what was made, as it can be typed."""
        typed = shlex.join(map(str, command))
        self.say(f"to look at it: {typed}", event="next", command=typed)

    def show(self, text: str) -> None:
        """Write a command's result to standard output, also when quiet.

        Raises:
            UserError: If it is closed or full; a reader that has gone is no error of ours.
        """
        with writing_results():
            encoding = sys.stdout.encoding or "utf-8"
            # Names of files need not be text.
            sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
            sys.stdout.flush()

    @contextmanager
    def progress(self, label: str, total: int, unit: str = "img", start: int = 0) -> Generator[Bar]:
        """Count ``total`` items from ``start`` while the block runs."""
        bar = Bar(self, label, total, unit, start)
        try:
            yield bar
        finally:
            bar.close()


def duration(seconds: float) -> str:
    """Return a time that is an estimate, as messages say it.

    >>> duration(119), duration(3600), duration(9000)
    ('119 s', '60 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


@contextmanager
def writing_results() -> Generator[None]:
    """Turn what standard output raises into one sentence.

    Raises:
        UserError: If it is closed or full.
        BrokenPipeError: If its reader has gone, which is no error of ours.
    """
    # A process that was started without one has none.
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
        raise UserError("standard output cannot be written (it is closed)")
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"standard output cannot be written ({error})") from error


_OF_THE_MACHINE: Final = {
    errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EROFS,
    errno.ENOSPC, errno.EDQUOT, errno.EIO,
}  # fmt: skip


def exit_with(command: Callable[[], Exit]) -> NoReturn:
    """Run a command and leave the process with its exit code.

    A ``UserError`` becomes one sentence and code 2, and so does a file or folder that this machine
    does not let us use; an interrupt becomes code 130, another signal that ends it 75. Any other
    exception is a bug and shows its traceback with code 1.
    """
    _hold_standard_streams()
    try:
        sys.exit(int(_code_of(command)))
    finally:
        _let_go(sys.stdout)
        _let_go(sys.stderr)


def _code_of(command: Callable[[], Exit]) -> Exit:
    """Run a command and return its exit code, what went wrong said."""
    try:
        code = command()
    except UserError as error:
        write_error(f"error: {one_line(str(error))}\n")
        code = Exit.REFUSED
    except (Stopped, KeyboardInterrupt) as told:
        code = told.code if isinstance(told, Stopped) else Exit.INTERRUPTED
        how = "interrupted" if code is Exit.INTERRUPTED else "stopped"
        write_error(f"{how}; the same command goes on from here\n")
    except BrokenPipeError:
        code = Exit.INTERRUPTED
    except OSError as error:
        # ``Path.exists`` and its kin raise on unreadable folders and on names that are too long.
        if error.errno in _OF_THE_MACHINE and error.filename is not None:
            reason = error.strerror or error
            write_error(f"error: {str(error.filename)[:200]}: cannot be used ({reason})\n")
            code = Exit.REFUSED
        else:
            write_error(traceback.format_exc())
            code = Exit.BUG
    except Exception:  # noqa: BLE001 - the process border: a bug must end with code 1
        write_error(traceback.format_exc())
        code = Exit.BUG
    return code


def _hold_standard_streams() -> None:
    """Open those that are closed, on nothing.

    The next file would take the number of a closed one, and get what libraries write there.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        os.set_inheritable(handle, True)
    os.close(handle)


_STANDARD_ERROR: Final = 2


def one_line(text: str) -> str:
    r"""Return text as one line for a terminal: what is none of its letters is escaped.

    Errors of libraries end in a line break, names from files may hold any character.

    >>> one_line("no\nsuch\x1b[2Jname\n")
    'no such\\x1b[2Jname'
    """
    return "".join(
        char if char.isprintable() else repr(char)[1:-1] for char in " ".join(text.splitlines())
    )


def write_error(text: str) -> None:
    """Write to standard error, if there is one that takes it: a job goes on without."""
    with suppress(AttributeError, OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()


def _let_go(stream: TextIO | None) -> None:
    """Drop what a closed or full stream does not take: Python would end with its own code."""
    try:
        if stream is not None:
            stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # pyright: ignore[reportOptionalMemberAccess]
