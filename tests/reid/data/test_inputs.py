from __future__ import annotations

import json

import numpy as np

from manifests.io import read_images
from manifests.pixels import read_all
from manifests.runtime.console import Console
from reid.data import inputs as module
from reid.data.inputs import Inputs
from reid.data.leakage import difference_hashes
from reid.evaluation.score import ScoreSettings, score
from reid.experiments.grid import StudySettings
from reid.experiments.study import study
from reid.training.settings import TrainSettings
from reid.training.train import train
from tests.helpers.reid_people import write_people

QUIET = Console(quiet=True)
TINY = {"steps": 1, "batch_size": 8, "height": 64, "width": 32, "device": "cpu"}


def counted(monkeypatch, name: str) -> list[object]:
    """Return a list that grows by what a function of the module is called with."""
    calls: list[object] = []
    real = getattr(module, name)

    def counting(first: object, *rest: object) -> object:
        calls.append(first)
        return real(first, *rest)

    monkeypatch.setattr(module, name, counting)
    return calls


def test_a_training_that_scores_reads_and_hashes_its_table_once(tmp_path, monkeypatch):
    images = write_people(tmp_path / "people")
    read, hashed = counted(monkeypatch, "read_images"), counted(monkeypatch, "sha256_file")
    train(TrainSettings(images=images, out=tmp_path / "run", **TINY), QUIET)
    assert (tmp_path / "run" / "report.json").exists()
    assert read == hashed == [images]


def test_a_study_reads_and_hashes_its_table_once_for_all_runs(tmp_path, monkeypatch):
    images = write_people(tmp_path / "people")
    read, hashed = counted(monkeypatch, "read_images"), counted(monkeypatch, "sha256_file")
    settings = StudySettings(
        images=images, out=tmp_path / "study", fractions=(0.5, 1.0), seeds=(0,), budget="epochs"
    )
    training = settings.train.model_copy(update=TINY)
    settings = settings.model_copy(update={"train": training, "epochs": 1})
    study(settings, QUIET)
    assert (tmp_path / "study" / "study.md").exists()
    assert read == hashed == [images]


def test_scoring_after_training_decodes_only_train_images_that_were_not_trained_on(
    tmp_path, monkeypatch
):
    images = write_people(tmp_path / "people")
    decoded = counted(monkeypatch, "windows")
    whole = TrainSettings(images=images, out=tmp_path / "whole", **TINY)
    train(whole, QUIET)
    assert decoded == []
    part = whole.model_copy(update={"out": tmp_path / "part", "real_fraction": 0.25})
    train(part, QUIET)
    assert [len(table) for table in decoded] == [24 - 6]


def test_the_report_of_a_training_is_that_of_a_scoring_by_itself(tmp_path):
    images = write_people(tmp_path / "people")
    run = tmp_path / "run"
    train(TrainSettings(images=images, out=run, real_fraction=0.5, **TINY), QUIET)

    def report() -> dict[str, object]:
        return json.loads((run / "report.json").read_text()) | {"ranking_seconds": None}

    after_training = report()
    (run / "report.json").unlink()
    score(ScoreSettings(run=run, images=images, device="cpu"), QUIET)
    assert report() == after_training


def test_hashes_are_those_of_the_images_at_the_size(tmp_path):
    images = read_images(write_people(tmp_path))
    inputs = Inputs()
    some = images.take(np.array([5, 2, 9]))
    inputs.keep_hashes(some, read_all(some, (16, 32)))
    found = inputs.hashes(images, (16, 32))
    np.testing.assert_array_equal(found, difference_hashes(read_all(images, (16, 32))))
    other = inputs.hashes(images, (8, 16))
    np.testing.assert_array_equal(other, difference_hashes(read_all(images, (8, 16))))
