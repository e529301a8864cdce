from __future__ import annotations

import re
from pathlib import Path

import pytest

from manifests.runtime.command_line import parse
from manifests.runtime.console import Console, UserError
from reid.training.recipes import RECIPES
from reid.training.settings import TrainSettings, settings_for
from reid.training.train import train

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


def test_without_a_recipe_nothing_has_changed():
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
