"""Folders that appear whole, and names from tables that become parts of paths."""

from __future__ import annotations

import fcntl
import glob
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from manifests.runtime.console import UserError

_LOCK: Final = ".lock"
_MOST_BYTES: Final = 200
"""Of a name; file systems take 255, and endings are put behind it."""
_NOT_IN_NAMES: Final = re.compile(r"[/\\\x00-\x1f\x7f]")


def path_part(label: str) -> str:
    """Return the text of a table as one part of a path, which stays in its folder.

    Slashes, backslashes and control characters become ``_``, so does a name of dots alone; a name
    too long for file systems ends in a digest instead.

    >>> path_part("a/../b"), path_part(".."), path_part("0002_c1.jpg")
    ('a_.._b', '__', '0002_c1.jpg')
    """
    part = _NOT_IN_NAMES.sub("_", label)
    part = part if part.strip(". ") else "_" * max(1, len(part))
    data = part.encode("utf-8", "replace")
    if len(data) <= _MOST_BYTES:
        return data.decode()
    digest = hashlib.sha256(label.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    stem, ending = os.path.splitext(part)  # noqa: PTH122 - a Path would take the name apart
    kept = stem.encode("utf-8", "replace")[: _MOST_BYTES - 40].decode("utf-8", "ignore")
    return f"{kept}-{digest}{ending if len(ending) < 10 else ''}"


@contextmanager
def new_folder(folder: Path) -> Generator[Path]:
    """Give a folder that takes its name when the block ends without an error.

    What a killed process left of the same folder is removed first; a living one holds a lock.

    Raises:
        UserError: If the name is taken by something else than an empty folder, or cannot be
            written.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder}: exists already, expected a new or an empty folder")
        # A link to a folder stays one, and leads to the new one then; another link is taken.
        is_link = folder.is_symlink() and folder.is_dir()
        whole = folder.resolve() if is_link else Path(os.path.abspath(folder))  # noqa: PTH100
        whole.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(whole)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error
    beside = whole.with_name(f".{whole.name}.{uuid.uuid4().hex}.tmp")
    try:
        beside.mkdir()
        with _locked(beside):
            yield beside
            # One flush for all: a call per small file would take minutes.
            os.sync()
            (beside / _LOCK).unlink()
            beside.replace(whole)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    handle = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _remove_leftovers(folder: Path) -> None:
    """Remove the unfinished folders of processes that are gone."""
    for path in sorted(folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp")):
        if path.is_dir() and _is_abandoned(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    try:
        handle = os.open(folder / _LOCK, os.O_RDWR)
    except OSError:
        # Between making the folder and its lock; the next command looks again.
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True
