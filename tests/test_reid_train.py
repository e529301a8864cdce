from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from reid_people import write_people, write_synthetic
from safetensors.torch import load_file

from manifests.console import Console, Exit, UserError
from manifests.io import read_images, read_synthetic
from reid.batches import Batches, count_seen
from reid.cli import PROGRAM
from reid.dataset import load_training_set, select
from reid.loop import Trainer
from reid.network import build_network
from reid.runs import read_run
from reid.score import ScoreSettings, score
from reid.train import TrainSettings, train
from reid.weights import start_from

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("synthetic"))


def settings(images: Path, out: Path, **changes: object) -> TrainSettings:
    plain = TrainSettings(
        images=images,
        out=out,
        steps=6,
        batch_size=8,
        height=64,
        width=32,
        device="cpu",
        checkpoint_every=2,
        log_every=2,
        score=False,
    )
    return plain.model_copy(update=changes)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "last.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_run_killed_in_the_middle_and_continued_equals_a_straight_run(
    people, synthetic, tmp_path
):
    plan = {"synthetic": synthetic, "synthetic_share": 0.5, "steps": 8}
    straight, killed = (settings(people, tmp_path / name, **plan) for name in ("a", "b"))
    train(straight, QUIET)
    program = (
        "import sys; from manifests.console import Console; from reid.train import *;"
        "train(TrainSettings.from_json(sys.argv[1]), Console(quiet=True))"
    )
    root = Path(__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", program, killed.to_json()],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    while not (killed.out / "last.pt").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed.out / "last.safetensors").exists()
    train(killed, QUIET)
    assert_same_weights(straight.out, killed.out)
    lines = [json.loads(line) for line in (killed.out / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 8


def test_equal_seeds_give_equal_weights_and_other_seeds_do_not(people, tmp_path):
    plans = [settings(people, tmp_path / name, steps=2) for name in ("a", "b")]
    plans.append(settings(people, tmp_path / "c", steps=2, seed=1))
    for plan in plans:
        train(plan, QUIET)
    assert_same_weights(plans[0].out, plans[1].out)
    name = "classifier.weight"
    assert not torch.equal(weights(plans[0].out)[name], weights(plans[2].out)[name])


def test_a_batch_is_the_same_whichever_step_the_run_starts_from(people, synthetic, tmp_path):
    images, made = read_images(people), read_synthetic(synthetic)
    chosen = select(images, made, real_fraction=1.0, num_validation_people=0, data_seed=0)
    data = load_training_set(chosen, made, (32, 64))
    plan = settings(people, tmp_path, synthetic_share=0.25)
    early, late = (Batches(data, plan, torch.device("cpu"), start) for start in (0, 4))
    for one, other in zip(list(early)[4:], late, strict=True):
        assert one.step == other.step
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    assert count_seen(data, plan) == {"real": 6 * 6, "synthetic": 6 * 2, "no_identity": 0}


def test_a_finished_run_is_left_alone(people, tmp_path):
    plan = settings(people, tmp_path / "run", steps=2)
    train(plan, QUIET)
    before = {path: path.stat().st_mtime_ns for path in plan.out.iterdir()}
    assert train(plan, QUIET) is Exit.DONE
    assert before == {path: path.stat().st_mtime_ns for path in plan.out.iterdir()}


def test_other_settings_on_the_same_folder_are_refused_with_the_fields_that_differ(
    people, tmp_path
):
    train(settings(people, tmp_path / "run", steps=2), QUIET)
    with pytest.raises(UserError, match=r"batch_size: 8, now 4; learning_rate: 0\.\d+, now 0\.5"):
        train(settings(people, tmp_path / "run", steps=2, batch_size=4, learning_rate=0.5), QUIET)


def test_real_and_synthetic_images_of_a_person_share_his_label(people, synthetic):
    images, made = read_images(people), read_synthetic(synthetic)
    chosen = select(images, made, real_fraction=1.0, num_validation_people=0, data_seed=0)
    data = load_training_set(chosen, made, (32, 64))
    assert data.people == tuple(f"{person:04d}" for person in range(1, 7))
    real = [data.people[label] for label in data.labels[~data.synthetic]]
    drawn = [data.people[label] for label in data.labels[data.synthetic]]
    assert real == chosen.train.strings("person_id")
    assert drawn == [person for person in data.people for _ in range(2)]
    assert data.pixels.shape == (24 + 12, 64, 32, 3)


def test_a_fraction_keeps_every_person_and_validation_people_leave_nothing_behind(
    people, synthetic
):
    images, made = read_images(people), read_synthetic(synthetic)
    chosen = select(images, made, real_fraction=0.25, num_validation_people=2, data_seed=0)
    kept = chosen.train.strings("person_id")
    aside = set(chosen.validation.strings("person_id"))
    assert len(kept) == len(set(kept)) == 4
    assert len(aside) == 2
    assert not aside & set(kept)
    drawn = {made.strings("person_id")[row] for row in chosen.synthetic_rows}
    assert drawn == set(kept)
    assert len(chosen.validation) == 2 * 4


def test_a_person_in_train_and_gallery_is_refused(people):
    images = read_images(people)
    column = images.table.schema.get_field_index("person_id")
    names = images.strings("person_id")
    row = images.strings("split").index("gallery")
    names[row] = "0001"
    field = images.table.schema.field(column)
    import dataclasses

    import pyarrow as pa

    mixed = images.table.set_column(column, field, pa.array(names))
    with pytest.raises(UserError, match="1 people stand in train and in gallery"):
        select(
            dataclasses.replace(images, table=mixed),
            None,
            real_fraction=1.0,
            num_validation_people=0,
            data_seed=0,
        )


def test_synthetic_images_of_strangers_are_refused(people, tmp_path):
    strangers = read_synthetic(write_synthetic(tmp_path, num_train=8))
    with pytest.raises(UserError, match="shows person 0007, who has no train image"):
        select(
            read_images(people),
            strangers,
            real_fraction=1.0,
            num_validation_people=0,
            data_seed=0,
        )


def test_a_truncated_image_fails_at_once_and_is_named(tmp_path):
    images = write_people(tmp_path)
    file = tmp_path / "images" / "0003_c1_train_1.jpg"
    file.write_bytes(file.read_bytes()[:-100])
    began = time.monotonic()
    with pytest.raises(UserError, match=file.name):
        train(settings(images, tmp_path / "run"), QUIET)
    assert time.monotonic() - began < 5
    assert not (tmp_path / "run").exists()


def test_the_best_weights_on_validation_people_are_scored_once_at_the_end(people, tmp_path):
    changes = {"neck": "bnneck", "triplet_weight": 1.0, "centre_weight": 5e-4}
    changes |= {"train_sampler": "identity", "num_instances": 2, "batch_size": 4}
    plan = settings(people, tmp_path / "run", val_people=2, steps=4, score=True, **changes)
    train(plan, QUIET)
    lines = [json.loads(line) for line in (plan.out / "log.jsonl").read_text().splitlines()]
    found = [line["validation_mAP"] for line in lines if "validation_mAP" in line]
    assert len(found) == 2
    state = torch.load(plan.out / "last.pt", weights_only=True)
    assert state["best"] == max(found)
    run = read_run(plan.out)
    assert (len(run.facts["people"]), len(run.people)) == (4, 6)
    report = json.loads((plan.out / "report.json").read_text())
    assert report["weights"] == "best"
    score(ScoreSettings(run=plan.out, images=people, which="best", device="cpu"), QUIET)
    assert json.loads((plan.out / "report.json").read_text())["scores"] == report["scores"]
    before = (plan.out / "report.json").stat().st_mtime_ns
    train(plan, QUIET)
    assert (plan.out / "report.json").stat().st_mtime_ns == before


def test_people_of_one_camera_are_validated_and_scored_under_the_protocol_for_them(tmp_path):
    images = write_people(tmp_path / "people", cameras=1, frames=3)
    out = tmp_path / "run"
    words = ["train", "--images", str(images), "--out", str(out), "--steps", "2", "--quiet"]
    words += ["--height", "64", "--width", "32", "--batch-size", "8", "--device", "cpu"]
    remedy = r"under the protocol 'market1501'.*\(--protocol all-cameras is for data of one camera"
    with pytest.raises(UserError, match=rf"images\.parquet: none of 4 queries .*{remedy}"):
        PROGRAM.run(words)
    watched = [*words, "--val-people", "2"]
    with pytest.raises(UserError, match=f"the 2 validation people: none of 6 queries .*{remedy}"):
        PROGRAM.run([*watched, "--no-score"])
    assert not out.exists()
    assert PROGRAM.run([*watched, "--protocol", "all-cameras"]) is Exit.DONE
    assert '"validation_mAP"' in (out / "log.jsonl").read_text()
    report = json.loads((out / "report.json").read_text())
    assert (report["weights"], report["protocol"]["rule"]) == ("best", "all-cameras")
    assert report["num_matched"] == 4
    with pytest.raises(UserError, match="protocol: 'all-cameras', now 'market1501'"):
        PROGRAM.run(watched)


def test_a_run_that_nobody_validated_is_scored_again_under_another_protocol(people, tmp_path):
    plan = settings(people, tmp_path / "run", steps=2, score=True)
    rules: list[str] = []
    for protocol in ("market1501", "all-cameras"):
        train(plan.model_copy(update={"protocol": protocol}), QUIET)
        rules.append(json.loads((plan.out / "report.json").read_text())["protocol"]["rule"])
    assert rules == ["market1501", "all-cameras"]


def test_a_control_trains_on_the_rows_it_names_and_says_how_many(people, synthetic, tmp_path):
    plan = settings(
        people, tmp_path / "run", steps=2, synthetic=synthetic, synthetic_share=0.5
    ).model_copy(update={"control": "synthetic-only"})
    train(plan, QUIET)
    facts = read_run(plan.out).facts
    assert facts["seen"] == {"real": 0, "synthetic": 16, "no_identity": 0}
    assert facts["asked"]["control"] == "synthetic-only"
    assert (facts["num_real"], facts["num_synthetic"]) == (24, 12)


def test_tensorboard_shows_the_numbers_of_the_log(people, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plan = settings(people, tmp_path / "run", steps=4, tensorboard=True)
    train(plan, QUIET)
    board = EventAccumulator(str(plan.out / "tensorboard"))
    board.Reload()
    lines = [json.loads(line) for line in (plan.out / "log.jsonl").read_text().splitlines()]
    shown = {event.step: event.value for event in board.Scalars("loss")}
    assert shown == {line["step"]: pytest.approx(line["loss"]) for line in lines}
    assert set(shown) == {2, 4}


def test_a_save_that_fails_leaves_the_old_state(people, tmp_path, monkeypatch):
    plan = settings(people, tmp_path / "run", steps=2)
    train(plan, QUIET)
    before = (plan.out / "last.pt").read_bytes()
    network = build_network("osnet_x0_25", 6, neck="none", last_stride=2, with_features=False)

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="no space left"):
        Trainer(network, plan, torch.device("cpu")).save(plan.out)
    assert (plan.out / "last.pt").read_bytes() == before


def test_a_diverged_run_stops_with_a_sentence(people, tmp_path):
    with pytest.raises(UserError, match=r"the loss became (nan|inf)"):
        train(settings(people, tmp_path / "run", learning_rate=1e30, warmup=0.0, steps=4), QUIET)


def test_training_starts_from_weights_of_another_number_of_people(people, tmp_path):
    from reid.torchreid_adapter import build_model

    given = build_model("osnet_x0_25", 20)
    path = tmp_path / "given.pth"
    state = {f"module.{name}": tensor for name, tensor in given.state_dict().items()}
    torch.save({"state_dict": state, "rank1": np.float32(0.5), "epoch": 1}, path)
    network = build_model("osnet_x0_25", 6)
    assert start_from(network, path) == ["classifier.bias", "classifier.weight"]
    assert torch.equal(network.state_dict()["conv1.conv.weight"], given.conv1.conv.weight)
    with pytest.raises(UserError, match="tensors fit the network"):
        start_from(build_model("resnet50", 6), path)
