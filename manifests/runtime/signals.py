"""Ending early by SIGTERM and SIGINT: at once, or where the work looks whether one came."""

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
def _handling(
    handler: Callable[[int, FrameType | None], object], *signals: signal.Signals
) -> Generator[None]:
    """Handle signals while the block runs; only the main thread can, on others it just runs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {sort: signal.signal(sort, handler) for sort in signals}
    try:
        yield
    finally:
        for sort, previous in before.items():
            signal.signal(sort, previous)


@contextmanager
def stopping() -> Generator[None]:
    """Raise ``Stopped`` in the main thread on SIGTERM and SIGINT while the block runs."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        del frame
        # A second signal must not cut short the publishing of what is computed.
        for sort in CODES:
            signal.signal(sort, signal.SIG_IGN)
        raise Stopped(CODES[signal.Signals(number)])

    with _handling(stop, *CODES):
        yield


@contextmanager
def recording(*signals: signal.Signals) -> Generator[list[signal.Signals]]:
    """Record the signals that come while the block runs, in place of what they would do."""
    received: list[signal.Signals] = []

    def record(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(signal.Signals(number))

    with _handling(record, *signals):
        yield received


@contextmanager
def stopping_when_checked() -> Generator[Callable[[], None]]:
    """Record SIGTERM and SIGINT while the block runs; the value raises ``Stopped`` once one came.

    So does the end of the block: none is lost. For libraries that swallow what a handler raises.
    """
    with recording(*CODES) as received:

        def check() -> None:
            if received:
                raise Stopped(CODES[received[0]])

        yield check
    check()
