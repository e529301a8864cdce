"""Where a run lives: a local folder, or a folder of an object store named by a URL.

A ``Path`` is local; an ``ObjectStorePath`` has the same methods as far as a run needs them, so code
that reads a run need not know which of the two it has. Files appear whole in both: on a disk a
temporary file is renamed, in a store an upload is atomic.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import stat
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, BinaryIO, Final

from pydantic import PlainSerializer, PlainValidator
from tyro.constructors import PrimitiveConstructorSpec

from manifests.runtime.console import UserError
from manifests.runtime.object_store import ObjectStorePath

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_LOCAL = ("file", "local")

StoragePath = Path | ObjectStorePath


def storage_path(text: str | StoragePath) -> StoragePath:
    """Return what a user named: a local path, or a URL with ``://``.

    Raises:
        UserError: If a URL chains several stores, or names no folder in its store.

    >>> str(storage_path("s3://bucket/runs/first/")), storage_path("file:///runs/first").name
    ('s3://bucket/runs/first', 'first')
    """
    if not isinstance(text, str):
        return text
    match = _URL.fullmatch(text)
    if match is None or "::" in text:
        if "::" in text and "://" in text:
            raise UserError(f"{text}: found a chain of stores (::), expected one, like s3://b/run")
        return Path(text)
    protocol, rest = match[1].lower(), match[2]
    if protocol in _LOCAL:
        return Path(rest)
    if not rest.strip("/"):
        raise UserError(f"{text}: found no folder, expected a URL like {protocol}://bucket/run")
    return ObjectStorePath(f"{protocol}://{rest.rstrip('/')}")


StoragePathFlag = Annotated[
    Path | ObjectStorePath,
    PlainValidator(storage_path),
    PlainSerializer(str, return_type=str),
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH|URL",
        # The settings convert it: their error is reported in one sentence.
        instance_from_str=lambda arguments: arguments[0],
        is_instance=lambda value: isinstance(value, str | Path | ObjectStorePath),
        str_from_instance=lambda value: [str(value)],
    ),
]
"""A ``StoragePath`` as a setting and as a flag of a command."""


@contextmanager
def replacing(path: StoragePath) -> Generator[BinaryIO]:
    """Open a file that replaces ``path`` when the block ends without an error.

    Raises:
        UserError: If it cannot be written; the cause is the ``OSError``.
    """
    if isinstance(path, ObjectStorePath):
        with path.upload() as file:
            yield file
        return
    if path.is_dir():
        raise UserError(f"{path}: found a folder, expected the name of a file to write")
    try:
        if path.exists() and not path.is_file():
            raise UserError(
                f"{path}: found a device or a pipe, expected the name of a file to write"
            )
        # A link stays, what it leads to is replaced.
        path = path.resolve() if path.is_symlink() else path
    except (OSError, RuntimeError) as error:  # a link to itself
        raise UserError(f"{path}: cannot be written ({error})") from error
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            if path.exists():
                # A file that only its owner may read stays one.
                temporary.chmod(stat.S_IMODE(path.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def create(path: StoragePath, data: bytes) -> bool:
    """Create a file whole, once: of several processes that try at the same time, one succeeds.

    Returns:
        Whether the file is ours; False if it existed, or another process was faster.

    Raises:
        UserError: If it cannot be written; the cause is the ``OSError``.
    """
    if isinstance(path, ObjectStorePath):
        return path.create(data)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return _publish(temporary, path, data)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


_CANNOT: Final = {
    errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL,
}  # fmt: skip
"""What storage says of a call that it does not have."""


def _publish(temporary: Path, path: Path, data: bytes) -> bool:
    """Give a file its name, unless the name is taken, and return whether it is ours.

    The name never shows an unfinished file. exFAT, SMB and some FUSE file systems have no hard
    links, further FUSE file systems no renames that keep what is there either.
    """
    for publish in (os.link, _rename_to_free_name):
        try:
            publish(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
        else:
            return True
    return _rename_in_turn(temporary, path, data)


_AT_FDCWD: Final = -100
_RENAME_NOREPLACE: Final = 1


def _rename_to_free_name(temporary: Path, path: Path) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(path))
    names = os.fsencode(temporary), os.fsencode(path)
    if library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))


def _rename_in_turn(temporary: Path, path: Path, data: bytes) -> bool:
    """Rename while no other process does.

    Where machines do not see each other's locks, the last of those that race wins, as in a store
    without conditional uploads; an earlier one finds that the file is not its own.
    """
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if path.exists():
            return False
        temporary.replace(path)
        return path.read_bytes() == data
    finally:
        os.close(handle)


def unpublished(folder: StoragePath) -> list[Path]:
    """Return the temporary files of running and of killed writers; a store has none."""
    return [] if isinstance(folder, ObjectStorePath) else sorted(folder.glob(".*.tmp"))


def sync_folder(folder: StoragePath) -> None:
    """Flush a folder's entries to disk, to survive a power loss; a store needs no such call."""
    if isinstance(folder, ObjectStorePath):
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some file systems sync no folders, and say so.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS}:
            raise
    finally:
        os.close(handle)
