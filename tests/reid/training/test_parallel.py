from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from manifests.runtime.console import Console
from reid.training.train import TrainSettings, train
from tests.helpers.reid_people import write_people, write_synthetic

ROOT = Path(__file__).resolve().parents[3]

TOLERANCE = 1e-5
"""The log has five decimals of numbers near five."""

WAY = 0.01
"""Of the way that they went: sums in another order, where two values nearly tie for a maximum."""


def way(run: Path, start: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return how far a run's weights are from ``start``, one after the other."""
    end = load_file(run / "last.safetensors")
    return torch.cat([(end[name] - value).flatten() for name, value in start.items()])


def centres(run: Path) -> torch.Tensor:
    return torch.load(run / "last.pt", weights_only=True)["centres"]


def launched(plan: TrainSettings, folder: Path) -> subprocess.CompletedProcess[str]:
    """Train by two processes, which say at the end which of torch's threads are left."""
    program = folder / "program.py"
    program.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from manifests.runtime.console import Console\n"
        "from reid.training.train import TrainSettings, train\n"
        "train(TrainSettings.from_json(sys.argv[1]), Console())\n"
        "tasks = Path('/proc/self/task').glob('*/comm')\n"
        "print([name for name in map(Path.read_text, tasks) if name.startswith('pt_')])\n"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*launcher, "--nproc-per-node", "2", str(program), plan.to_json()],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


SMALL = {
    "precision": "float32",
    "steps": 3,
    "batch_size": 8,
    "height": 64,
    "width": 32,
    "device": "cpu",
    "checkpoint_every": 2,
    "log_every": 1,
    "val_people": 0,
}


@pytest.mark.slow
@pytest.mark.parametrize("mix", [{"synthetic_share": 0.5}, {"synthetic_added": 4}])
def test_two_processes_end_with_the_weights_of_one(tmp_path, mix):
    """The network has no batch normalisation, whose statistics are each process's own."""
    plan = TrainSettings(
        images=write_people(tmp_path / "people"),
        synthetic=write_synthetic(tmp_path / "synthetic"),
        out=tmp_path / "one",
        model="squeezenet1_0",
        train_sampler="identity",
        num_instances=2,
        synthetic_weight=0.5,
        triplet_weight=1.0,
        centre_weight=5e-4,
        optimizer="sgd",
        learning_rate=5e-4,
        **mix,
        **SMALL,
    )
    train(plan, Console(quiet=True))
    both = plan.model_copy(update={"out": tmp_path / "both"})
    done = launched(both, tmp_path)
    assert done.returncode == 0, done.stderr
    # Threads of the process group that outlive it may abort the process as it leaves.
    assert done.stdout.split() == ["[]", "[]"]
    # One process speaks and writes.
    assert done.stderr.count("training on 24 real") == 1
    assert json.loads((both.out / "run.json").read_text())["processes"] == 2
    one, other = (
        [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        for run in (plan.out, both.out)
    )
    assert [line["step"] for line in other] == [1, 2, 3]
    losses = [[line["loss"] for line in lines] for lines in (one, other)]
    assert losses[0] == pytest.approx(losses[1], rel=TOLERANCE)
    assert losses[0][-1] != losses[0][0]
    still = plan.model_copy(update={"out": tmp_path / "still", "steps": 1, "learning_rate": 1e-12})
    train(still, Console(quiet=True))
    start = load_file(still.out / "last.safetensors")
    went = way(plan.out, start)
    assert (way(both.out, start) - went).norm() <= WAY * went.norm()
    went = centres(plan.out) - centres(still.out)
    assert (centres(both.out) - centres(plan.out)).norm() <= WAY * went.norm()
    assert (both.out / "report.json").exists()


@pytest.mark.slow
def test_several_processes_add_images_to_a_network_with_batch_normalisation(tmp_path):
    """A step has two forward passes, and its backward pass needs the statistics of both."""
    plan = TrainSettings(
        images=write_people(tmp_path / "people"),
        synthetic=write_synthetic(tmp_path / "synthetic"),
        out=tmp_path / "run",
        score=False,
        **SMALL,
    )
    done = launched(plan, tmp_path)
    assert done.returncode == 0, done.stderr
    log = [json.loads(line) for line in (plan.out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2, 3]
