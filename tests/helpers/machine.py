"""What runs on this machine."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def processes() -> dict[int, tuple[str, dict[str, str]]]:
    """Return command line and environment of every other process that may be looked at."""
    found: dict[int, tuple[str, dict[str, str]]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            pairs = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        environ = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        if int(folder.name) != os.getpid():
            found[int(folder.name)] = command, environ
    return found
