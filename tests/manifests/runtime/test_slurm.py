"""Scripts that start workers."""

from __future__ import annotations

import subprocess
import sys

import pytest

from manifests.runtime.console import UserError
from manifests.runtime.slurm import Slurm, sbatch

ARRAY = {
    "SLURM_ARRAY_TASK_ID": "7",
    "SLURM_ARRAY_TASK_COUNT": "4",
    "SLURM_ARRAY_TASK_MIN": "5",
    "SLURM_ARRAY_TASK_MAX": "8",
}


def test_the_script_is_short_and_says_what_it_asks_for():
    text = sbatch(["augment", "generate", "--out", "my out"], 8)
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash"
    assert "#SBATCH --array=0-7" in lines
    assert "#SBATCH --open-mode=append" in lines
    assert "#SBATCH --gres=gpu:1" in lines
    assert lines[-1] == "exec augment generate --out 'my out'"
    assert len(lines) <= 24


def test_the_script_leaves_out_what_is_not_asked_for():
    text = sbatch(["x"], 1, Slurm(gpus=0))
    assert "gpu" not in text
    assert "partition" not in text
    assert "#SBATCH --partition=long\n" in sbatch(["x"], 1, Slurm(partition="long"))


def test_a_script_for_no_worker_is_refused():
    with pytest.raises(UserError, match="found 0, expected at least 1"):
        sbatch(["x"], 0)


def test_a_task_of_the_script_runs_the_command_as_its_worker():
    program = (
        "import os; from manifests.runtime.cluster import worker_index;"
        "print(worker_index(None, os.environ, None))"
    )
    text = sbatch([sys.executable, "-c", program], 4)
    ended = subprocess.run(
        ["bash"],
        input=text,
        env=ARRAY | {"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ended.stdout == "worker 2 of 4 (from the Slurm array, SLURM_ARRAY_TASK_ID)\n"
