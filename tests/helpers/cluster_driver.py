"""Generates on Ray with a slow network whose workers leave their process ids in a folder.

Arguments: images table, OUT, Ray's address (empty: the environment tells it), folder of the ids,
patience in seconds, for how many workers the first ones wait so that none makes the whole run
alone.
"""

import os
import sys
import time
from pathlib import Path

from augment.generation import ray_pool
from augment.generation.launch import Launcher, LaunchSettings, launch
from manifests.runtime.console import Console, exit_with
from tests.helpers import trivial

# A worker gets them with the class: its own arguments are Ray's.
IDS = Path()
NUM_WORKERS = 0


class Slow(trivial.Trivial):
    """Takes 0.2 s per batch."""

    def generate(self, condition, random, options):
        (IDS / str(os.getpid())).touch()
        while len(list(IDS.iterdir())) < NUM_WORKERS:
            time.sleep(0.05)
        time.sleep(0.2)
        return super().generate(condition, random, options)


if __name__ == "__main__":
    IDS, NUM_WORKERS = Path(sys.argv[4]), int(sys.argv[6])
    ray_pool.PATIENCE_S = float(sys.argv[5])
    settings = LaunchSettings(
        job=trivial.job_settings(Path(sys.argv[1]), Path(sys.argv[2])),
        launcher=Launcher(launch="ray", ray_address=sys.argv[3] or None),
    )
    exit_with(lambda: launch(settings, Console(), trivial.trivial_weights(network=Slow)))
