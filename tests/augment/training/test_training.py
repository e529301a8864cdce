"""The training loop and the folder of a run, on a few coloured images."""

import copy
import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from augment.checkpoints import store
from augment.cli import PROGRAM
from augment.generators.patn import Patn
from augment.interface.condition import Pair
from augment.interface.schedule import LinearTail
from augment.training.inputs import compile_children
from augment.training.loop import LoopSettings, Trainer
from augment.training.pairs import TrainingImages, index_pairs
from augment.training.train import settings_for, train
from manifests import io
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.one_process import alone_in
from tests.helpers.training import TINY, TRAIN, equal_states, made_up_images, trainer

ROOT = Path(__file__).resolve().parents[3]


def test_every_ordered_pair_of_a_person_is_drawn_about_equally_often():
    joints = np.zeros((5, 18, 2), np.float32)
    joints[4, 2] = np.nan
    index = index_pairs(["a", "b", "a", "a", "a"], joints)
    assert index.num_pairs == 6
    drawn = index.draw(0, 0, 6_000)
    found, counts = np.unique(drawn, axis=0, return_counts=True)
    assert found.tolist() == [[0, 2], [0, 3], [2, 0], [2, 3], [3, 0], [3, 2]]
    assert counts.min() > 850  # five standard deviations below 1,000


def test_pairs_of_a_step_follow_from_seed_step_and_rank_alone():
    index = made_up_images().index
    assert np.array_equal(index.draw(1, 7, 8, 0), index.draw(1, 7, 8, 0))
    for other in (index.draw(2, 7, 8, 0), index.draw(1, 8, 8, 0), index.draw(1, 7, 8, 1)):
        assert not np.array_equal(index.draw(1, 7, 8, 0), other)


def test_people_without_two_poses_cannot_be_trained_on():
    with pytest.raises(UserError, match="none with two"):
        index_pairs(["a", "b"], np.zeros((2, 18, 2), np.float32))


def test_a_run_stopped_anywhere_and_resumed_equals_a_straight_run():
    straight = trainer()
    states = [copy.deepcopy(straight.state()) for _ in straight.steps()]
    assert straight.step == 6
    for stop in (1, 2, 3, 5):  # before, at and after the change of stage
        resumed = trainer()
        resumed.restore(states[stop - 1])
        for _ in resumed.steps():
            pass
        assert equal_states(resumed.state(), states[-1]), f"stopped after {stop} steps"


def test_only_the_parameters_of_a_phase_move():
    run = trainer(TINY.model_copy(update={"warmup_steps": 1, "steps": 1}))
    before = {name: value.clone() for name, value in run.network.named_parameters()}
    next(run.steps())
    moved = {
        name.split(".")[0]
        for name, value in run.network.named_parameters()
        if not torch.equal(value, before[name])
    }
    assert moved == {"image_encoder", "pose_encoder", "blocks", "decoder"}


def test_one_update_equals_a_written_out_adam_step():
    config = TINY.model_copy(update={"warmup_steps": 1, "dropout": 0.0})
    run = trainer(config, channels_last=False)
    torch.manual_seed(0)
    plain = Patn(config).train()
    pair: Pair = run.images.draw(0, 0, config.batch_size)
    outputs = plain.run(pair, "reconstruction")
    loss = 10.0 * (outputs["fake"] - pair.target).abs().mean()
    loss.backward()
    terms = next(run.steps())
    torch.testing.assert_close(terms["reconstruction/l1"], loss.detach())
    after = dict(run.network.named_parameters())
    for name, value in plain.named_parameters():
        if name.split(".")[0] not in plain.sampling:
            continue
        # Adam's first step: m/(1-b1) = g, sqrt(v/(1-b2)) = |g|.
        step = 2e-4 * value.grad / (value.grad.abs() + 1e-8)
        # Gradients near 1e-8 are divided by an equally small number: rounding shows.
        torch.testing.assert_close(after[name], value - step, rtol=0, atol=2e-6)


