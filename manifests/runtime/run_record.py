"""The file ``run.json``: the configuration of the run that a folder belongs to.

It is created once, as a whole. A command with the same configuration continues in the folder, one
with another is refused.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any, Final

from manifests.runtime import storage
from manifests.runtime.console import UserError
from manifests.runtime.json_files import read_json
from manifests.runtime.storage import StoragePath

RUN_RECORD: Final = "run.json"

_OLD_ENTRY: Final = "asked"
"""The entry of version 0.1 in the place of ``config``."""


def write(
    folder: StoragePath, config: Mapping[str, Any], facts: Mapping[str, Any] | None = None
) -> None:
    """Write the run record into a folder, or check that it is already there with the same config.

    Args:
        folder: Made if it is missing.
        config: Everything that decides the result: settings, and digests of the inputs.
        facts: Further entries, written at the first start and never compared.

    Raises:
        UserError: If the folder belongs to another run (names what differs), or its ``run.json``
            cannot be read or written.
    """
    path = folder / RUN_RECORD
    text = json.dumps({"config": dict(config), **(facts or {})}, indent=1, sort_keys=True) + "\n"
    if not storage.create(path, text.encode()):
        check_same_config(path, config)


def is_home_of(folder: StoragePath, config: Mapping[str, Any], expected: str) -> bool:
    """Return whether a folder belongs to this run already; if not, the run may start there.

    Raises:
        UserError: If it belongs to another run, or holds other files than hidden ones; names what
            was ``expected``.
    """
    path = folder / RUN_RECORD
    if path.is_file():
        check_same_config(path, config)
        return True
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: found a file, expected a folder or nothing")
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    check_no_unexpected_files(
        folder, (name for name in names if not name.startswith(".")), expected
    )
    return False


def check_no_unexpected_files(folder: StoragePath, names: Iterable[str], expected: str) -> None:
    """Check that a folder without a run record has none of these files.

    Args:
        folder: May be missing.
        names: Files that were found in it.
        expected: For the error message.

    Raises:
        UserError: If there are any; names the first, and what was ``expected``.
    """
    found = sorted(names)
    # The record is checked last: another worker may have written it and begun to fill the folder.
    if found and not (folder / RUN_RECORD).is_file():
        raise UserError(f"{folder}: found '{found[0]}' and no {RUN_RECORD}; expected {expected}")


def check_same_config(path: StoragePath, config: Mapping[str, Any]) -> None:
    """Check that a ``run.json`` holds the same configuration.

    Raises:
        UserError: If not; names each entry that differs, with both values.
    """
    differing = differences(read(path)["config"], json.loads(json.dumps(dict(config))))
    if differing:
        raise UserError(
            f"{path.parent}: belongs to another run ({'; '.join(differing)}); "
            "expected the same settings or another --out"
        )


def read(path: StoragePath) -> dict[str, Any]:
    """Return the entries of a ``run.json``.

    Raises:
        UserError: If it is missing, damaged, of an older version or not written by our commands.
    """
    try:
        is_missing = not path.exists()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    if is_missing:
        raise UserError(f"{path.parent}: found no {RUN_RECORD}; expected the folder of a run")
    entries = read_json(path, "what our commands write")
    if not isinstance(entries, dict) or not isinstance(entries.get("config"), dict):
        if isinstance(entries, dict) and _OLD_ENTRY in entries:
            raise UserError(
                f"{path}: found a {RUN_RECORD} of an older version with entry '{_OLD_ENTRY}', "
                "expected 'config'; finish the run with that version or choose another --out"
            )
        raise UserError(f"{path}: found no entry 'config'; expected what our commands write")
    if not isinstance(entries.get("settings", {}), dict):
        raise UserError(
            f"{path}: found an entry 'settings' that holds none; expected what our commands write"
        )
    return entries


def differences(
    stored: Mapping[str, Any], config: Mapping[str, Any], prefix: str = ""
) -> list[str]:
    """Return the entries that differ, each as ``name: X, now Y``.

    >>> differences({"steps": 10, "net": {"width": 8}}, {"steps": 20, "net": {"width": 8}})
    ['steps: 10, now 20']
    >>> differences({"images_sha256": 8 * "0123abcd"}, {"images_sha256": 8 * "4567abcd"})
    ["images_sha256: '0123abcd...', now '4567abcd...'"]
    """
    result: list[str] = []
    for name in sorted(set(stored) | set(config)):
        old, new = stored.get(name), config.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            result += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            result.append(f"{prefix}{name}: {_short(old)}, now {_short(new)}")
    return result


def _short(value: object) -> str:
    """Return a value as Python writes it, of a digest the beginning: two differ there."""
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return f"'{value[:8]}...'"
    return repr(value)


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of some packages."""
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in sorted(packages)
    }
