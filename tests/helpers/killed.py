"""Trainings that die at every file they publish: ``python -m tests.helpers.killed IMAGES OUT``.

Forks, so that torch is imported once. Prints the names of what each of them was about to publish.
"""

import os
import signal
import sys
from pathlib import Path

from augment.generators.patn import Patn
from augment.training.train import settings_for, train
from manifests.runtime.console import Console
from tests.helpers.training import TINY

PLAN = TINY.model_copy(update={"num_blocks": 1, "warmup_steps": 1, "steps": 2})

OF_THE_RUN = {"save_every": 1, "log_every": 1, "samples_every": 2}


def run(images: Path, out: Path) -> None:
    settings = settings_for([])(images=images, out=out, config=Patn.Config(**PLAN.model_dump()))
    train(settings.model_copy(update=OF_THE_RUN), Console(quiet=True))


def run_until(publication: int, images: Path, out: Path) -> str | None:
    """Train in a child that dies by kill -9 before it renames a file for the n-th time."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        real, seen = Path.replace, 0

        def replace(path: Path, target: Path) -> Path:
            nonlocal seen
            seen += 1
            if seen == publication:
                os.write(writer, target.name.encode())
                os.kill(os.getpid(), signal.SIGKILL)
            return real(path, target)

        Path.replace = replace
        try:
            run(images, out)
        except BaseException as error:  # noqa: BLE001 - a child has nobody else to tell
            os.write(writer, repr(error).encode())
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    told = os.read(reader, 1000).decode()
    os.close(reader)
    if os.WIFSIGNALED(status):
        return told
    assert not told, told
    return None


def main(images: Path, out: Path) -> None:
    assert run_until(0, images, out / "straight") is None
    publication = 1
    while name := run_until(publication, images, out / f"killed-{publication}"):
        sys.stdout.write(name + "\n")
        sys.stdout.flush()
        assert run_until(0, images, out / f"killed-{publication}") is None
        publication += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
