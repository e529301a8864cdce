"""DPIG is the authors' networks: taken apart, put together, drawn from noise."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from augment.cli import PROGRAM
from augment.generators.dpig import FACTORS, Dpig, pose_of, pose_vector
from augment.interface.condition import Condition, Pair
from augment.interface.randomness import RowRandom
from augment.nets.warping import crop_and_resize
from augment.pose.maps import discs, limb_discs
from augment.pose.part_boxes import part_boxes
from augment.pose.pose import Pose
from augment.training.loop import LoopSettings, Trainer
from manifests import pixels
from manifests.io import read_images, write_images
from manifests.runtime.console import Exit
from manifests.synthetic import read_synthetic
from tests.helpers import tensorflow_golden as golden
from tests.helpers import trivial
from tests.helpers.sampling import generated
from tests.helpers.training import made_up_images

PARITY = 1e-4
"""Largest difference: float32 through some 60 layers in another order."""

SMALL = {
    "base_width": 4,
    "code_width": 8,
    "part_size": 16,
    "hidden_width": 16,
    "discriminator_width": 4,
}

ARRAYS = {"foreground": "fg", "background": "bg", "pose": "pose"}
"""How the authors' arrays call the factors."""


def _narrow(**other: float) -> Dpig:
    torch.manual_seed(0)
    return Dpig(Dpig.Config(**(SMALL | other)))


def _pair() -> Pair:
    return golden.pair(golden.arrays("dpig")["source_keypoints"])


def _assert_near(found: Tensor, name: str) -> None:
    expected = golden.arrays("dpig")[name]
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < PARITY


@pytest.fixture(scope="module")
def network() -> Dpig:
    return golden.filled("dpig", Dpig)


@pytest.fixture(scope="module")
def computed(network: Dpig) -> dict[str, Tensor]:
    """Return what the trained networks make of the inputs, under the authors' arrays' names."""
    given, condition = golden.arrays("dpig"), _pair().condition
    inputs = {
        "fc_input_fg": golden.Recorder(network.encoder.part_code),
        "fc_input_bg": golden.Recorder(network.encoder.background_code),
    }
    with torch.no_grad():
        foreground, background = network.encode(condition.image, condition.pose)
        reconstruction = network.draw(foreground, background, condition.pose)
        code = network.pose_autoencoder["encoder"](given["pose_vector"])
        real = {"foreground": foreground, "background": background, "pose": code}
        drawn = {
            factor: network.code_from(factor, given[f"noise_{name}"] / 0.2)
            for factor, name in ARRAYS.items()
        }
        scores = {
            f"discriminator_{name}": network.code_discriminators[factor](
                torch.cat([real[factor], drawn[factor]])
            )
            for factor, name in ARRAYS.items()
        }
        return {
            "fc_input_fg": inputs["fc_input_fg"].input[0],
            "fc_input_bg": inputs["fc_input_bg"].input[0],
            "embedding": torch.cat([foreground, background], dim=1),
            "reconstruction": reconstruction,
            "output": network.draw(foreground, background, condition.target_pose),
            "logits_real": network.discriminator(condition.image),
            "logits_fake": network.discriminator(reconstruction),
            "pose_code": code,
            "pose_decoded": network.pose_autoencoder["decoder"](code),
            "mapped_pose_decoded": network.pose_autoencoder["decoder"](drawn["pose"]),
            **{f"mapped_{name}": drawn[factor] for factor, name in ARRAYS.items()},
            **scores,
        }


def test_maps_mask_and_boxes_are_the_authors():
    pair, expected = _pair(), golden.arrays("dpig")
    pose = pair.condition.pose
    assert torch.equal(discs(pose, 128, 64), expected["source_pose"].float())
    target_maps = discs(pair.condition.target_pose, 128, 64)
    assert torch.equal(target_maps, expected["target_pose"].float())
    assert torch.equal(limb_discs(pose, 128, 64, 7), expected["source_mask"].float())
    boxes, seen = part_boxes(pose, 128, 64)
    assert torch.equal(boxes[..., [1, 0, 3, 2]], expected["boxes"].float())
    assert torch.equal(seen, expected["visibility"].bool())
    assert not seen[1, 3]  # the left arm of the second person


