"""Files of an object store, named by a URL: as much of the interface of ``Path`` as a run needs.

In a store nothing is renamed: one completed upload at the final name is atomic, and nobody sees the
file before.
"""

from __future__ import annotations

import errno
import io
import os
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Literal, cast

from manifests.runtime.console import UserError

READ_AHEAD_BYTES: Final = 8 * 2**20
"""Size of one request where a file is read from its beginning to its end."""


@dataclass(frozen=True, slots=True)
class ObjectStorePath:
    """A name in an object store, for example ``s3://bucket/run/manifest.parquet``.

    A missing file is a ``FileNotFoundError``; any other error of a store (wrong credentials, no
    bucket, no network) is a ``UserError``.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> ObjectStorePath:
        return ObjectStorePath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> ObjectStorePath:
        """The folder that contains it."""
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
        """Give the files and folders directly in this one; none if it does not exist."""
        store, path = self.file_system()
        with _store_errors(self):
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

    def ranges(self) -> RangeReader:
        """Open the file for reading parts of it: each read is one request.

        Raises:
            FileNotFoundError: If it is not there.
        """
        return RangeReader(self)

    def read_bytes(self) -> bytes:
        """Return the contents of the file.

        Raises:
            FileNotFoundError: If it is not there.
        """
        store, path = self.file_system()
        with _store_errors(self):
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
        store, path = self.file_system()
        with _store_errors(self):
            try:
                store.rm_file(path)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def file_system(self) -> tuple[Any, str]:
        """Return the fsspec file system of the store and the path of this file in it.

        Raises:
            UserError: If there is no such kind of store, or its package is not installed.
        """
        import fsspec

        protocol = self.url.partition("://")[0]
        try:
            # Other workers write too: a cached listing would be out of date.
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

    def create(self, data: bytes) -> bool:
        """Create the file by a conditional upload and return whether it is ours.

        A store without conditional uploads gets a plain one, which is read back: then the last of
        two racing creators wins, and an earlier one may have gone on.

        Raises:
            UserError: If the file cannot be written.
        """
        if self.is_file():
            return False
        store, name = self.file_system()
        with _store_errors(self, "cannot be written"):
            try:
                store.pipe_file(name, data, mode="create")
            except OSError as error:
                # Each kind of store refuses in its own way; that the file exists is common to all.
                if self.is_file():
                    return self.read_bytes() == data
                if error.errno not in {errno.ENOSYS, errno.EINVAL}:
                    raise
                store.pipe_file(name, data)
            return self.read_bytes() == data

    @contextmanager
    def upload(self) -> Generator[BinaryIO]:
        """Give a local file that is uploaded when the block ends without an error.

        Raises:
            UserError: If the file cannot be written.
        """
        store, name = self.file_system()
        try:
            with tempfile.NamedTemporaryFile(prefix="upload-", suffix=".tmp") as file:
                yield cast("BinaryIO", file.file)
                file.flush()
                with _store_errors(self, "cannot be written"):
                    store.put_file(file.name, name)
        except OSError as error:
            raise UserError(
                f"{self}: cannot be made ready for its upload in {tempfile.gettempdir()} "
                f"({error.strerror or error}); another folder is named by TMPDIR"
            ) from error

    def _kind(self) -> Literal["file", "directory"] | None:
        store, path = self.file_system()
        with _store_errors(self):
            try:
                return store.info(path)["type"]
            except FileNotFoundError:
                return None


class RangeReader(io.RawIOBase):
    """A file of a store for random access: each read is one request for a range of bytes."""

    def __init__(self, path: ObjectStorePath) -> None:
        super().__init__()
        self._path = path
        self._store, self._name = path.file_system()
        self._position = 0
        with _store_errors(path):
            info = self._store.info(self._name)
        if info["type"] != "file":
            raise FileNotFoundError(errno.ENOENT, "no file of this name", str(path))
        self._size = int(info["size"])

    def readable(self) -> bool:
        """Return True: it is open for reading."""
        return True

    def seekable(self) -> bool:
        """Return True: any part can be read."""
        return True

    def tell(self) -> int:
        """Return the position of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position and return it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readall(self) -> bytes:
        """Return the rest."""
        return self._get(self._size)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer and return how many bytes there were."""
        data = self._get(self._position + len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _get(self, stop: int) -> bytes:
        start, stop = self._position, min(stop, self._size)
        if start >= stop:
            return b""
        with _store_errors(self._path):
            data = self._store.cat_file(self._name, start=start, end=stop)
        if len(data) != stop - start:
            raise UserError(
                f"{self._path}: found {len(data):,} bytes from byte {start:,} on, expected "
                f"{stop - start:,}; it was replaced, or the connection broke"
            )
        self._position = stop
        return data


@contextmanager
def _store_errors(path: ObjectStorePath, problem: str = "") -> Generator[None]:
    """Turn any error of a store but a missing file into a ``UserError`` of one sentence.

    Args:
        path: What is read or written.
        problem: What the error means for the user; where it is given, a missing file is an error
            too, since the bucket is missing then.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not problem:
            raise
        raise _store_error(path, problem, error) from error
    except Exception as error:
        # Each store has its own exceptions, without a common base; Python's own are our bugs.
        if isinstance(error, UserError) or type(error).__module__ == "builtins":
            raise
        raise _store_error(path, problem, error) from error


def _store_error(path: ObjectStorePath, problem: str, error: Exception) -> UserError:
    message = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[
        0
    ]
    return UserError(
        f"{path}: {problem or 'cannot be read'} ({message}); expected a bucket that exists and "
        "credentials that may read, write and list it"
    )
