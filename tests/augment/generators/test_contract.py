"""What the interface promises of every system: a new file needs no change here."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from augment.checkpoints import store
from augment.generation.job import generate
from augment.generation.preview import PreviewSettings, preview
from augment.generation.sampler import prepare_for_sampling, sampling_mode
from augment.generators import names, system
from augment.interface.condition import Background, Condition
from augment.interface.system import PoseTransfer
from augment.pose.pose import Pose
from augment.quality.evaluate import EvaluateSettings, evaluate
from augment.quality.protocol import EvaluationProtocol
from augment.training.loop import LoopSettings, Trainer, trained
from augment.training.pairs import TrainingImages
from manifests import pixels
from manifests.io import Images, read_images
from manifests.masks import mask_of
from manifests.runtime.console import Console, Exit, UserError
from manifests.scenes import Scenes, alpha_of, hole_of, street
from manifests.synthetic import read_synthetic
from tests.helpers import trivial
from tests.helpers.sampling import generated

HEIGHT, WIDTH = 64, 32

NARROW = {
    "base_width": 8,
    "flow_width": 4,
    "discriminator_width": 4,
    "num_blocks": 2,
    "hidden_width": 8,
    "part_size": 16,
    "pool_size": 2,
    "image_height": HEIGHT,
    "image_width": WIDTH,
    "batch_size": 1,
    "pose_batch_size": 1,
    "mapper_batch_size": 1,
    "pose_steps": 1,
    "mapper_steps": 1,
    "warmup_steps": 1,
    "flow_steps": 1,
    "steps": 2,
}
"""Settings that make a system small, where it has them."""

BATCH_NOISE = 1e-4
"""The same image alone and among others: convolutions may sum in another order."""

ONE_LEVEL = 1
"""Of 255: a value next to a whole number is truncated to either side by rounding alone.
Few values are: their mean moves by less than a hundredth."""

BF16_NOISE = 0.1
"""Of the brightest value: eight bits of every factor, through some twenty layers."""

PUBLISHED_PARAMETERS = {
    "dpig": {
        "encoder": 47_352_736,
        "generator": 71_197_123,
        "pose_autoencoder.encoder": 2_145_824,
        "pose_autoencoder.decoder": 2_145_846,
        "mappers.foreground": 2_331_360,
        "mappers.background": 592_256,
        "mappers.pose": 2_134_560,
        "discriminator": 4_324_737,
        "code_discriminators.foreground": 903_681,
        "code_discriminators.background": 854_529,
        "code_discriminators.pose": 805_377,
    },
    "dptn": {"sampling": 9_794_371, "discriminator": 238_209},
    "gfla": {
        "sampling": 12_926_471,
        "source": 1_434_758,
        "target": 4_886_960,
        "flow_net": 6_604_753,
        "discriminator": 238_209,
    },
    "patn": {
        "sampling": 41_365_763,
        "discriminators.shape": 3_977_408,
        "discriminators.appearance": 3_930_368,
    },
    "pg2": {"coarse": 70_795_075, "difference": 6_058_883, "discriminator": 4_324_737},
    "xinggan": {
        "sampling": 44_853_189,
        "discriminators.shape": 3_977_408,
        "discriminators.appearance": 3_930_368,
    },
}


TRAINED = [name for name in names() if system(name).stages is not PoseTransfer.stages]
"""Systems that have something to train."""


def _narrow(name: str, features: str = "none", **other: int) -> PoseTransfer:
    cls = system(name)
    fields = cls.Config.model_fields
    chosen = {key: value for key, value in (NARROW | other).items() if key in fields}
    if "features" in fields:
        chosen["features"] = features
    torch.manual_seed(0)
    network = cls(cls.Config(**chosen))
    try:
        network.stages()
    except UserError:
        return _narrow(name, "vgg19-random", **other)
    return network


def _saved(network: PoseTransfer, name: str, path: Path) -> Path:
    header = store.Header(generator=name, config=network.config.model_dump(), facts={})
    store.save_weights(network.sampling_state(), path, header)
    return path


def _condition(count: int) -> Condition:
    numbers = torch.Generator().manual_seed(1)
    poses = [
        Pose(torch.rand(count, 18, 2, generator=numbers) * torch.tensor([WIDTH, HEIGHT]) - 0.5)
        for _ in range(2)
    ]
    poses[0].joints[:, 3] = torch.nan
    image = 2 * torch.rand(count, 3, HEIGHT, WIDTH, generator=numbers) - 1
    mask, hole = torch.zeros(2, count, 1, HEIGHT, WIDTH)
    mask[..., 8:56, 8:24] = 1
    hole[..., 4:50, 6:30] = 1
    return Condition(image, *poses, -image, mask, Background(image.flip(-1), hole))


def _row(condition: Condition, row: int) -> Condition:
    """Return one row of a batch as a batch of its own."""
    one = slice(row, row + 1)
    poses = Pose(condition.pose.joints[one]), Pose(condition.target_pose.joints[one])
    background = Background(condition.background.image[one], condition.background.hole[one])
    image, target_image = condition.image[one], condition.target_image[one]
    return Condition(image, *poses, target_image, condition.mask[one], background)


def _images() -> TrainingImages:
    numbers = np.random.default_rng(2)
    pixels = numbers.integers(0, 256, (4, HEIGHT, WIDTH, 3), dtype=np.uint8)
    joints = (numbers.random((4, 18, 2)) * (WIDTH, HEIGHT)).astype(np.float32)
    masks = [trivial.box(number)[::2, ::2] for number in range(4)]
    scenes = Scenes(
        np.ones(4, bool),
        np.stack([alpha_of(mask) for mask in masks]),
        np.stack(list(map(street, pixels, masks))),
        np.stack([hole_of(mask) for mask in masks]),
    )
    return TrainingImages(pixels, joints, ["a", "a", "b", "b"], scenes=scenes)


def _trainer(network: PoseTransfer) -> Trainer:
    settings = LoopSettings(precision="float32", channels_last=False)
    return Trainer(network, _images(), settings, torch.device("cpu"))


def _copy(state: dict[str, object]) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _assert_equal(left: Any, right: Any, where: str = "") -> None:
    if isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            _assert_equal(left[key], right[key], f"{where}/{key}")
    elif isinstance(left, list):
        for index, pair in enumerate(zip(left, right, strict=True)):
            _assert_equal(*pair, f"{where}/{index}")
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    else:
        assert left == right, where


@pytest.mark.parametrize("name", names())
def test_every_child_is_trained_by_some_phase(name) -> None:
    network = _narrow(name)
    reached = {
        key.split(".")[0]
        for stage in network.stages()
        for phase in stage.phases
        for key, _ in trained(network, phase)
    }
    assert reached == {key.split(".")[0] for key, _ in network.named_parameters()}
    assert set(network.sampling) <= reached


@pytest.mark.parametrize("name", TRAINED)
def test_losses_reach_what_a_phase_trains_and_move_nothing_else(name) -> None:
    network = _narrow(name, "vgg19-random")
    trainer = _trainer(network)
    plan = [stage for stage in network.stages() for _ in range(stage.steps)]
    before = {key: value.detach().clone() for key, value in network.named_parameters()}
    last = None
    for stage, terms in zip(plan, trainer.steps(), strict=True):
        assert all(math.isfinite(float(value)) for value in terms.values())
        after = {key: value.detach().clone() for key, value in network.named_parameters()}
        moved = {key for key in after if not torch.equal(before[key], after[key])}
        claimed = {phase.name: {k for k, _ in trained(network, phase)} for phase in stage.phases}
        assert moved <= set().union(*claimed.values())
        # The last step of a published schedule may have learning rate 0.
        assert stage is last or all(keys & moved for keys in claimed.values())
        before, last = after, stage


@pytest.mark.parametrize("name", TRAINED)
def test_a_training_stopped_after_any_step_goes_on_bit_for_bit(name) -> None:
    straight = _trainer(_narrow(name))
    states = [_copy(straight.state()) for _ in straight.steps()]
    assert len(states) == straight.num_steps
    for state in states[:-1]:
        resumed = _trainer(_narrow(name))
        resumed.restore(state)
        for _ in resumed.steps():
            pass
        _assert_equal(_copy(resumed.state()), states[-1])


@pytest.mark.parametrize("name", names())
def test_weights_saved_and_loaded_make_the_same_image(name, tmp_path) -> None:
    network = _narrow(name).eval()
    loaded = store.load(_saved(network, name, tmp_path / "w.safetensors"))
    with torch.no_grad():
        assert torch.equal(generated(loaded, _condition(1)), generated(network, _condition(1)))


@pytest.mark.parametrize("name", names())
def test_an_image_does_not_depend_on_its_batch(name) -> None:
    network = _narrow(name).eval()
    many = _condition(3)
    with torch.no_grad():
        together = generated(network, many)
        for row in range(3):
            alone = generated(network, _row(many, row), first_seed=row)
            assert (alone[0] - together[row]).abs().max() < BATCH_NOISE


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", names())
def test_the_tuned_network_makes_the_same_image(name, precision) -> None:
    network = _narrow(name).eval()
    condition = _condition(2)
    with torch.no_grad():
        expected = generated(network, condition)
    tuned = prepare_for_sampling(network, precision)
    with sampling_mode(torch.device("cpu"), precision):
        image = generated(tuned, condition)
    noise = BATCH_NOISE if precision == "float32" else BF16_NOISE
    assert (image.float() - expected).abs().max() < noise * expected.abs().max()


@pytest.mark.parametrize("name", names())
def test_images_have_the_sources_size_and_lie_in_minus_one_to_one(name) -> None:
    network = _narrow(name).eval()
    with torch.no_grad():
        image = generated(network, _condition(2))
    assert image.shape == (2, 3, HEIGHT, WIDTH)
    assert image.dtype == torch.float32
    assert image.abs().max() <= 1 + 1e-6


@pytest.mark.parametrize("name", [name for name in names() if not system(name).keeps_pose])
def test_the_target_pose_changes_the_image(name) -> None:
    network = _narrow(name).eval()
    condition = _condition(1)
    with torch.no_grad():
        there = generated(network, condition)
        here = generated(network, replace(condition, target_pose=condition.pose))
    assert not torch.equal(there, here)


@pytest.mark.parametrize("name", sorted(set(names()) & set(PUBLISHED_PARAMETERS)))
def test_the_published_numbers_of_parameters(name) -> None:
    with torch.device("meta"):
        network = system(name)()
    for child, expected in PUBLISHED_PARAMETERS[name].items():
        children = network.sampling if child == "sampling" else (child,)
        found = sum(
            parameter.numel()
            for part in children
            for parameter in network.get_submodule(part).parameters()
        )
        assert found == expected, child


def _by_hand(
    network: PoseTransfer, people: Images, source: str, pose: str, seed: int
) -> np.ndarray:
    """Return one image of ``transfer``, as integers that can be subtracted."""
    rows = {image_id: row for row, image_id in enumerate(people.strings("image_id"))}
    joints = people.keypoints()
    image, target_image = (pixels.read(people.file(rows[name])) for name in (source, pose))
    made = network.transfer(
        image,
        joints[rows[source]],
        joints[rows[pose]],
        target_image=target_image,
        mask=mask_of(people, rows[source], (64, 128)),
        target_mask=mask_of(people, rows[pose], (64, 128)),
        seed=seed,
    )
    return made.astype(int)


@pytest.mark.parametrize("name", names())
def test_generate_preview_and_evaluate_show_what_transfer_makes(name, tmp_path) -> None:
    network = _narrow(name, image_height=128, image_width=64).eval()
    for parameter in network.parameters():
        if parameter.ndim > 1:  # the published first weights give images of one grey
            torch.nn.init.kaiming_normal_(parameter)
    weights = _saved(network, name, tmp_path / "w.safetensors")
    table = trivial.write_people(
        tmp_path / "people", num_people=2, images_per_person=2, masked=True
    )
    people, quiet = read_images(table), Console(quiet=True)

    settings = trivial.job_settings(
        table, tmp_path / "out", weights=str(weights), per_id=1, image_format="png"
    )
    assert generate(settings, quiet) == Exit.DONE
    made = read_synthetic(tmp_path / "out").without_errors()
    assert made.strings("generator") == [name, name]
    table_columns = made.table.to_pydict()
    if "background" in network.needs:
        table_columns["pose_id"] = table_columns["background_id"]
    columns = (table_columns[column] for column in ("source_id", "pose_id", "seed"))
    for source, pose, seed, data in zip(*columns, made.read_bytes(np.arange(2)), strict=True):
        expected = _by_hand(network, people, source, pose, seed)
        assert expected.std() > 20
        assert abs(pixels.decode(data, source) - expected).max() <= ONE_LEVEL

    sheet = PreviewSettings(run=tmp_path / "out", out=tmp_path / "sheet.png")
    assert preview(sheet, quiet) == Exit.DONE
    with Image.open(tmp_path / "sheet.png") as drawn:
        assert drawn.format == "PNG"

    ids = people.strings("image_id")
    pairs = [(ids[0], ids[1]), (ids[3], ids[2])]
    (tmp_path / "pairs.csv").write_text("".join(f"{a},{b}\n" for a, b in [("from", "to"), *pairs]))
    protocol = EvaluationProtocol(pairs=tmp_path / "pairs.csv", split="train")
    settings = EvaluateSettings(
        images=table,
        weights=(str(weights),),
        device="cpu",
        out=tmp_path / "e.json",
        protocol=protocol,
    )
    assert evaluate(settings, quiet) == Exit.DONE
    result = json.loads((tmp_path / "e.json").read_text())
    assert result["num_pairs"] == 2
    scores = {(row["name"], row["family"]): row["value"] for row in result["scores"]}
    targets = {row: pixels.read(people.file(row)).astype(int) for row in (1, 2)}
    distances = [
        abs(_by_hand(network, people, *pair, seed=number) - targets[row]).mean()
        for number, (pair, row) in enumerate(zip(pairs, (1, 2), strict=True))
    ]
    assert abs(scores["L1", "raw"] * 127.5 - np.mean(distances)) < ONE_LEVEL / 100
