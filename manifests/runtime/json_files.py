"""JSON files of runs and of other tools, read within bounds."""

from __future__ import annotations

import json
from typing import Any

from manifests.runtime.console import UserError
from manifests.runtime.files import read_file
from manifests.runtime.storage import StoragePath


def read_json(path: StoragePath, what: str) -> Any:
    """Return what a JSON file holds.

    Args:
        path: The file.
        what: What was expected, for messages.

    Raises:
        UserError: If it is missing, no regular file, too large, or no JSON (in UTF-8, nested not
            too deeply, without endless numbers).
    """
    data = read_file(path, what)
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
