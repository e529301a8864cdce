"""Where a run lives: a local folder, or a folder of an object store named by a URL.

A ``Path`` is local; an ``ObjectStorePath`` speaks the part of its language that a run needs, so
what reads a run does not ask which of the two it has. They differ in how a file appears whole. On a
disk it is written beside and renamed. In a store nothing is renamed: one completed upload at the
final name is atomic, and nobody sees it before.
"""

from __future__ import annotations

import errno
import io
import os
import re
import tempfile
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, Literal, cast

from pydantic import PlainSerializer, PlainValidator
from tyro.constructors import PrimitiveConstructorSpec

from manifests.runtime.console import UserError

READ_AHEAD_BYTES: Final = 8 * 2**20
"""Of one request where a file is read from its beginning to its end."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_LOCAL = ("file", "local")


@dataclass(frozen=True, slots=True)
class ObjectStorePath:
    """A name in an object store, for example ``s3://bucket/run/manifest.parquet``.

    A name that is not there is a ``FileNotFoundError``; whatever else a store answers (wrong
    credentials, no bucket, no network) is the user's to solve and a ``UserError``.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> ObjectStorePath:
        return ObjectStorePath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """The last part of the name."""
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> ObjectStorePath:
        """The folder it lies in."""
        return ObjectStorePath(self.url.rpartition("/")[0])

    def exists(self) -> bool:
        """Return whether there is a file or a folder of this name."""
        return self._kind() is not None

    def is_file(self) -> bool:
        """Return whether there is a file of this name."""
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """Return whether any file lies under this name."""
        return self._kind() == "directory"

    def iterdir(self) -> Iterator[ObjectStorePath]:
        """Give what lies directly under this name; nothing if there is nothing."""
        store, path = self.find()
        with _answers(self):
            try:
                names = [str(name).rstrip("/") for name in store.ls(path, detail=False)]
            except FileNotFoundError:
                names = []
        # Some stores list the folder itself, as an empty file that a browser made.
        own = path.strip("/")
        for name in sorted(name for name in names if name.strip("/") != own):
            yield self / name.rpartition("/")[2]

    def open(self, mode: Literal["rb"] = "rb") -> io.BufferedReader:
        """Open the file for reading from its beginning to its end.

        Raises:
            FileNotFoundError: If it is not there.
        """
        del mode
        return io.BufferedReader(self.ranges(), READ_AHEAD_BYTES)

    def ranges(self) -> Ranges:
        """Open the file for reading parts of it: each read is one request.

        Raises:
            FileNotFoundError: If it is not there.
        """
        return Ranges(self)

    def read_bytes(self) -> bytes:
        """Return the contents of the file.

        Raises:
            FileNotFoundError: If it is not there.
        """
        store, path = self.find()
        with _answers(self):
            return store.cat_file(path)

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return the contents of the file as text.

        Raises:
            FileNotFoundError: If it is not there.
        """
        return self.read_bytes().decode(encoding)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove the file.

        Raises:
            FileNotFoundError: If it is not there and should be.
        """
        store, path = self.find()
        with _answers(self):
            try:
                store.rm_file(path)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def find(self) -> tuple[Any, str]:
        """Return the fsspec file system of the store and what it calls this name.

        Raises:
            UserError: If there is no such kind of store, or its package is not installed.
        """
        import fsspec

        protocol = self.url.partition("://")[0]
        try:
            # Other workers write too: a remembered listing would be wrong.
            return fsspec.url_to_fs(self.url, use_listings_cache=False)
        except ImportError as error:
            extra = "'reid-augment[s3]'" if protocol in {"s3", "s3a"} else "the package it names"
            raise UserError(
                f"{self.url}: found no package for {protocol}:// ({error}); expected {extra}, "
                "installed by pip"
            ) from error
        except ValueError as error:
            raise UserError(
                f"{self.url}: found {protocol}://, expected a folder or a URL that fsspec knows, "
                "like s3://bucket/run"
            ) from error

    def _kind(self) -> Literal["file", "directory"] | None:
        store, path = self.find()
        with _answers(self):
            try:
                return store.info(path)["type"]
            except FileNotFoundError:
                return None


StoragePath = Path | ObjectStorePath


def storage_path(found: str | StoragePath) -> StoragePath:
    """Return the place that a user named: a path, or a URL with ``://``.

    Raises:
        UserError: If a URL names no store that can be reached, or nothing in it.

    >>> str(storage_path("s3://bucket/runs/first/")), storage_path("file:///runs/first").name
    ('s3://bucket/runs/first', 'first')
    """
    if not isinstance(found, str):
        return found
    match = _URL.fullmatch(found)
    if match is None or "::" in found:
        if "::" in found and "://" in found:
            raise UserError(f"{found}: found a chain of stores (::), expected one, like s3://b/run")
        return Path(found)
    protocol, rest = match[1].lower(), match[2]
    if protocol in _LOCAL:
        return Path(rest)
    if not rest.strip("/"):
        raise UserError(f"{found}: found no folder, expected a URL like {protocol}://bucket/run")
    return ObjectStorePath(f"{protocol}://{rest.rstrip('/')}")


