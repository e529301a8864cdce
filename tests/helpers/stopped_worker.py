"""A worker that tests kill: ``python -m tests.helpers.stopped_worker IMAGES OUT SECONDS``."""

import sys
import time
from pathlib import Path

from augment.generation.job import generate
from manifests.runtime.console import Console
from manifests.runtime.storage import storage_path
from tests.helpers import trivial


class Slow(trivial.Trivial):
    """Takes some time per batch."""

    def generate(self, condition, random, options):
        time.sleep(float(sys.argv[3]))
        return super().generate(condition, random, options)


if __name__ == "__main__":
    settings = trivial.job_settings(Path(sys.argv[1]), storage_path(sys.argv[2]))
    sys.exit(generate(settings, Console(quiet=True), trivial.trivial_weights(network=Slow)))
