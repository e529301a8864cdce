"""Two workers under a real torchrun."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from augment.generation.job import generate
from manifests.runtime.console import Console, Exit
from tests.helpers import trivial

pytestmark = pytest.mark.cluster

QUIET = Console(quiet=True)
PATIENCE_S = 240


def test_torchrun_starts_workers_that_share_the_job(people, tmp_path, python_path):
    out, straight = tmp_path / "out", tmp_path / "straight"
    settings = trivial.job_settings(people, straight, weights="patn-sample")
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"),
        *("-m", "augment.cli", "generate", "--images", people, "--out", out, "--device", "cpu"),
        *("--per-id", "5", "--batch-size", "2", "--rows-per-shard", "4", "--threads", "1"),
        *("--precision", "float32", "--weights", "patn-sample"),
    ]

    ended = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": python_path},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )

    assert ended.returncode == 0, ended.stderr
    assert "worker 1 of 2 (from RANK and WORLD_SIZE)" in ended.stderr
    assert generate(settings, QUIET) == Exit.DONE
    assert trivial.files_of(out) == trivial.files_of(straight)
