"""JSON files of runs and of other tools, read within bounds."""

from __future__ import annotations

import json
from typing import Any, Final

from manifests.runtime.console import UserError
from manifests.runtime.storage import StoragePath

MOST_BYTES: Final = 1 << 30


def read_json(path: StoragePath, what: str) -> Any:
    """Return what a JSON file holds.

    Args:
        path: The file.
        what: What was expected, for messages.

    Raises:
        UserError: If it is missing, no regular file, too large, or no JSON (in UTF-8, nested not
            too deeply, without endless numbers).
    """
    try:
        if not path.is_file():
            found = "a folder" if path.is_dir() else "no such file"
            raise UserError(f"{path}: {found}, expected {what}")
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(data) > MOST_BYTES:
        raise UserError(f"{path}: found more than {MOST_BYTES >> 20:,} MiB, expected {what}")
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}), expected {what}") from error


def is_whole(value: object, low: int, high: int) -> bool:
    """Return whether a value of JSON is a whole number within bounds, both included.

    >>> is_whole(3, 0, 5), is_whole(True, 0, 5), is_whole(9, 0, 5), is_whole("3", 0, 5)
    (True, False, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