def test_a_phase_that_does_not_reach_its_parameters_is_an_error():
    run = trainer()
    run.network.losses = lambda phase, pair, outputs: {
        "l1": run.network.decoder(outputs["features"]).mean()
    }
    run.network.run = lambda pair, stage: {"features": torch.zeros(2, 16, 32, 16)}
    with pytest.raises(RuntimeError, match=r"'reconstruction' trains image_encoder\.1\.weight"):
        next(run.steps())


def test_the_learning_rate_falls_to_zero_in_the_last_epoch():
    schedule = LinearTail(epoch_steps=125, constant_epochs=500, tail_epochs=200)
    assert schedule.factor(0) == schedule.factor(498 * 125) == 1.0
    assert schedule.factor(499 * 125) == pytest.approx(200 / 201)
    assert schedule.factor(87_499) == 0.0


def test_published_stages_are_the_defaults():
    (stage,) = Patn(Patn.Config(base_width=2, discriminator_width=2, features="none")).stages()
    assert (stage.steps, stage.batch_size) == (87_500, 32)
    assert [phase.name for phase in stage.phases] == ["generator", "appearance", "shape"]
    schedule = stage.phases[0].schedule
    assert schedule == LinearTail(epoch_steps=125, constant_epochs=500, tail_epochs=200)