def test_parts_are_cut_out_as_the_authors_cut_them():
    expected = golden.arrays("dpig")
    boxes = expected["boxes"][1:, [1, 3, 5]][..., [1, 0, 3, 2]].float()
    _assert_near(crop_and_resize(expected["roi_input"][None], boxes, 48)[0], "rois")


@pytest.mark.parametrize(
    "name",
    [
        *("fc_input_fg", "fc_input_bg", "embedding", "reconstruction", "output"),
        *("logits_real", "logits_fake", "pose_code", "pose_decoded", "mapped_pose_decoded"),
        *(f"mapped_{name}" for name in ARRAYS.values()),
        *(f"discriminator_{name}" for name in ARRAYS.values()),
    ],
)
def test_it_computes_what_the_authors_networks_compute(computed, name):
    _assert_near(computed[name], name)


def test_a_pose_becomes_the_authors_vector_and_their_decoded_pose_becomes_their_maps():
    expected, pose = golden.arrays("dpig"), _pair().condition.pose
    assert torch.allclose(pose_vector(pose, 128, 64), expected["pose_vector"], atol=1e-6)
    maps = discs(pose_of(expected["mapped_pose_decoded"], 128, 64), 128, 64)
    assert torch.equal(maps, expected["mapped_pose_maps"].float())


@torch.no_grad()
def test_losses_are_the_authors(network, computed):
    given = golden.arrays("dpig")
    codes = {
        "real_foreground": given["embedding"][:, :224],
        "real_background": given["embedding"][:, 224:],
        "real_pose": given["pose_code"],
        **{f"drawn_{factor}": given[f"mapped_{name}"] for factor, name in ARRAYS.items()},
    }
    poses = {"vector": given["pose_vector"], "decoded": given["pose_decoded"].flatten(1)}
    phases = {
        "generator": ("stage1", {"fake": computed["reconstruction"]}),
        "discriminator": ("discriminator", {"fake": computed["reconstruction"]}),
        "poses": ("pose_autoencoder", poses),
        **{f"{factor}_mapper": (f"mapper_{name}", codes) for factor, name in ARRAYS.items()},
        **{
            f"{factor}_discriminator": (f"discriminator_{name}", codes)
            for factor, name in ARRAYS.items()
        },
    }
    for phase, (loss, outputs) in phases.items():
        found = float(sum(network.losses(phase, _pair(), outputs).values()))
        assert found == pytest.approx(golden.card("dpig")["losses"][loss], rel=1e-4), phase


def test_without_noise_it_is_pose_transfer_and_draws_no_random_number(network):
    class Untouched(RowRandom):
        def normal(self, *shape: int) -> Tensor:
            raise AssertionError(f"drew {shape}")

    random = Untouched(np.zeros(2, np.uint64), "cpu")
    with torch.no_grad():
        image = network.generate(_pair().condition, random, Dpig.Options())
    expected = golden.arrays("dpig")["output"].clamp(-1, 1)
    assert (image - expected).abs().max() < PARITY


@pytest.mark.parametrize("factor", FACTORS)
@torch.no_grad()
def test_a_drawn_factor_leaves_the_others_as_they_are(factor):
    network, condition = _narrow().eval(), _pair().condition
    foreground, background = network.encode(condition.image, condition.pose)
    factors = {"foreground": foreground, "background": background, "pose": condition.target_pose}
    random = RowRandom.numbered(2, "cpu")
    noise = {
        name: random.normal(width)
        for name, width in {"foreground": 224, "background": 128, "pose": 32}.items()
    }
    drawn = network.mappers[factor](0.2 * noise[factor])
    if factor == "pose":
        drawn = pose_of(network.pose_autoencoder["decoder"](drawn), 128, 64)
    expected = network.draw(*(factors | {factor: drawn}).values()).clamp(-1, 1)
    options = Dpig.Options(**{f"sample_{factor}": True})
    found = network.generate(condition, RowRandom.numbered(2, "cpu"), options)
    assert torch.equal(found, expected)
    assert not torch.equal(found, generated(network, condition))


