"""PG2 is the authors' network, and is trained in their two stages."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from augment.generators.pg2 import Pg2, reconstruction
from augment.interface.condition import Condition, Pair
from augment.pose.maps import discs, limb_discs
from augment.pose.pose import Pose
from augment.training.loop import LoopSettings, Trainer
from tests.helpers import tensorflow_golden as golden
from tests.helpers.sampling import generated
from tests.helpers.training import made_up_images

PARITY = 1e-4
"""Largest difference about [-1, 1]: float32 through some 40 convolutions in another order."""

SMALL = {"base_width": 8, "code_width": 8, "discriminator_width": 4}


def _narrow(**other: int) -> Pg2:
    torch.manual_seed(0)
    return Pg2(Pg2.Config(**(SMALL | other)))


@pytest.fixture(scope="module")
def network() -> Pg2:
    return golden.filled("pg2", Pg2)


@pytest.fixture(scope="module")
def outputs(network: Pg2) -> dict:
    """Return what both stages compute, and what the coarse generator passes on the way."""
    layers = {
        "down1": golden.Recorder(network.coarse.encoder.down[0]),
        "code": golden.Recorder(network.coarse.to_code),
        "spread": golden.Recorder(network.coarse.from_code),
    }
    with torch.no_grad():
        coarse = network.run(golden.pair(), "coarse")
        both = network.run(golden.pair(), "difference")
    return {
        "coarse stage": coarse,
        "difference stage": both,
        "down1": layers["down1"].output[0, :8],
        "fc_input": layers["code"].input[0],
        "code": layers["code"].output,
        "fc_output": layers["spread"].output[0],
        "coarse": coarse["coarse"],
        "output": both["fake"],
    }


def test_maps_and_mask_are_the_authors_pixel_by_pixel():
    pose = golden.pair().condition.target_pose
    expected = golden.arrays("pg2")
    assert torch.equal(discs(pose, 128, 64), expected["target_pose"].float())
    assert torch.equal(limb_discs(pose, 128, 64, 4), expected["target_mask"].float())


@pytest.mark.parametrize("name", ["down1", "fc_input", "code", "fc_output", "coarse", "output"])
def test_it_computes_what_the_authors_network_computes(outputs, name):
    expected = golden.arrays("pg2")[name]
    assert outputs[name].shape == expected.shape
    assert (outputs[name] - expected).abs().max() < PARITY


def test_the_discriminator_sees_four_images_in_one_batch_as_the_authors_does(network, outputs):
    pair = golden.pair()
    seen = [pair.target, pair.condition.image, outputs["coarse"], outputs["output"]]
    with torch.no_grad():
        logits = network.discriminator(torch.cat(seen))
    assert (logits - golden.arrays("pg2")["logits"]).abs().max() < PARITY


@pytest.mark.parametrize(
    ("phase", "stage", "loss"),
    [
        ("coarse", "coarse", "stage1"),
        ("difference", "difference", "stage2"),
        ("discriminator", "difference", "discriminator"),
    ],
)
@torch.no_grad()
def test_losses_are_the_authors(network, outputs, phase, stage, loss):
    terms = network.losses(phase, golden.pair(), outputs[f"{stage} stage"])
    expected = golden.card("pg2")["losses"][loss]
    assert float(sum(terms.values())) == pytest.approx(expected, rel=1e-4)


def test_a_generated_image_is_theirs_cut_to_the_range_of_colours(network):
    with torch.no_grad():
        image = generated(network, golden.pair().condition)
    expected = golden.arrays("pg2")["output"]
    assert expected.abs().max() > 2
    assert (image - expected.clamp(-1, 1)).abs().max() < PARITY


def test_the_pose_of_the_source_plays_no_part():
    network, condition = _narrow().eval(), golden.pair().condition
    unseen = Condition(
        condition.image, Pose(torch.full((2, 18, 2), torch.nan)), condition.target_pose
    )
    with torch.no_grad():
        assert torch.equal(generated(network, condition), generated(network, unseen))


def test_the_published_recipe():
    coarse, difference = Pg2(Pg2.Config(**SMALL)).stages()
    assert (coarse.steps, difference.steps) == (22_000, 38_000)
    assert coarse.batch_size == difference.batch_size == 16
    assert [phase.trains for phase in coarse.phases] == [("coarse",)]
    assert [phase.trains for phase in difference.phases] == [("difference",), ("discriminator",)]
    assert [phase.batch for phase in difference.phases] == ["shared", "fresh"]
    for phase in (*coarse.phases, *difference.phases):
        assert (phase.optimizer.learning_rate, phase.optimizer.beta1) == (2e-5, 0.5)
        assert phase.schedule.factor(37_999) == 1


def test_the_second_stage_gives_the_discriminator_pairs_of_its_own():
    network = _narrow(warmup_steps=0, steps=1, batch_size=2)
    seen: dict[str, Pair] = {}
    losses = network.losses

    def watched(phase: str, pair: Pair, outputs: dict) -> dict:
        seen[phase] = pair
        return losses(phase, pair, outputs)

    network.losses = watched
    next(Trainer(network, made_up_images(), LoopSettings(), torch.device("cpu")).steps())
    first, second = seen["difference"], seen["discriminator"]
    assert not torch.equal(first.target, second.target)


def test_the_distance_counts_twice_where_the_body_is():
    image, target = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    target[..., 0, 0], target[..., 1, 1] = 0.4, 0.8
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    terms = reconstruction(image, target, mask)
    assert float(terms["l1"]) == pytest.approx((0.4 + 0.8) / 4)
    assert float(terms["l1_of_body"]) == pytest.approx(0.4 / 4)


@pytest.mark.parametrize("size", [0, 24, 120])
def test_a_size_that_the_scales_cannot_halve_is_refused(size):
    with pytest.raises(ValidationError, match="image_height"):
        Pg2.Config(image_height=size)
