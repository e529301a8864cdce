"""Ending early: SIGTERM and SIGINT unwind the work; what is complete stays."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

from manifests.runtime.console import Exit

CODES: Final = {signal.SIGTERM: Exit.STOPPED_EARLY, signal.SIGINT: Exit.INTERRUPTED}


class Stopped(BaseException):
    """The process was told to end.

    Not an ``Exception``: nothing that records the errors of rows may swallow it.
    """

    def __init__(self, code: Exit) -> None:
        super().__init__(code)
        self.code = code


@contextmanager
def stopping() -> Generator[None]:
    """Raise ``Stopped`` in the main thread on SIGTERM and SIGINT while the block runs.

    On another thread the block just runs: only the main thread may watch for signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        del frame
        # A second signal must not cut short the publishing of what is computed.
        for sort in CODES:
            signal.signal(sort, signal.SIG_IGN)
        raise Stopped(CODES[signal.Signals(number)])

    before = {sort: signal.signal(sort, stop) for sort in CODES}
    try:
        yield
    finally:
        for sort, handler in before.items():
            signal.signal(sort, handler)


@contextmanager
def noting() -> Generator[Callable[[], None]]:
    """Note SIGTERM and SIGINT while the block runs; the value raises ``Stopped`` once one came.

    So does the end of the block: none is lost. For libraries that swallow what a handler raises. On
    another thread nothing is noted.
    """
    noted: list[Exit] = []

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        noted.append(CODES[signal.Signals(number)])

    def check() -> None:
        if noted:
            raise Stopped(noted[0])

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = {sort: signal.signal(sort, note) for sort in CODES}
    try:
        yield check
    finally:
        for sort, handler in before.items():
            signal.signal(sort, handler)
    check()
