"""Which arithmetic a training takes where its settings leave it to the machine."""

import json

import pytest
import torch

from manifests.compute import precision
from manifests.compute.precision import fast_precision, settled_precision

CPU = torch.device("cpu")


@pytest.fixture(params=[True, False], ids=["computes bf16", "has no bf16"])
def has_bf16(request, monkeypatch):
    monkeypatch.setattr(precision, "has_bf16", lambda _device: request.param)
    return request.param


def record_of(folder, value):
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"config": {"precision": value}}))
    return folder / "run.json"


def test_a_new_training_takes_what_is_fast(has_bf16, tmp_path):
    expected = "bf16" if has_bf16 else "float32"
    assert fast_precision(CPU) == expected
    assert settled_precision("auto", CPU, [tmp_path / "run.json"]) == expected


@pytest.mark.parametrize("begun", ["bf16", "float32"])
def test_one_that_has_begun_keeps_its_own(has_bf16, begun, tmp_path):
    records = [tmp_path / "missing" / "run.json", record_of(tmp_path / "begun", begun)]
    assert settled_precision("auto", CPU, records) == begun


@pytest.mark.parametrize("named", ["bf16", "float32"])
def test_what_the_settings_name_counts_before_all(has_bf16, named, tmp_path):
    other = "float32" if named == "bf16" else "bf16"
    assert settled_precision(named, CPU, [record_of(tmp_path / "begun", other)]) == named


def test_a_record_that_names_no_known_arithmetic_counts_for_nothing(has_bf16, tmp_path):
    records = [record_of(tmp_path / "first", 16), record_of(tmp_path / "second", "float32")]
    assert settled_precision("auto", CPU, records) == "float32"