@torch.no_grad()
def test_a_source_without_any_joint_has_an_empty_foreground_and_an_image():
    network, condition = _narrow().eval(), _pair().condition
    unseen = dataclasses.replace(condition, pose=Pose(torch.full((2, 18, 2), torch.nan)))
    foreground, background = network.encode(unseen.image, unseen.pose)
    assert not foreground.any()
    assert background.any()
    assert generated(network, unseen).isfinite().all()


@torch.no_grad()
def test_a_part_that_is_not_seen_has_zeros_though_its_layer_has_a_bias():
    network = _narrow().eval()
    torch.nn.init.ones_(network.encoder.part_code.bias)
    joints = torch.full((1, 18, 2), torch.nan)
    joints[0, [8, 9]] = torch.tensor([[20.0, 70.0], [22.0, 90.0]])  # right hip and knee
    foreground, _ = network.encode(_pair().condition.image[:1], Pose(joints))
    parts = foreground.unflatten(1, (7, 32)).abs().amax(dim=2)[0] > 0
    # The hip belongs to the upper body too.
    assert parts.tolist() == [False, True, True, False, False, False, True]


def test_the_published_recipe():
    images, poses, appearance, pose_codes = _narrow().stages()
    sizes = [(stage.steps, stage.batch_size) for stage in (images, poses, appearance, pose_codes)]
    assert sizes == [(120_000, 16), (60_000, 64), (120_000, 32), (60_000, 64)]
    assert [phase.trains for phase in images.phases] == [
        ("discriminator",),
        ("encoder", "generator"),
    ]
    order = [(phase.name, phase.repeat) for phase in (*appearance.phases, *pose_codes.phases)]
    assert order == [
        ("foreground_discriminator", 5),
        ("foreground_mapper", 1),
        ("background_discriminator", 5),
        ("background_mapper", 1),
        ("pose_discriminator", 5),
        ("pose_mapper", 1),
    ]
    for stage in (images, poses, appearance, pose_codes):
        for phase in stage.phases:
            discriminates = phase.name.endswith("discriminator")
            assert phase.batch == ("fresh" if discriminates else "shared")
            of_codes = stage in (appearance, pose_codes)
            assert phase.clamp == (0.01 if of_codes and discriminates else None)
            assert type(phase.optimizer).__name__ == ("RMSProp" if of_codes else "Adam")
            assert phase.optimizer.learning_rate == 2e-5
            factors = [phase.schedule.factor(step) for step in (0, 49_999, 50_000, 100_000)]
            assert factors == [1, 1, 0.5, 0.25]


def test_the_stages_of_codes_move_mappers_and_their_clipped_discriminators_alone():
    network = _narrow(
        steps=1, pose_steps=1, mapper_steps=1, batch_size=2, pose_batch_size=2, mapper_batch_size=2
    )
    run = Trainer(network, made_up_images(), LoopSettings(), torch.device("cpu"))
    before: dict[str, Tensor] = {}
    moved: list[set[str]] = []
    drawn: list[int] = []
    draw = run.images.draw
    run.images.draw = lambda *arguments: drawn.append(arguments[3]) or draw(*arguments)
    for _ in run.steps():
        after = {name: value.detach().clone() for name, value in network.named_parameters()}
        moved.append(
            {
                ".".join(name.split(".")[: 1 + name.startswith(("mappers", "code_"))])
                for name, value in after.items()
                if name in before and not torch.equal(value, before[name])
            }
        )
        before = after
    assert moved[1:] == [
        {"pose_autoencoder"},
        {
            f"{kind}.{factor}"
            for kind in ("mappers", "code_discriminators")
            for factor in FACTORS[:2]
        },
        {"mappers.pose", "code_discriminators.pose"},
    ]
    # Each of ten updates of two discriminators has a batch of its own.
    assert drawn == [0, 1, 0, *range(11), *range(6)]
    for value in network.code_discriminators.parameters():
        assert value.abs().max() <= 0.01


@torch.no_grad()
def test_rounded_visibility_hands_its_gradient_on():
    decoder = _narrow().pose_autoencoder["decoder"]
    with torch.enable_grad():
        code = torch.randn(3, 32, requires_grad=True)
        visibility = decoder(code)[..., 2]
        (gradient,) = torch.autograd.grad(visibility.sum(), code)
    assert set(visibility.unique().tolist()) <= {0.0, 1.0}
    with torch.enable_grad():
        soft = torch.sigmoid(decoder.visibility(decoder.trunk(code)))
        (expected,) = torch.autograd.grad(soft.sum(), code)
    assert torch.allclose(gradient, expected)
    assert F.l1_loss(visibility, soft) < 0.5


