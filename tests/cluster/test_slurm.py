"""A real Slurm on this machine: tasks that are killed, arrays that are submitted again."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

import reid.experiments.launch
from augment.generation.job import generate
from augment.generation.launch import Launcher, LaunchSettings, launch
from augment.generation.status import look
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.slurm import Slurm, sbatch, submit
from reid.experiments.arms import CellTraining
from reid.experiments.grid import StudySettings
from tests.helpers import trivial
from tests.helpers.machine import ROOT, processes
from tests.helpers.reid_people import write_people

pytestmark = pytest.mark.cluster

QUIET = Console(quiet=True)
PATIENCE_S = 240


@pytest.fixture(scope="module")
def slurm(tmp_path_factory, python_path):
    """Start a Slurm of two nodes with one slot each, and use it while the tests run."""
    folder = tmp_path_factory.mktemp("slurm")
    script = ROOT / "scripts/slurm_local.sh"
    # Slurm's own user must get through.
    for above in (folder, *folder.parents[:3]):
        above.chmod(0o755)
    started = subprocess.run([script, "start", folder], capture_output=True, text=True, check=False)
    if started.returncode == 77:
        pytest.skip(started.stderr.strip())
    assert started.returncode == 0, started.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv("PYTHONPATH", python_path)
        yield
    subprocess.run([script, "stop", folder], check=True)


def small(logs) -> Slurm:
    return Slurm(gpus=0, cpus=1, memory_gb=1, hours=1, logs=str(logs))


@pytest.mark.parametrize("code", [Exit.DONE, Exit.ROW_ERRORS, Exit.STOPPED_EARLY])
def test_waiting_passes_the_highest_exit_code_on(slurm, tmp_path, code):
    logs = tmp_path / "logs"
    # Task 0 ends with the code, task 1 well.
    command = ["bash", "-c", f"exit $(( SLURM_ARRAY_TASK_ID == 0 ? {code:d} : 0 ))"]

    assert submit(sbatch(command, 2, small(logs)), logs, wait=True, console=QUIET) == code

    assert len(list(logs.iterdir())) == 2


def test_without_waiting_the_job_is_queued_and_told(slurm, tmp_path, capsys):
    script = sbatch(["true"], 2, small(tmp_path / "logs"))

    assert submit(script, tmp_path / "logs", wait=False, console=Console()) == Exit.DONE

    assert " is queued; 'squeue --job " in capsys.readouterr().err


def test_what_slurm_refuses_is_one_sentence(slurm, tmp_path):
    script = sbatch(["true"], 1, small(tmp_path).model_copy(update={"partition": "nowhere"}))

    with pytest.raises(UserError, match="sbatch: error: invalid partition specified: nowhere"):
        submit(script, tmp_path, wait=True, console=QUIET)


def test_a_study_is_an_array_whose_last_task_makes_the_table(slurm, tmp_path):
    logs = tmp_path / "logs"
    training = CellTraining(steps=2, batch_size=8, height=64, width=32, device="cpu")
    plan = StudySettings(
        images=write_people(tmp_path / "people"),
        out=tmp_path / "study",
        fractions=(0.5, 1.0),
        seeds=(0,),
        num_workers=2,
        train=training,
    )
    where = reid.experiments.launch.Launcher(launch="slurm", wait=True)

    settings = reid.experiments.launch.LaunchSettings(study=plan, launcher=where, slurm=small(logs))
    assert reid.experiments.launch.launch(settings, QUIET) == Exit.DONE

    assert len(list(logs.iterdir())) == 2
    table = (plan.out / "study.md").read_text()
    assert "## 50% of the real train images (12)" in table
    assert "## 100% of the real train images (24)" in table


def task_of(out, index) -> int | None:
    """Return the process of an array task that works on a folder."""
    for process, (command, environ) in processes().items():
        if f"--out {out} " in command and environ.get("SLURM_ARRAY_TASK_ID") == str(index):
            return process
    return None


def test_an_array_with_a_killed_task_submitted_again_equals_one_process(slurm, people, tmp_path):
    out, straight, logs = tmp_path / "out", tmp_path / "straight", tmp_path / "logs"
    # Eight people x 10 in 20 shards, five for each task.
    job = trivial.job_settings(people, out, per_id=10, weights="patn-sample", num_workers=4)
    settings = LaunchSettings(job=job, launcher=Launcher(launch="slurm"), slurm=small(logs))
    waiting = settings.model_copy(update={"launcher": Launcher(launch="slurm", wait=True)})

    assert launch(settings, QUIET) == Exit.DONE
    first = out / "data/part-000000.parquet"
    until = time.monotonic() + PATIENCE_S
    while not first.exists():
        assert time.monotonic() < until, "no shard appeared"
        time.sleep(0.005)
    victim = task_of(out, 0)
    assert victim is not None, "the task ended before it could be killed"
    os.kill(victim, signal.SIGKILL)
    made = first.stat().st_mtime_ns

    while subprocess.run(["squeue", "-h"], capture_output=True, check=True).stdout:
        assert time.monotonic() < until, "the array did not end"
        time.sleep(0.2)
    assert not look(out).finished
    assert launch(waiting, QUIET) == Exit.DONE

    assert first.stat().st_mtime_ns == made
    alone = job.model_copy(update={"out": straight, "num_workers": None})
    assert generate(alone, QUIET) == Exit.DONE
    assert trivial.files_of(out) == trivial.files_of(straight)
    assert look(out).shards_complete == 20
