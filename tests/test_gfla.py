"""GFLA's recipe and its two stages."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from augment.generators.gfla import Gfla
from augment.losses.flow import bending, correctness
from augment.nets.attention import LocalAttention
from augment.nets.warping import extract_blocks, unfold_weights
from augment.pose.jitter import GREY
from augment.pose.pose import Pose
from augment.training.loop import trained
from augment.transfer import Condition, Pair
from manifests.console import UserError

FLOAT_NOISE = 1e-5


def _pair() -> Pair:
    numbers = torch.Generator().manual_seed(0)
    images = 2 * torch.rand(2, 1, 3, 64, 32, generator=numbers) - 1
    poses = [Pose(32 * torch.rand(1, 18, 2, generator=numbers)) for _ in range(2)]
    return Pair(Condition(images[0], *poses), images[1])


def _narrow(features: str = "vgg19-random") -> Gfla:
    torch.manual_seed(0)
    return Gfla(Gfla.Config(base_width=8, flow_width=4, discriminator_width=4, features=features))


def test_the_published_recipe() -> None:
    flow, transfer = _narrow().stages()
    assert [phase.name for phase in flow.phases] == ["flow"]
    assert [phase.name for phase in transfer.phases] == ["discriminator", "generator"]
    rates = [phase.optimizer.learning_rate for phase in (*flow.phases, *transfer.phases)]
    assert rates == [1e-4, 1e-5, 1e-4]
    for phase in (*flow.phases, *transfer.phases):
        assert (phase.optimizer.beta1, phase.optimizer.beta2) == (0.0, 0.999)
    assert flow.batch_size == transfer.batch_size == 8


def test_the_first_stage_trains_the_flow_and_not_its_mask() -> None:
    network = _narrow()
    (phase,) = network.stages()[0].phases
    names = [name for name, _ in trained(network, phase)]
    assert "flow_net.flow.weight" in names
    assert not [name for name in names if not name.startswith("flow_net.") or ".mask." in name]


def test_the_first_stages_terms_follow_the_published_weights() -> None:
    network = _narrow()
    with torch.no_grad():
        outputs = network.run(_pair(), "flow")
        terms = network.losses("flow", _pair(), outputs)
        assert network.flow_features is not None
        left, right = (network.flow_features(outputs[k])["relu3_1"] for k in ("source", "target"))
        expected = 20 * correctness(left, right, outputs["flow"])
        assert abs(terms["correctness"] - expected) < FLOAT_NOISE
        expected = 0.01 * bending(outputs["flow"], 3)
        assert abs(terms["bending"] - expected) < FLOAT_NOISE
    assert terms.keys() == {"correctness", "bending"}
    assert "fake" not in outputs


def test_the_second_stages_weights_are_the_published_ones() -> None:
    config = Gfla.Config()
    assert (config.weight_l1, config.weight_correctness, config.weight_bending) == (5, 5, 0.0025)
    assert (config.weight_adversarial, config.weight_style, config.weight_content) == (2, 500, 0.5)


def test_training_moves_source_and_target_apart_and_generation_moves_nothing() -> None:
    network, pair = _narrow("none").eval(), _pair()
    torch.manual_seed(1)
    with torch.no_grad():
        first = network.run(pair, "flow")
        again = network.run(pair, "flow")
        assert not torch.equal(first["source"], again["source"])
        assert not torch.equal(first["target"], again["target"])
        image = network.generate(pair.condition)
        assert torch.equal(image, network.generate(pair.condition))
    assert (first["source"] - GREY).abs().amax(1).min() < FLOAT_NOISE


def test_the_attention_equals_the_published_one_written_out() -> None:
    torch.manual_seed(2)
    attention = LocalAttention(6, 3)
    source, target = torch.randn(2, 2, 6, 5, 4)
    flow = 2 * torch.randn(2, 2, 5, 4)
    with torch.no_grad():
        blocks = [
            extract_blocks(target, torch.zeros_like(flow), 3),
            extract_blocks(source, flow, 3),
        ]
        likeness = attention.compare(torch.cat(blocks, dim=1))
        weights = unfold_weights(torch.softmax(attention.weigh(likeness), dim=1), 3)
        expected = F.avg_pool2d(weights * blocks[1], 3)
        assert (attention(source, target, flow) - expected).abs().max() < FLOAT_NOISE


def test_without_a_feature_network_it_generates_but_is_not_trained() -> None:
    network = _narrow("none").eval()
    with torch.no_grad():
        assert network.generate(_pair().condition).shape == (1, 3, 64, 32)
    with pytest.raises(UserError, match="vgg19"):
        network.stages()


def test_reduced_precision_leaves_the_flow_in_float32() -> None:
    network = _narrow("none").eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        outputs = network.run(_pair(), "transfer")
    assert {name: value.dtype for name, value in outputs.items()} == dict.fromkeys(
        outputs, torch.float32
    )
