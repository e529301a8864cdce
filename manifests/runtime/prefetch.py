"""Doing one thing while the next is made ready, with bounded queues."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class _End:
    """The last thing in a queue: no more items, and the error that ended them if one did."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class _Prefetcher(Generic[Item]):
    """Draws items on a thread of its own, at most ``depth`` before they are asked for."""

    def __init__(self, items: Iterable[Item], depth: int) -> None:
        self._queue: queue.Queue[Item | _End] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(items,), daemon=True)
        self._thread.start()

    def _fill(self, items: Iterable[Item]) -> None:
        end = _End()
        try:
            for item in items:
                if not self._put(item):
                    return
        except BaseException as error:  # noqa: BLE001 - raised again where the item is asked for
            end = _End(error)
        self._put(end)

    def _put(self, item: Item | _End) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def items(self) -> Generator[Item]:
        try:
            while not isinstance(item := self._queue.get(), _End):
                yield item
            if item.error is not None:
                raise item.error
        finally:
            self._stopped.set()
            self._thread.join()


def prefetch(items: Iterable[Item], depth: int) -> Generator[Item]:
    """Give the same items, drawn on another thread up to ``depth`` before they are asked for.

    An error while drawing comes up here, after the items before it. The thread ends with the
    iterator, also with one that is given up half way.

    >>> list(prefetch(range(3), 2))
    [0, 1, 2]
    """
    return _Prefetcher(items, depth).items()
