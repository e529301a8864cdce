"""Folders that one process at a time works in."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from manifests.runtime.console import UserError
from manifests.runtime.object_store import ObjectStorePath
from manifests.runtime.storage import StoragePath

_HELD: Final = {errno.EAGAIN, errno.EACCES}


@contextmanager
def alone_in(folder: StoragePath) -> Generator[None]:
    """Keep other processes that ask so out of a folder while the block runs.

    The lock goes with its process, however that ends. Where there are none (object stores, some
    network file systems) the block just runs.

    Args:
        folder: Exists.

    Raises:
        UserError: If another process is in there.
    """
    if isinstance(folder, ObjectStorePath):
        yield
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError as error:  # the other process has just finished
        raise _held(folder) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            os.close(handle)
            raise _held(folder) from error
    try:
        yield
    finally:
        os.close(handle)


def _held(folder: StoragePath) -> UserError:
    return UserError(
        f"{folder}: another process is at work there; expected one at a time, or another --out"
    )
