"""A few of the signals that ``scripts/stop_commands.py`` sends at random moments."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_commands_that_are_stopped_at_random_moments_end_like_those_that_nobody_stopped(tmp_path):
    names = ["augment sample", "augment index", "augment train"]
    script = [sys.executable, "-m", "scripts.stop_commands"]
    done = subprocess.run(
        [*script, "--signals", "6", "--work", str(tmp_path), "--commands", *names],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "6 signals over 3 commands: 0 failures"
