"""A few threads for a block of work."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def thread_pool(count: int | None, name: str = "") -> Generator[ThreadPoolExecutor]:
    """Give threads that end with the block; what none of them has begun when it fails is given up.

    A command that is told to end would otherwise wait for all that is in the queue.

    Args:
        count: How many; None for what Python chooses.
        name: Of the threads, for debuggers.
    """
    with ThreadPoolExecutor(count, name) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