def test_an_image_of_a_batch_of_conditions_has_the_networks_size():
    network, condition = _narrow(image_height=64, image_width=32).eval(), _pair().condition
    smaller = Condition(condition.image[..., :64, :32], condition.pose, condition.target_pose)
    with torch.no_grad():
        assert generated(network, smaller).shape == (2, 3, 64, 32)


def _augment(command: str, *arguments: object) -> None:
    assert PROGRAM.run([command, *map(str, arguments), "--quiet", "--device", "cpu"]) == Exit.DONE


def _generated(table: Path, weights: Path, out: Path, *options: str) -> dict[str, np.ndarray]:
    """Return the images of a run by source and pose."""
    command = ["--images", table, "--weights", weights, "--out", out, "--per-id", 2]
    _augment("generate", *command, "--image-format", "png", *options)
    made = read_synthetic(out)
    assert made.table["error"].null_count == len(made)
    keys = map("".join, zip(made.strings("source_id"), made.strings("pose_id"), strict=True))
    images = [pixels.decode(data, "row") for data in made.read_bytes(np.arange(len(made)))]
    return dict(zip(keys, images, strict=True))


def test_from_the_command_line_it_trains_all_stages_and_draws_what_options_ask_for(tmp_path):
    table = trivial.write_people(tmp_path / "people", num_people=3, images_per_person=2)
    changes = {
        **SMALL,
        **{f"{name}steps": 1 for name in ("", "pose_", "mapper_")},
        **{f"{name}batch_size": 2 for name in ("", "pose_", "mapper_")},
    }
    flags = [
        word
        for name, value in changes.items()
        for word in (f"--config.{name.replace('_', '-')}", value)
    ]
    run = ["--generator", "dpig", "--images", table, "--out", tmp_path / "run"]
    _augment("train", *run, *flags)
    lines = (tmp_path / "run/log.jsonl").read_text()
    assert '"pose_mapper/drawn"' in lines

    # Nobody knows where the first person's joints are.
    images = read_images(table)
    joints = images.keypoints()
    joints[: len(joints) // 3] = np.nan
    unseen = trivial.table_of(images.table.to_pylist(), joints, images.root)
    write_images(unseen, tmp_path / "people/unseen.parquet")

    weights = tmp_path / "run/weights.safetensors"
    given = tmp_path / "people/unseen.parquet"
    plain = _generated(given, weights, tmp_path / "plain")
    assert len(plain) == 6
    drawn = _generated(given, weights, tmp_path / "drawn", "--options.sample-background")
    assert plain.keys() == drawn.keys()
    assert all(not np.array_equal(plain[row], drawn[row]) for row in plain)


def test_new_people_are_one_foreground_before_backgrounds_of_their_own():
    network = _narrow()
    pose = Pose(_pair().condition.target_pose.joints[:1].expand(3, -1, -1))

    def drawn(who, images):
        seeds = (np.array(values, np.uint64) for values in (who, images))
        with torch.no_grad():
            return network.new_people(*(RowRandom(some, "cpu") for some in seeds), pose)

    first, second, third = drawn([7, 7, 8], [1, 2, 1])
    assert first.shape == (3, 128, 64)
    assert not torch.equal(first, second)
    assert not torch.equal(first, third)
    assert torch.equal(drawn([9, 7, 8], [5, 2, 2])[1], second)
    codes = {factor: [] for factor in ("foreground", "background")}
    for factor, kept in codes.items():
        network.mappers[factor].register_forward_hook(
            lambda _, given, code, kept=kept: kept.append(code)
        )
    drawn([7, 7, 8], [1, 2, 1])
    (people,), (behind,) = codes["foreground"], codes["background"]
    assert torch.allclose(people[0], people[1])
    assert not torch.allclose(people[0], people[2])
    assert torch.allclose(behind[0], behind[2])
    assert not torch.allclose(behind[0], behind[1])
