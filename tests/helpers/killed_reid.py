"""A re-ID training killed again and again: ``python -m tests.helpers.killed_reid SETTINGS``.

Every death is a kill -9 while a file is written: with half of it on the disk, or with all of it
there but not yet under its name. Forks, so that torch is imported once. Prints a JSON list: what
lies in the folder of a straight run after each file, and in that of the killed run after each
death and at the end.
"""

import hashlib
import io
import json
import os
import signal
import sys
from pathlib import Path

from manifests.runtime.console import Console
from reid.models import torchreid_adapter
from reid.training.train import TrainSettings, train

DEATHS = (
    ("best.safetensors", 1, "whole"),
    ("last.pt", 1, "half"),
    ("last.pt", 2, "half"),
    ("last.pt", 1, "whole"),
    ("last.safetensors", 1, "half"),
)
"""Which writing of which file the next start does not live to end, and how far it gets."""


class Halved(io.BufferedWriter):
    """A file whose process dies in the middle of its first write."""

    def write(self, data: bytes) -> int:
        super().write(data[: len(data) // 2])
        self.flush()
        die()
        return 0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that is there under its name, but for the log."""
    paths = [path for path in sorted(folder.iterdir()) if path.suffix not in {".tmp", ".jsonl"}]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def run(settings: TrainSettings, death: tuple[str, int, str] | None) -> list[dict[str, str]]:
    """Train, and return the files after each that got its name, unless death comes first."""
    counts: dict[str, int] = {}
    history = []
    real_open, real_replace = Path.open, Path.replace

    def watched_open(path: Path, mode: str = "r", *others: object, **named: object) -> object:
        if mode == "xb":
            name = path.name.lstrip(".").rsplit(".", 2)[0]
            counts[name] = counts.get(name, 0) + 1
            if (name, counts[name], "half") == death:
                return Halved(io.FileIO(path, "xb"))
        return real_open(path, mode, *others, **named)

    def watched_replace(path: Path, target: Path) -> Path:
        if (target.name, counts[target.name], "whole") == death:
            die()
        done = real_replace(path, target)
        history.append(files(settings.out))
        return done

    Path.open, Path.replace = watched_open, watched_replace
    train(settings, Console(quiet=True))
    return history


def forked(settings: TrainSettings, death: tuple[str, int, str] | None) -> object:
    """Return what ``run`` gives in a child, or None if it was killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            told: object = run(settings, death)
        except BaseException as error:  # noqa: BLE001 - a child has nobody else to tell
            told = repr(error)
        os.write(writer, json.dumps(told).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return None
    found = json.loads(told)
    assert isinstance(found, list), found
    return found


def main(settings: TrainSettings) -> None:
    torchreid_adapter.version()
    straight = forked(settings.model_copy(update={"out": settings.out / "straight"}), None)
    plan = settings.model_copy(update={"out": settings.out / "killed"})
    left = []
    for death in DEATHS:
        assert forked(plan, death) is None, death
        left.append(files(plan.out))
    assert forked(plan, None) is not None
    left.append(files(plan.out))
    sys.stdout.write(json.dumps([straight, left]))


if __name__ == "__main__":
    main(TrainSettings.from_json(sys.argv[1]))