def test_a_run_killed_at_random_moments_ends_in_the_same_bytes(tiny_images, tiny_root, tmp_path):
    images = str(tiny_root / "images.parquet")

    def command(out):
        # Long enough that no moment is past the end.
        longer = ["--config.steps", "30", "--images", images]
        return [*TRAIN, *longer, "--out", str(tmp_path / out)]

    subprocess.run(command("straight"), check=True, capture_output=True)
    state = tmp_path / "killed" / "state.pt"
    moments = random.Random(0)
    for _ in range(2):
        before = state.stat().st_mtime_ns if state.exists() else None
        killed = subprocess.Popen(command("killed"), stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 600
        while (state.stat().st_mtime_ns if state.exists() else None) == before:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.05))
        killed.send_signal(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
        assert not (tmp_path / "killed" / "_SUCCESS").exists()
    subprocess.run(command("killed"), check=True, capture_output=True)
    for name in ("state.pt", "weights.safetensors", "samples/step-000030.png"):
        assert (tmp_path / "killed" / name).read_bytes() == (
            tmp_path / "straight" / name
        ).read_bytes(), name
    steps = [
        json.loads(line)["step"]
        for line in (tmp_path / "killed" / "log.jsonl").read_text().splitlines()
    ]
    assert steps == list(range(2, 31, 2))


def test_a_run_killed_at_any_file_it_publishes_ends_in_the_same_bytes(
    tiny_images, tiny_root, tmp_path
):
    paths = [str(tiny_root / "images.parquet"), str(tmp_path)]
    command = [sys.executable, "-m", "tests.helpers.killed", *paths]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Three steps, saved each; a sheet of samples at the second and the last.
    save = ["weights.safetensors", "state.pt"]
    assert done.stdout.split() == [
        *save, "step-000002.png", *save, "step-000003.png", *save, "_SUCCESS",
    ]  # fmt: skip
    files = ["_SUCCESS", "log.jsonl", "run.json", "samples", "samples/step-000002.png",
             "samples/step-000003.png", "state.pt", "weights.safetensors"]  # fmt: skip
    for publication in range(1, 10):
        folder = tmp_path / f"killed-{publication}"
        found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        assert found == files
        for name in (*files[4:],):
            expected = (tmp_path / "straight" / name).read_bytes()
            assert (folder / name).read_bytes() == expected, (publication, name)
        steps = [
            json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()
        ]
        assert steps == [1, 2, 3]


def test_a_run_given_no_time_saves_and_ends_with_75_until_the_same_command_finishes_it(
    tiny_images, tiny_root, tmp_path
):
    images = tiny_root / "images.parquet"

    def once(out, **changes):
        config = TINY.model_copy(update={"warmup_steps": 0, "steps": 2})
        settings = settings_for([])(images=images, out=tmp_path / out, config=config, **changes)
        return train(settings, Console(quiet=True))

    assert once("straight") == Exit.DONE
    codes = [once("pieces", stop_after_minutes=0) for _ in range(2)]
    assert codes == [Exit.STOPPED_EARLY, Exit.DONE]
    for name in ("state.pt", "weights.safetensors"):
        assert (tmp_path / "pieces" / name).read_bytes() == (
            tmp_path / "straight" / name
        ).read_bytes()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_a_run_told_to_end_saves_its_step_and_the_same_command_ends_in_the_same_bytes(
    sent, tiny_images, tmp_path, monkeypatch
):
    def once(out):
        config = TINY.model_copy(update={"warmup_steps": 0, "steps": 3})
        settings = settings_for([])(
            images=tmp_path / "tiny" / "images.parquet", out=tmp_path / out, config=config
        )
        return train(settings, Console(quiet=True))

    assert once("straight") == Exit.DONE
    make = Trainer._make_step

    def told(run, stage_step):
        if stage_step == 1:
            signal.raise_signal(sent)
        return make(run, stage_step)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_make_step", told)
        assert once("stopped") == Exit.STOPPED_EARLY
    assert torch.load(tmp_path / "stopped" / "state.pt", weights_only=True)["step"] == 2
    assert once("stopped") == Exit.DONE
    for name in ("state.pt", "weights.safetensors"):
        first, second = (tmp_path / out / name for out in ("straight", "stopped"))
        assert first.read_bytes() == second.read_bytes()


def broken_at(step, monkeypatch, *, loss_too):
    make = Trainer._make_step

    def breaking(run, stage_step):
        terms = make(run, stage_step)
        if run.step == step:
            torch.nn.init.constant_(next(run.network.parameters()), float("nan"))
            if loss_too:
                terms["generator/l1"] = terms["generator/l1"] * float("nan")
        return terms

    monkeypatch.setattr(Trainer, "_make_step", breaking)


@pytest.mark.parametrize(
    ("loss_too", "message"),
    [
        (True, "^step 4 of 9: the generator/l1 became nan, expected finite losses"),
        (False, r"state\.pt: found weights that are not finite after the last step"),
    ],
)
def test_numbers_that_are_none_end_a_training_with_the_state_and_the_log_of_before(
    loss_too, message, tiny_images, tmp_path, monkeypatch
):
    broken_at(4, monkeypatch, loss_too=loss_too)
    config = TINY.model_copy(update={"warmup_steps": 0, "steps": 9})
    settings = settings_for([])(
        images=tmp_path / "tiny" / "images.parquet", out=tmp_path / "run", config=config,
        save_every=2, log_every=9,
    )  # fmt: skip
    with pytest.raises(UserError, match=message):
        train(settings, Console(quiet=True))
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 2
    assert store.read_header(tmp_path / "run" / "weights.safetensors").facts["steps"] == 2
    if loss_too:
        (line,) = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
        assert line["step"] == 3
        assert np.isfinite(line["generator/l1"])


def test_a_line_of_the_log_has_the_speed_and_the_time_left(tiny_images, tiny_root, tmp_path):
    config = TINY.model_copy(update={"warmup_steps": 0, "steps": 10_001})
    settings = settings_for([])(
        images=tiny_root / "images.parquet", out=tmp_path, config=config, log_every=1,
        stop_after_minutes=0,
    )  # fmt: skip

    assert train(settings, Console(quiet=True)) == Exit.STOPPED_EARLY

    (line,) = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert line["step"] == 1
    assert line["images_per_second"] > 0
    assert line["seconds_left"] > 0
    assert line["learning_rate"] == pytest.approx(TINY.learning_rate)
    images_left = 10_000 * TINY.batch_size
    # Two decimals of a speed that may be small.
    assert line["seconds_left"] * line["images_per_second"] == pytest.approx(images_left, rel=0.1)


def test_weights_alone_go_on_at_their_step_of_the_plan_and_say_so(tiny_images, tiny_root, tmp_path):
    images = tiny_root / "images.parquet"
    config = TINY.model_copy(update={"warmup_steps": 0, "steps": 3})

    def run(out, **changes):
        settings = settings_for([])(images=images, out=tmp_path / out, config=config, **changes)
        train(settings, Console(quiet=True))
        return tmp_path / out / "weights.safetensors"

    first = run("first", stop_after_minutes=0)
    header = store.read_header(first)
    assert header.facts["steps"] == 1
    assert "terms" not in header.facts
    owed = header.model_copy(update={"facts": {**header.facts, "terms": "CC BY-NC 4.0"}})
    store.save_weights(store.read_tensors(first), first, owed)
    facts = store.read_header(run("second", init=str(first), first_step=1)).facts
    assert (facts["steps"], facts["init_steps"]) == (3, 1)
    assert facts["init_sha256"] == io.sha256_file(first)
    assert facts["terms"] == "CC BY-NC 4.0"
    # Of the whole plan, as the steps are.
    assert facts["images_seen"] == 3 * TINY.batch_size
    with pytest.raises(UserError, match="--first-step 1: found no --init"):
        run("third", first_step=1)
    with pytest.raises(UserError, match="--first-step 3: expected a step from 0 to 2"):
        run("fourth", init=str(first), first_step=3)


def test_weights_of_another_system_are_refused_before_the_folder_is_made(
    tiny_images, tiny_root, tmp_path
):
    weights = tmp_path / "gfla.safetensors"
    header = store.Header(generator="gfla", config={}, facts={})
    store.save_weights({"flow_net.weight": torch.zeros(2, 2)}, weights, header)
    settings = settings_for([])(
        images=tiny_root / "images.parquet", out=tmp_path / "run", config=TINY, init=str(weights)
    )
    with pytest.raises(UserError, match="holds weights of gfla, expected those of patn"):
        train(settings, Console(quiet=True))
    assert not (tmp_path / "run").exists()


def test_a_network_of_another_size_is_trained_on_images_of_its_size(
    tiny_images, tiny_root, tmp_path
):
    size = {"image_height": 64, "image_width": 32, "warmup_steps": 0, "steps": 1}
    settings = settings_for([])(
        images=tiny_root / "images.parquet", out=tmp_path / "run",
        config=TINY.model_copy(update=size),
    )  # fmt: skip
    assert train(settings, Console(quiet=True)) == Exit.DONE
    network = store.load(tmp_path / "run" / "weights.safetensors")
    assert network.image_size == (64, 32)
    with Image.open(tmp_path / "run" / "samples" / "step-000001.png") as drawn:
        four_columns = 4 * (2 * 32 + 6) - 6 + 2 * 6
        assert drawn.size[0] == four_columns


def test_a_resumed_run_goes_on_from_the_weights_that_it_began_with(
    tiny_images, tiny_root, tmp_path
):
    def run(out, **changes):
        config = TINY.model_copy(update={"warmup_steps": 0, "steps": 3})
        settings = settings_for([])(
            images=tiny_root / "images.parquet", out=tmp_path / out, config=config,
            stop_after_minutes=0, **changes,
        )  # fmt: skip
        return train(settings, Console(quiet=True))

    run("first")
    weights = tmp_path / "first" / "weights.safetensors"
    before = io.sha256_file(weights)
    run("second", init=str(weights))
    run("first")
    told = f"init_sha256: '{before[:8]}...', now '{io.sha256_file(weights)[:8]}...'"
    with pytest.raises(UserError, match=re.escape(told)):
        run("second", init=str(weights))


def test_a_folder_of_another_run_is_refused(tiny_images, tiny_root, tmp_path, capsys):
    files = ["--images", str(tiny_root / "images.parquet"), "--out", str(tmp_path / "run")]
    command = [*TRAIN[TRAIN.index("train") :], "--config.steps", "3", *files]
    assert PROGRAM.run(command) == Exit.DONE
    with pytest.raises(UserError, match="seed: 0, now 1"):
        PROGRAM.run([*command, "--seed", "1"])
    capsys.readouterr()
    assert PROGRAM.run(command) == Exit.DONE
    assert "already complete" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--config.features", "missing.pth"],
            "--config.features: found nothing of this name",
        ),
        (["--config.features", "vgg16"], "--config.features 'vgg16': expected 'vgg19', "),
        (["--config.image-height", "126"], "multiple of 4"),
    ],
)
def test_what_no_step_could_be_made_with_leaves_no_folder(
    tiny_images, tiny_root, tmp_path, flags, message
):
    files = ["--images", str(tiny_root / "images.parquet"), "--out", str(tmp_path / "run")]
    command = [*TRAIN[TRAIN.index("train") :], "--config.steps", "1", *files]
    with pytest.raises(UserError, match=message):
        PROGRAM.run([*command, *flags])
    assert not (tmp_path / "run").exists()


