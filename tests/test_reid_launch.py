"""``reid study --launch``, as far as no cluster is needed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from manifests.commands import parse, words_of
from manifests.console import Console, Exit, UserError
from manifests.jobs import Slurm
from reid.launch import Launcher, LaunchSettings, launch
from reid.study import CellScoring, CellTraining, StudySettings

QUIET = Console(quiet=True)
PLAN = StudySettings(images=Path("a b.parquet"), out=Path("out"), num_workers=2)


def on_slurm(**changes: object) -> LaunchSettings:
    return LaunchSettings(study=PLAN.model_copy(update=changes), launcher=Launcher(launch="slurm"))


def test_the_script_runs_the_same_study_without_the_launch_flags(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [
        *("--images", "a b.parquet", "--out", "out", "--launch", "slurm", "--print"),
        *("--num-workers", "4", "--fractions", "0.2", "1", "--controls", "repeated-real"),
        *("--synthetic-sets", "patn=syn-{fraction}", "--train.steps", "9", "--slurm.gpus", "0"),
        *("--score.flip-test", "--train.augmentation.flip", "0.25"),
    ]
    settings, _ = parse(LaunchSettings, "reid study", "", words)

    assert launch(settings, QUIET) == Exit.DONE

    lines = capsys.readouterr().out.splitlines()
    assert "#SBATCH --array=0-3" in lines
    assert lines[-1] == (
        f"exec {sys.executable} -m reid.cli study --images 'a b.parquet' --out out "
        "--fractions 0.2 1.0 --synthetic-sets 'patn=syn-{fraction}' --controls repeated-real "
        "--train.steps 9 --train.augmentation.flip 0.25 --score.flip-test --quiet"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"fractions": (0.5,), "seeds": (3, 1), "controls": ("synthetic-only", "shuffled-labels")},
        {"train": CellTraining(synthetic_share=0.5, milestones=(0.5, 0.75), tensorboard=True)},
        {"score": CellScoring(flip_test=True, targets=("a=b", "c=d")), "budget": "epochs"},
    ],
)
def test_the_words_of_a_study_give_it_again(changes):
    settings = PLAN.model_copy(update=changes)

    found, _ = parse(StudySettings, "reid study", "", words_of(settings))

    assert found == settings


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (on_slurm(num_workers=None), "--launch slurm: found no --num-workers"),
        (on_slurm(worker="0/2"), "--worker: found '0/2' and --launch, expected one of them"),
        (
            LaunchSettings(study=PLAN, launcher=Launcher(wait=True)),
            "--wait: found no --launch, expected --launch slurm",
        ),
        (LaunchSettings(study=PLAN, slurm=Slurm(gpus=0)), "--slurm: found no --launch"),
        (on_slurm(), "a b.parquet does not exist"),
    ],
)
def test_what_cannot_be_made_is_refused_before_it_waits_in_the_queue(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        launch(settings, QUIET)
