"""Ending early by SIGTERM, SIGHUP and SIGINT: at once, or where the work looks whether one came.

Every command of ours ends so (``command_line``). What is ignored from the start stays ignored:
``nohup`` protects from SIGHUP, a shell's ``&`` in a script from SIGINT.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Final, NoReturn

from manifests.runtime.console import Exit, Stopped

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

SOON: Final = (signal.SIGTERM, signal.SIGHUP)
"""What may wait for the end of a training's step; SIGINT does not."""

CODES: Final = dict.fromkeys(SOON, Exit.STOPPED_EARLY) | {signal.SIGINT: Exit.INTERRUPTED}

_AGAIN_SECONDS: Final = 0.02


@contextmanager
def _handling(
    handler: Callable[[int, FrameType | None], object], signals: Iterable[signal.Signals]
) -> Generator[None]:
    """Handle signals while the block runs; only the main thread can, on others it just runs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {sort: signal.getsignal(sort) for sort in signals}
    before = {sort: old for sort, old in before.items() if old is not signal.SIG_IGN}
    try:
        for sort in before:
            signal.signal(sort, handler)
        yield
    finally:
        for sort, previous in before.items():
            signal.signal(sort, previous)


@contextmanager
def stopping() -> Generator[None]:
    """Raise ``Stopped`` in the main thread on SIGTERM, SIGHUP and SIGINT while the block runs.

    So does the end of the block, if somebody swallowed it. Only the main thread can; on others the
    block just runs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[signal.Signals] = []

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        del frame
        # A second signal must not cut short the publishing of what is computed.
        for sort in CODES:
            signal.signal(sort, signal.SIG_IGN)
        received.append(signal.Signals(number))
        raise Stopped(CODES[received[0]])

    def send_again() -> None:
        signal.signal(received[0], stop)
        timer = threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), received[0]))
        timer.daemon = True
        timer.start()

    with _handling(stop, CODES), _not_lost(send_again):
        yield
    if received:
        raise Stopped(CODES[received[0]])


@contextmanager
def _not_lost(again: Callable[[], None]) -> Generator[None]:
    """Call ``again`` where Python has to drop a ``Stopped``: in finalisers and callbacks."""
    before = sys.unraisablehook

    def hook(found: UnraisableHookArgs) -> None:
        if isinstance(found.exc_value, Stopped):
            is_sent = False
            while not is_sent:
                # On a busy machine it comes back while it is still being sent.
                with suppress(Stopped):
                    again()
                    is_sent = True
        else:
            before(found)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextmanager
def recording(*signals: signal.Signals) -> Generator[list[signal.Signals]]:
    """Record the signals that come while the block runs, in place of what they would do."""
    received: list[signal.Signals] = []

    def record(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(signal.Signals(number))

    with _handling(record, signals):
        yield received


@contextmanager
def stopping_when_checked() -> Generator[Callable[[], None]]:
    """Record the signals while the block runs; the value raises ``Stopped`` once one came.

    So does the end of the block: none is lost. For libraries that swallow what a handler raises.
    """
    with recording(*CODES) as received:

        def check() -> None:
            if received:
                raise Stopped(CODES[received[0]])

        yield check
    check()


def ignore_from_now_on() -> None:
    """Let no signal change the exit code of a process whose work is over."""
    for sort in CODES:
        signal.signal(sort, signal.SIG_IGN)
