"""Damaged and foreign files in the folder of a run: one sentence each, never a traceback."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from manifests.compute.training_log import TrainingLog
from manifests.compute.training_state import read_training_state, restoring, write_training_state
from manifests.runtime.console import Console, UserError
from reid.evaluation.report import read_scored
from reid.models.features import load_network
from reid.models.run_folder import read_run
from reid.training.train import TrainSettings, train
from tests.helpers.reid_people import write_people

QUIET = Console(quiet=True)
JUNK_TEXTS = [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b"[]", b"7", b'{"config": 3}', b"{}"]
JUNK_TEXTS += [b'{"config": {"seed": 1e999}, "protocol": 1}', b"9" * 5000]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    settings = {"steps": 2, "batch_size": 8, "height": 64, "width": 32, "device": "cpu"}
    train(TrainSettings(images=write_people(folder), out=folder / "run", **settings), QUIET)
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.parametrize("data", JUNK_TEXTS)
@pytest.mark.parametrize("name", ["report.json", "queries.parquet"])
def test_a_damaged_report_is_refused_in_one_sentence(run, name, data):
    (run / name).write_bytes(data)
    with pytest.raises(UserError, match=rf"{name}|report\.json"):
        read_scored(run)


@pytest.mark.parametrize("entry", ["scores", "protocol", "config", "weights"])
def test_a_report_without_an_entry_is_refused(run, entry):
    report = json.loads((run / "report.json").read_text())
    del report[entry]
    (run / "report.json").write_text(json.dumps(report))
    with pytest.raises(UserError, match=rf"report\.json: entry '{entry}': field required"):
        read_scored(run)


@pytest.mark.parametrize("data", JUNK_TEXTS)
def test_a_damaged_run_record_is_refused_in_one_sentence(run, data):
    (run / "run.json").write_bytes(data)
    with pytest.raises(UserError, match=r"run\.json|run of another command"):
        read_run(run)


@pytest.mark.parametrize(
    ("entry", "value"), [("people", 4), ("people", [1]), ("people", [None]), ("width", 10**400)]
)
def test_a_run_record_of_other_entries_is_refused(run, entry, value):
    record = json.loads((run / "run.json").read_text())
    (record["config"] if entry in record["config"] else record)[entry] = value
    text = json.dumps(record) if value != 10**400 else json.dumps(record)[:4000]
    (run / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"run\.json"):
        read_run(run)


def test_weights_that_are_damaged_or_of_another_network_are_refused(run):
    found = read_run(run)
    for data in (b"", b"\xff" * 100, (run / "last.safetensors").read_bytes()[:-50]):
        (run / "last.safetensors").write_bytes(data)
        with pytest.raises(UserError, match=r"last\.safetensors: found no weights of"):
            load_network(found, "last")
    save_file({"other": torch.zeros(3)}, run / "last.safetensors")
    with pytest.raises(UserError, match=r"last\.safetensors: found no weights of"):
        load_network(found, "last")


@pytest.mark.parametrize("change", [{"done": -1}, {"done": 10**6}, {"done": "2"}, {"network": 4}])
def test_a_state_of_another_training_is_refused(finished, run, change):
    state = read_training_state(run / "last.pt", torch.device("cpu"))
    write_training_state({**state, **change}, run / "last.pt")
    (run / "last.safetensors").unlink()
    again = {"steps": 2, "batch_size": 8, "height": 64, "width": 32, "device": "cpu"}
    images = finished.parent / "images.parquet"
    with pytest.raises(UserError, match=r"last\.pt: found no readable training state"):
        train(TrainSettings(images=images, out=run, **again), QUIET)


@pytest.mark.parametrize("value", [b"", b"junk", b"PK\x03\x04"])
def test_a_damaged_state_is_refused(tmp_path, value):
    (tmp_path / "last.pt").write_bytes(value)
    with pytest.raises(UserError, match=r"last\.pt: found no readable training state"):
        read_training_state(tmp_path / "last.pt", torch.device("cpu"))
    torch.save([1], tmp_path / "last.pt")
    with pytest.raises(UserError, match=r"last\.pt: found no readable training state"):
        read_training_state(tmp_path / "last.pt", torch.device("cpu"))
    with pytest.raises(UserError, match="put it back"), restoring(tmp_path / "last.pt"):
        {}["step"]


def test_damaged_lines_of_a_log_are_dropped_when_a_run_goes_on(tmp_path):
    lines = [b'{"step": 1}', b"\xff\xfe", b"[]", b'{"step": "2"}', b"[" * 10_000, b'{"step": 2}']
    (tmp_path / "log.jsonl").write_bytes(b"\n".join([*lines, b'{"step": 3}\n']))
    TrainingLog(tmp_path / "log.jsonl", 2, 5).close()
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'
