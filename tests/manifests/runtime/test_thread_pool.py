"""A few threads for a block of work."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from manifests.runtime.console import Exit, Stopped
from manifests.runtime.thread_pool import thread_pool


def test_what_has_not_begun_is_given_up_when_the_block_fails():
    begun, go = threading.Event(), threading.Event()
    done: list[int] = []
    waiting: list[Future[None]] = []

    def work(number: int) -> None:
        begun.set()
        go.wait()
        done.append(number)

    def block() -> None:
        with thread_pool(1) as pool:
            waiting.extend(pool.submit(work, number) for number in range(100))
            begun.wait()
            threading.Timer(0.01, go.set).start()
            raise Stopped(Exit.STOPPED_EARLY)

    with pytest.raises(Stopped):
        block()
    assert done == [0]
    assert [future.cancelled() for future in waiting] == [False, *[True] * 99]
