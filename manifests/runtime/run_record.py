"""Whose a folder is: ``run.json`` says what was config for, and nothing else may write there.

It is created whole and once; the same request goes on with the folder, another one is refused.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any, Final

from manifests.runtime import storage
from manifests.runtime.console import UserError
from manifests.runtime.storage import StoragePath

RUN_RECORD: Final = "run.json"


def write(
    folder: StoragePath, config: Mapping[str, Any], facts: Mapping[str, Any] | None = None
) -> None:
    """Make a folder the home of one run, or check that it is.

    Args:
        folder: Made if it is missing.
        config: What decides the result: settings, and inputs by their digests.
        facts: What else is worth keeping of the first start; never compared.

    Raises:
        UserError: If the folder belongs to another run (names what differs), holds a
            ``run.json`` that is none, or cannot be written.
    """
    path = folder / RUN_RECORD
    text = json.dumps({"config": dict(config), **(facts or {})}, indent=1, sort_keys=True) + "\n"
    if not storage.create(path, text.encode()):
        check_same_config(path, config)


def is_home_of(folder: StoragePath, config: Mapping[str, Any], expected: str) -> bool:
    """Return whether a folder is the home of this run already; if not, it is free for it.

    Raises:
        UserError: If another run lives there, or the folder holds something else than hidden files;
            names what was ``expected``.
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


def check_no_unexpected_files(folder: StoragePath, strangers: Iterable[str], expected: str) -> None:
    """Check that a folder that nobody claimed holds nothing of these names.

    Raises:
        UserError: If it does; names the first, and what was ``expected``.
    """
    found = sorted(strangers)
    # Looked at last: another worker may have claimed the folder and begun to fill it meanwhile.
    if found and not (folder / RUN_RECORD).is_file():
        raise UserError(f"{folder}: found '{found[0]}' and no {RUN_RECORD}; expected {expected}")


def check_same_config(path: StoragePath, config: Mapping[str, Any]) -> None:
    """Check that a ``run.json`` was written for the same request.

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
    """Return what a ``run.json`` holds.

    Raises:
        UserError: If it is missing, damaged, or none of ours.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path.parent}: found no {RUN_RECORD}; expected the folder of a run"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
        raise UserError(f"{path}: found no entry 'config'; expected what our commands write")
    return found


def differences(found: Mapping[str, Any], config: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the entries that differ, each as ``name: X, now Y``.

    >>> differences({"steps": 10, "net": {"width": 8}}, {"steps": 20, "net": {"width": 8}})
    ['steps: 10, now 20']
    """
    result: list[str] = []
    for name in sorted(set(found) | set(config)):
        old, new = found.get(name), config.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            result += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            result.append(f"{prefix}{name}: {old!r}, now {new!r}")
    return result


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of some packages."""
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in sorted(packages)
    }
