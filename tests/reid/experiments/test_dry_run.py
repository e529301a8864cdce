from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from manifests.compute.training_state import write_training_state
from manifests.io import read_images
from manifests.runtime.console import Console, Exit, UserError
from manifests.synthetic import read_synthetic
from reid.data.dataset import select
from reid.experiments.arms import CellTraining
from reid.experiments.dry_run import Work, _cost
from reid.experiments.grid import StudySettings, cells_of, training_of
from reid.experiments.launch import Launcher, LaunchSettings, launch
from reid.experiments.study import study
from reid.training.speed import Speed, _some_people
from reid.training.train import train
from tests.helpers.reid_people import write_people, write_synthetic

QUIET = Console(quiet=True)
SMALL = CellTraining(steps=2, batch_size=8, height=64, width=32, device="cpu")


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def blocks(tmp_path_factory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("synthetic") / "blocks")


@pytest.fixture
def plan(people, blocks, tmp_path) -> StudySettings:
    """Return a study of two runs: real images alone, and synthetic ones added to each step."""
    return StudySettings(
        images=people,
        out=tmp_path / "study",
        fractions=(1.0,),
        synthetic_sets=(f"blocks={blocks}",),
        seeds=(0,),
        train=SMALL,
    )


def events(capsys, name: str) -> list[dict[str, object]]:
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    return [event for event in said if event["event"].startswith(name)]


def dry(plan: StudySettings, capsys) -> list[dict[str, object]]:
    capsys.readouterr()
    wish = plan.model_copy(update={"dry_run": True})
    assert study(wish, Console(log_format="json")) is Exit.DONE
    return events(capsys, "dry_run")


def test_a_dry_run_says_steps_images_and_time_of_each_run_and_writes_nothing(plan, capsys):
    none, blocks, both = dry(plan, capsys)
    assert not plan.out.exists()
    assert none["folder"] == "runs/f1/none/seed-0"
    counted = [(run["state"], run["steps"], run["images_per_step"]) for run in (none, blocks)]
    assert counted == [("new", 2, 8), ("new", 2, 8 + 16)]
    assert (none["images"], blocks["images"]) == (16, 48)
    assert (both["runs"], both["done"], both["left"]) == (2, 0, 2)
    assert (both["steps"], both["images"]) == (4, 64)
    assert none["seconds"] > 0
    assert both["seconds"] == pytest.approx(none["seconds"] + blocks["seconds"], abs=0.002)
    assert "8 + 16 images (48 seen)" in blocks["message"]
    assert "2 arms (none, blocks) x 1 fractions (1) x 1 seeds (0)" in both["message"]


def test_a_dry_run_tells_what_is_done_trained_and_begun_and_leaves_it_alone(plan, capsys):
    plan = plan.model_copy(update={"seeds": (0, 1)})
    assert study(plan, QUIET) is Exit.DONE
    first, second, third, _ = (plan.out / cell.folder for cell in cells_of(plan))
    (second / "report.json").unlink()
    shutil.rmtree(third)
    third.mkdir()
    write_training_state({"done": 1}, third / "last.pt")
    before = {path: path.stat().st_mtime_ns for path in plan.out.rglob("*")}
    *runs, both = dry(plan, capsys)
    assert {path: path.stat().st_mtime_ns for path in plan.out.rglob("*")} == before
    found = [(run["state"], run["steps"]) for run in runs]
    assert found == [("done", 0), ("trained", 0), ("begun", 1), ("done", 0)]
    assert [run["seconds"] > 0 for run in runs] == [False, True, True, False]
    assert (both["done"], both["left"], both["steps"]) == (2, 2, 1)
    assert first.is_dir()


def test_a_finished_study_measures_nothing(plan, capsys):
    assert study(plan, QUIET) is Exit.DONE
    both = dry(plan, capsys)[-1]
    assert both["message"].endswith("2 done, 0 left")
    assert both["seconds"] == 0


def test_a_dry_run_refuses_what_the_study_would_refuse(plan):
    study(plan, QUIET)
    other = plan.model_copy(update={"train": SMALL.model_copy(update={"batch_size": 4})})
    with pytest.raises(UserError, match=r"belongs to another run \(batch_size: 8, now 4"):
        study(other.model_copy(update={"dry_run": True}), QUIET)
    with pytest.raises(UserError, match="--dry-run: found it and --tables-only"):
        study(plan.model_copy(update={"dry_run": True, "tables_only": True}), QUIET)


def test_a_dry_run_submits_no_job(plan):
    wish = plan.model_copy(update={"dry_run": True, "num_workers": 2})
    on_slurm = LaunchSettings(study=wish, launcher=Launcher(launch="slurm"))
    assert launch(on_slurm, QUIET) is Exit.DONE
    assert not plan.out.exists()


def test_the_time_of_a_run_is_that_of_its_steps_its_images_read_and_its_features():
    work = Work("new", steps=10, images_per_step=8, num_read=100, num_embedded=7)
    assert work.seconds(Speed(per_step=2.0, per_read=0.5, per_embedded=3.0)) == 20 + 50 + 21
    assert work.num_seen == 80


def test_steps_that_cost_the_same_are_measured_once_and_others_by_themselves(plan):
    arms = ("slow=--learning-rate 1e-4", "wide=--batch-size 9", "more=--scene-added 4")
    wide = plan.model_copy(update={"arms": arms, "seeds": (0, 1)})
    costs = {
        (cell.variant.name, cell.seed): _cost(training_of(wide, cell)) for cell in cells_of(wide)
    }
    alike = {who for who, cost in costs.items() if cost == costs["none", 0]}
    assert alike == {("none", 0), ("none", 1), ("slow", 0), ("slow", 1)}
    assert len(set(costs.values())) == 4


def test_people_with_synthetic_images_are_measured_first(people, blocks):
    made = read_synthetic(blocks)
    rows = np.flatnonzero(np.isin(made.strings("person_id"), ["0005", "0006"]))
    images = read_images(people)
    whole = select(images, made, real_fraction=1.0, num_validation_people=0, data_seed=0)
    some = _some_people(replace(whole, synthetic_rows=rows), made, num_people=1)
    assert set(some.train.strings("person_id")) == {"0005"}
    assert set(made.take(some.synthetic_rows).strings("person_id")) == {"0005"}
    every = _some_people(whole, made, num_people=99)
    assert (len(every.train), len(every.synthetic_rows)) == (24, 12)


def test_the_first_whole_run_says_how_long_the_others_take(plan, capsys):
    plan = plan.model_copy(update={"controls": ("repeated-real",)})
    plan = plan.model_copy(update={"train": SMALL.model_copy(update={"synthetic_mix": "replace"})})
    # Trained before: its scoring alone says nothing of the others.
    train(training_of(plan, cells_of(plan)[0]), QUIET)
    assert study(plan, Console(log_format="json")) is Exit.DONE
    said = events(capsys, "")
    (at,) = (at for at, event in enumerate(said) if event["event"] == "time_left")
    assert said[at]["runs"] == 1
    assert said[at]["seconds"] > 0
    cells = [event["folder"] for event in said[:at] if event["event"] == "cell"]
    assert cells == ["runs/f1/none/seed-0", "runs/f1/blocks/seed-0"]
