"""Files that a command reads: what lies at a path, and its bytes within bounds.

Pipes and devices are no files: whoever opens them waits for ever, or reads without an end.
"""

from __future__ import annotations

from typing import Final

from manifests.runtime.console import UserError
from manifests.runtime.storage import StoragePath

MOST_BYTES: Final = 1 << 30
"""Of a file that is read into memory as a whole."""


def found_at(path: StoragePath) -> str | None:
    """Return what lies at a path where a file is expected, in words; None if it is a file.

    Raises nothing, unlike ``Path.is_file``, for names too long, closed folders, circular links.

    Raises:
        UserError: If a store cannot be reached.
    """
    try:
        if path.is_file():
            return None
        if path.is_dir():
            return "a folder"
        return "no regular file" if is_endless(path) else "nothing of this name"
    except OSError as error:
        return f"nothing that can be looked at ({error.strerror or error})"
    except UserError:  # of a store; also a ValueError
        raise
    except ValueError:  # a name with a null byte
        return "nothing of this name"


def is_endless(path: StoragePath) -> bool:
    """Return whether a pipe, a socket or a device lies at a path.

    Raises:
        OSError: If the path cannot be looked at.
    """
    return path.exists() and not path.is_file() and not path.is_dir()


def check_file(path: StoragePath, what: str, where: str = "") -> None:
    """Check that a file lies at a path.

    Args:
        path: The file.
        what: What was expected, for messages.
        where: The flag that names it, for messages.

    Raises:
        UserError: If there is none, or a folder, a pipe or a device; says what was found.
    """
    found = found_at(path)
    if found is not None:
        name = f"{where}: found {found} at {path}" if where else f"{path}: found {found}"
        raise UserError(f"{name}, expected {what}")


def read_file(path: StoragePath, what: str, most_bytes: int = MOST_BYTES) -> bytes:
    """Return the bytes of a file.

    Args:
        path: The file.
        what: What was expected, for messages.
        most_bytes: A larger one is refused.

    Raises:
        UserError: If it is missing, no file, too large or cannot be read.
    """
    check_file(path, what)
    try:
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(data) > most_bytes:
        raise UserError(f"{path}: found more than {most_bytes >> 20:,} MiB, expected {what}")
    return data