def test_a_feature_network_that_cannot_be_read_leaves_no_folder(tiny_images, tiny_root, tmp_path):
    (tmp_path / "other.pth").write_bytes(b"nothing")
    files = ["--images", str(tiny_root / "images.parquet"), "--out", str(tmp_path / "run")]
    command = [*TRAIN[TRAIN.index("train") :], "--config.steps", "1", *files]
    other = ["--config.features", str(tmp_path / "other.pth"), "--config.weight-perceptual", "1"]
    with pytest.raises(UserError, match="feature network"):
        PROGRAM.run([*command, *other])
    assert not (tmp_path / "run").exists()
    assert PROGRAM.run(command) == Exit.DONE


def test_weights_that_begin_at_a_step_have_seen_the_images_before_it():
    run = trainer()
    first, second = run.network.stages()[:2]
    run.begin_at(first.steps + 1)
    assert run.step == first.steps + 1
    assert run.images_seen == first.steps * first.batch_size + second.batch_size


def test_every_part_that_is_called_is_compiled(monkeypatch):
    network = Patn(TINY)
    found = []

    def noted(module):
        found.append(module)

    monkeypatch.setattr(torch.nn.Module, "compile", noted)
    compile_children(network)
    names = {id(module): name for name, module in network.named_modules()}
    compiled = {names[id(module)] for module in found}
    assert {"image_encoder", "decoder", "blocks.0", "discriminators.shape"} <= compiled
    assert not {"blocks", "discriminators"} & compiled


