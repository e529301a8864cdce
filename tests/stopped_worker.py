"""A worker process that tests kill: ``python stopped_worker.py IMAGES OUT SECONDS_PER_BATCH``."""

import sys
import time
from pathlib import Path

import trivial

from augment.generation.job import generate
from manifests.console import Console
from manifests.places import place


class Slow(trivial.Trivial):
    """Takes some time per batch."""

    def generate(self, condition, noise=None):
        time.sleep(float(sys.argv[3]))
        return super().generate(condition, noise)


if __name__ == "__main__":
    settings = trivial.job_settings(Path(sys.argv[1]), place(sys.argv[2]))
    sys.exit(generate(settings, Console(quiet=True), trivial.trivial_weights(network=Slow)))