StoragePathFlag = Annotated[
    Path | ObjectStorePath,
    PlainValidator(storage_path),
    PlainSerializer(str, return_type=str),
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH|URL",
        # The settings make the place of it: a refusal there is told in one sentence.
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: isinstance(value, str | Path | ObjectStorePath),
        str_from_instance=lambda value: [str(value)],
    ),
]
"""A ``StoragePath`` as a setting and as a flag of a command."""


class Ranges(io.RawIOBase):
    """A file of a store of which parts are read, each by one request."""

    def __init__(self, path: ObjectStorePath) -> None:
        super().__init__()
        self._path = path
        self._store, self._name = path.find()
        self._place = 0
        with _answers(path):
            info = self._store.info(self._name)
        if info["type"] != "file":
            raise FileNotFoundError(errno.ENOENT, "no file of this name", str(path))
        self._size = int(info["size"])

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def seekable(self) -> bool:
        """Return that any part can be read."""
        return True

    def tell(self) -> int:
        """Return the byte that is read next."""
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte and return which it is."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readall(self) -> bytes:
        """Return the rest."""
        return self._get(self._size)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer and return how many bytes there were."""
        data = self._get(self._place + len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _get(self, stop: int) -> bytes:
        start, stop = self._place, min(stop, self._size)
        if start >= stop:
            return b""
        with _answers(self._path):
            data = self._store.cat_file(self._name, start=start, end=stop)
        if len(data) != stop - start:
            raise UserError(
                f"{self._path}: found {len(data):,} bytes from byte {start:,} on, expected "
                f"{stop - start:,}; it was replaced, or the connection broke"
            )
        self._place = stop
        return data


@contextmanager
def replacing(path: StoragePath) -> Generator[BinaryIO]:
    """Open a file that takes the place of ``path`` when the block ends without an error.

    Raises:
        UserError: If the place cannot be written; the cause is the ``OSError``.
    """
    if isinstance(path, ObjectStorePath):
        with _uploading(path) as file:
            yield file
        return
    if path.is_dir():
        raise UserError(f"{path}: found a folder, expected the name of a file to write")
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            beside.unlink()


def create(path: StoragePath, data: bytes) -> bool:
    """Create a file whole, once: of several who try it at the same time, one does.

    In a store this is a conditional upload. A store that has none gets a plain one, which is read
    back: then the last of two racing creators is the one, and an earlier one may have gone on.

    Returns:
        Whether the file is ours; not if there was one, or if another creator was faster.

    Raises:
        UserError: If the place cannot be written; the cause is the ``OSError``.
    """
    if isinstance(path, ObjectStorePath):
        return _create_in_store(path, data)
    beside = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # A link fails where the name exists, and the name never shows half a file.
        with suppress(FileExistsError):
            os.link(beside, path)
            return True
        return False
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            beside.unlink()


def unpublished(folder: StoragePath) -> list[Path]:
    """Return the files that writers are at, or that killed writers left; a store shows none."""
    return [] if isinstance(folder, ObjectStorePath) else sorted(folder.glob(".*.tmp"))


def sync_folder(folder: StoragePath) -> None:
    """Make the names in a folder survive a power loss; a store sees to that itself."""
    if isinstance(folder, ObjectStorePath):
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _create_in_store(path: ObjectStorePath, data: bytes) -> bool:
    if path.is_file():
        return False
    store, name = path.find()
    with _answers(path, "cannot be written"):
        try:
            store.pipe_file(name, data, mode="create")
        except OSError as error:
            # Each kind of store refuses in its own way; that the file is there is common to all.
            if path.is_file():
                return path.read_bytes() == data
            if error.errno not in {errno.ENOSYS, errno.EINVAL}:
                raise
            store.pipe_file(name, data)
        return path.read_bytes() == data


@contextmanager
def _uploading(path: ObjectStorePath) -> Generator[BinaryIO]:
    """Give a local file that is uploaded when it is whole."""
    store, name = path.find()
    try:
        with tempfile.NamedTemporaryFile(prefix="upload-", suffix=".tmp") as file:
            yield cast("BinaryIO", file.file)
            file.flush()
            with _answers(path, "cannot be written"):
                store.put_file(file.name, name)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be made ready for its upload in {tempfile.gettempdir()} "
            f"({error.strerror or error}); another folder is named by TMPDIR"
        ) from error


@contextmanager
def _answers(path: ObjectStorePath, problem: str = "") -> Generator[None]:
    """Make one sentence of what a store answers instead of doing what was asked.

    Args:
        path: What it was asked about.
        problem: What it means where a file was to be written: then also a missing bucket counts.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not problem:
            raise
        raise _refusal(path, problem, error) from error
    except Exception as error:
        # Stores have exceptions of their own, without a base in common; a mistake of ours has not.
        if isinstance(error, UserError) or type(error).__module__ == "builtins":
            raise
        raise _refusal(path, problem, error) from error


def _refusal(path: ObjectStorePath, problem: str, error: Exception) -> UserError:
    said = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
    return UserError(
        f"{path}: {problem or 'cannot be read'} ({said}); expected a bucket that exists and "
        "credentials that may read, write and list it"
    )