def test_a_setting_that_a_begun_run_does_not_have_yet_has_its_default(
    tiny_images, tiny_root, tmp_path, capsys
):
    files = ["--images", str(tiny_root / "images.parquet"), "--out", str(tmp_path / "run")]
    command = [*TRAIN[TRAIN.index("train") :], "--config.steps", "1", *files]
    record = tmp_path / "run" / "run.json"
    assert PROGRAM.run(command) == Exit.DONE
    for name, value, is_default in (("weight_gate", 0, True), ("steps", 1, False)):
        entries = json.loads(record.read_text())
        assert entries["config"]["config"].pop(name) == value
        record.write_text(json.dumps(entries))
        if is_default:
            assert PROGRAM.run(command) == Exit.DONE
            continue
        with pytest.raises(UserError, match=r"config\.steps: None, now 1"):
            PROGRAM.run(command)


def test_a_run_that_another_process_is_at_is_refused(tiny_images, tiny_root, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    images = ["--images", str(tiny_root / "images.parquet"), "--out", str(out)]
    with alone_in(out), pytest.raises(UserError, match="run: another process is at work there"):
        PROGRAM.run([*TRAIN[TRAIN.index("train") :], "--config.steps", "1", *images])


@pytest.mark.gpu
def test_on_a_gpu_the_host_waits_for_nothing_during_a_step():
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    images = TrainingImages(
        rng.integers(0, 256, (4, 128, 64, 3), dtype=np.uint8),
        rng.uniform([0, 0], [63, 127], (4, 18, 2)).astype(np.float32),
        ["a", "a", "b", "b"],
        "cuda",
    )
    config = TINY.model_copy(
        update={"warmup_steps": 0, "steps": 6, "features": "vgg19-random", "pool_size": 5}
    )
    device = torch.device("cuda")
    run = Trainer(Patn(config).to(device), images, LoopSettings(), device)
    steps = run.steps()
    for _ in range(3):  # what is allocated once may wait
        next(steps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
