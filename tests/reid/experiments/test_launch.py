"""``reid study --launch``, as far as no cluster is needed."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from manifests.runtime.command_line import parse
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.slurm import Slurm
from reid.data.augmentation import Augmentation
from reid.experiments.arms import CellTraining
from reid.experiments.grid import CellScoring, StudySettings, variants_of
from reid.experiments.launch import Launcher, LaunchSettings, launch, settings_for
from reid.training.recipes import RECIPES

QUIET = Console(quiet=True)
PLAN = StudySettings(images=Path("a b.parquet"), out=Path("out"), num_workers=2)


def read(arguments: list[str]) -> LaunchSettings:
    return parse(settings_for(arguments), "reid study", "", arguments)[0]


def on_slurm(**changes: object) -> LaunchSettings:
    return LaunchSettings(study=PLAN.model_copy(update=changes), launcher=Launcher(launch="slurm"))


def test_the_script_runs_the_same_study_without_the_launch_flags(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = [
        *("--images", "a b.parquet", "--out", "out", "--launch", "slurm", "--print"),
        *("--num-workers", "4", "--fractions", "0.2", "1", "--controls", "repeated-real"),
        *("--synthetic-sets", "patn=syn-{fraction}", "--train.steps", "9", "--slurm.gpus", "0"),
        *("--score.flip-test", "--train.augmentation.flip", "0.25", "--train.recipe", "short"),
        *("--arms", "scenes=--scene-added 16", "--against", "scenes"),
    ]
    assert launch(read(arguments), QUIET) == Exit.DONE

    lines = capsys.readouterr().out.splitlines()
    assert "#SBATCH --array=0-3" in lines
    assert lines[-1] == (
        f"exec {sys.executable} -m reid.cli study --images 'a b.parquet' --out out "
        "--fractions 0.2 1.0 --synthetic-sets 'patn=syn-{fraction}' "
        "--arms 'scenes=--scene-added 16' --controls repeated-real --against scenes "
        "--score.flip-test --train.recipe short --train.steps 9 --train.augmentation.flip 0.25 "
        "--quiet"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"fractions": (0.5,), "seeds": (3, 1), "controls": ("synthetic-only", "shuffled-labels")},
        {"train": CellTraining(synthetic_share=0.5, milestones=(0.5, 0.75), tensorboard=True)},
        {"score": CellScoring(flip_test=True, targets=("a=b", "c=d")), "budget": "epochs"},
        {"arms": ("a=--scene-added 16", "b=--learning-rate 1e-4"), "against": "a"},
        {"train": CellTraining(recipe="bot")},
        # Each of these is a default of its class and none of the recipe.
        {"train": CellTraining(recipe="bot", steps=3000, weights=None, schedule="one-cycle")},
        {"train": CellTraining(recipe="bot", schedule="cosine", milestones=())},
        {"train": CellTraining(recipe="torchreid-osnet_x1_0", augmentation=Augmentation())},
        {"train": CellTraining(recipe="bot", augmentation=Augmentation(pad=8, erase=0.1))},
    ],
)
def test_the_script_on_slurm_makes_the_very_study(changes, capsys):
    settings = on_slurm(**changes)
    printing = settings.model_copy(update={"launcher": Launcher(launch="slurm", print_script=True)})

    launch(printing, QUIET)

    last = capsys.readouterr().out.splitlines()[-1]
    found = read(shlex.split(last.partition(" study ")[2].removesuffix(" --quiet")))
    alone = settings.study.model_copy(update={"num_workers": None})
    assert found.study.to_json() == alone.to_json()


@pytest.mark.parametrize("name", RECIPES)
def test_a_study_takes_the_settings_of_a_recipe_and_flags_change_them(name):
    arguments = ["--images", "i", "--out", "o", "--train.recipe", name]
    assert read(arguments).study.train.to_json() == CellTraining(recipe=name).to_json()
    changed = read([*arguments, "--train.steps", "9"]).study.train
    assert changed.to_json() == CellTraining(recipe=name, steps=9).to_json()


def test_an_unknown_recipe_of_a_study_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"found --train\.recipe 'best', expected one of short"):
        read(["--train.recipe=best"])


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
        (on_slurm(), "--images: found nothing of this name at .*a b.parquet"),
    ],
)
def test_what_cannot_be_made_is_refused_before_it_waits_in_the_queue(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        launch(settings, QUIET)


def test_the_studies_of_the_documentation_are_what_they_are_said_to_be():
    text = (
        (Path(__file__).resolve().parents[3] / "docs/reid-evaluation.md")
        .read_text()
        .replace("\\\n", " ")
    )
    lines = [shlex.split(line)[2:] for line in text.splitlines() if line.startswith("reid study -")]
    plans = [read(arguments).study for arguments in lines]
    streets = plans.pop(1)
    assert (streets.against, len(variants_of(streets))) == (None, 4)
    assert all(plan.fractions == (0.2, 0.4, 0.6, 0.8, 1.0) for plan in plans)
    assert [plan.train.recipe for plan in plans] == [
        "imagenet-cpu",
        "osnet_x1_0-scratch",
        "torchreid-resnet50",
        "osnet_x1_0-scratch",
    ]
    sizes = [(plan.train.model, plan.train.height, plan.train.width) for plan in plans[1:3]]
    assert sizes == [("osnet_x1_0", 256, 128), ("resnet50", 256, 128)]
    assert plans[1].train.steps == 50_500


@pytest.mark.parametrize("recipe", ["short", "imagenet-cpu"])
def test_a_study_is_scored_as_its_recipe_says_unless_it_is_told_otherwise(recipe):
    given = ["--images", "i", "--out", "o", "--train.recipe", recipe]
    flips = RECIPES[recipe].settings.get("flip_test", False)
    assert read(given).study.score.flip_test is flips
    assert read([*given, "--score.no-flip-test"]).study.score.flip_test is False
    assert read([*given, "--score.flip-test"]).study.score.flip_test is True
    from_python = StudySettings(images=Path("i"), out=Path("o"), train=CellTraining(recipe=recipe))
    assert from_python.score.flip_test is flips
