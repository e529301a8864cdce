"""A command in its own process, a signal to it, what it leaves: for ``stop_commands.py``."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.stop_cases import Case

ROOT: Final = Path(__file__).resolve().parents[1]
LONGEST_SECONDS: Final = 600.0
"""After which a command is said to hang."""
TIMES: Final = frozenset({"ranking_seconds", "images_per_second", "seconds", "seconds_left"})
"""Entries of JSON files that no two runs share."""
STEPS_ONLY: Final = "log.jsonl"
"""Its lines are means since the line before, or since the start of the process."""
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class FailedError(Exception):
    """What a command did that it must not do."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended, and what it wrote."""

    code: int
    core_seconds: float
    output: str
    errors: str


@dataclass(frozen=True, slots=True)
class Blow:
    """A signal at a moment: after that many seconds of a core, however busy the machine is."""

    sort: signal.Signals
    moment: float
    is_fresh: bool = False
    """Whether the command has a process of its own, which first imports everything."""


def begin(case: Case, folder: Path, ready: Path, *, is_fresh: bool) -> int:
    """Start a command in a folder and return its process.

    A child of ours ends without taking its modules apart, which takes longer than most commands.
    """
    bring(case, folder, ready)
    arguments = case.arguments(ready)
    streams = [open(f"{folder}.{name}", "wb") for name in ("out", "err")]  # noqa: SIM115, PTH123
    if is_fresh:
        module = f"{case.program.name}.cli"
        command = [sys.executable, "-m", module, *arguments]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        out, err = streams
        return subprocess.Popen(command, cwd=folder, env=environ, stdout=out, stderr=err).pid
    sys.stdout.flush()
    with warnings.catch_warnings():
        # From Python 3.12 on a warning: libraries have idle threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return child
    os.chdir(folder)
    for number, stream in enumerate(streams, 1):
        os.dup2(stream.fileno(), number)
    sys.argv[1:] = arguments
    code: object = 1
    try:
        case.program.main()
    except SystemExit as left:
        code = left.code
    except BaseException:  # noqa: BLE001 - a fault that is looked for
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def bring(case: Case, folder: Path, ready: Path) -> None:
    """Make the folder of a command, unless it is there."""
    if not folder.exists():
        folder.mkdir(parents=True)
        if case.brings:
            shutil.copytree(ready / case.brings, folder / case.brings)


def finish(case: Case, folder: Path, ready: Path, blow: Blow | None = None) -> Ended:
    """Run a command to its end, or to that which a signal brings it.

    Raises:
        FailedError: If it hangs.
    """
    began = time.monotonic()
    child = begin(case, folder, ready, is_fresh=blow is not None and blow.is_fresh)
    waits = blow is not None
    while True:
        ended, status, used = os.wait4(child, os.WNOHANG)
        if ended:
            break
        if blow is not None and waits and core_seconds(child) >= blow.moment:
            os.kill(child, blow.sort)
            waits = False
        seconds = time.monotonic() - began
        if seconds > LONGEST_SECONDS:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise FailedError(f"hangs for {seconds:.0f} s")
        time.sleep(0.001)
    output, errors = (Path(f"{folder}.{name}").read_text("utf-8") for name in ("out", "err"))
    code = os.waitstatus_to_exitcode(status)
    return Ended(code, used.ru_utime + used.ru_stime, output, errors)


def core_seconds(process: int) -> float:
    """Return how long a process has been on a core, all of its threads together."""
    # The name in parentheses may hold spaces.
    fields = Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def contents(folder: Path) -> dict[str, str]:
    """Return what a folder holds: a digest of each file, without times."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if path.name == STEPS_ONLY:
                data = b" ".join(_steps(data))
            elif path.suffix == ".json":
                data = json.dumps(_timeless(json.loads(data)), sort_keys=True).encode()
            found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


def _steps(lines: bytes) -> list[bytes]:
    return [str(json.loads(line)["step"]).encode() for line in lines.splitlines()]


def _timeless(value: object) -> object:
    if isinstance(value, dict):
        return {key: _timeless(entry) for key, entry in value.items() if key not in TIMES}
    return [_timeless(entry) for entry in value] if isinstance(value, list) else value


def contents_brought(case: Case, ready: Path) -> set[str]:
    """Return the files that a command finds in its folder."""
    if case.brings is None:
        return set()
    return {f"{case.brings}/{name}" for name in contents(ready / case.brings)}


def differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Return the files that only one folder holds, or both with other contents."""
    names = sorted({*one, *other})
    return [name for name in names if one.get(name) != other.get(name)]
