"""GFLA's recipe and its two stages."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from augment.generators.gfla import Gfla
from augment.interface.condition import Condition, Pair
from augment.nets.attention import LocalAttention
from augment.nets.warping import extract_blocks, unfold_weights
from augment.objectives.features import FeatureMaps, load_features
from augment.objectives.flow import bending, correctness
from augment.objectives.style import CONTENT_LAYERS, STYLE_LAYERS, content, style
from augment.pose.jitter import GREY
from augment.pose.pose import Pose
from augment.training.loop import trained
from manifests.runtime.console import UserError
from tests.helpers.sampling import generated

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


def _run(network: Gfla, stage: str) -> dict[str, Tensor]:
    """Return outputs with a flow that goes somewhere, which an untrained one does not."""
    outputs = dict(network.run(_pair(), stage))
    numbers = torch.Generator().manual_seed(3)
    return {**outputs, "flow": 3 * torch.randn(outputs["flow"].shape, generator=numbers)}


def _features(*layers: str) -> FeatureMaps:
    """Return features that see images in [-1, 1] as they are."""
    features = load_features("vgg19-random", layers, imagenet_normalised=False)
    assert features is not None
    return features


def _assert_terms(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert abs(found[name] - value) < FLOAT_NOISE * abs(value), name


@torch.no_grad()
def test_the_first_stages_terms_follow_the_published_weights() -> None:
    network = _narrow()
    outputs = _run(network, "flow")
    features = [_features("relu3_1")(outputs[side])["relu3_1"] for side in ("source", "target")]
    expected = {
        "correctness": 20 * correctness(*features, outputs["flow"]),
        "bending": 0.01 * bending(outputs["flow"], 3),
    }
    _assert_terms(network.losses("flow", _pair(), outputs), expected)
    assert "fake" not in outputs


@torch.no_grad()
def test_the_second_stages_terms_follow_the_published_weights() -> None:
    network = _narrow().eval()
    outputs = _run(network, "transfer")
    source, target, fake, flow = (outputs[name] for name in ("source", "target", "fake", "flow"))
    features = _features("relu3_1", *CONTENT_LAYERS, *STYLE_LAYERS)
    of_source, of_target, of_fake = (features(image) for image in (source, target, fake))
    scored, real = network.discriminator(fake), network.discriminator(target)
    expected = {
        "l1": 5 * F.l1_loss(fake, target),
        "style": 500 * style(of_fake, of_target),
        "content": 0.5 * content(of_fake, of_target),
        "fool": 2 * ((scored - 1) ** 2).mean(),
        "correctness": 5 * correctness(of_source["relu3_1"], of_target["relu3_1"], flow),
        "bending": 0.0025 * bending(flow, 3),
    }
    _assert_terms(network.losses("generator", _pair(), outputs), expected)
    expected = {"discriminator": 0.5 * (((real - 1) ** 2).mean() + (scored**2).mean())}
    _assert_terms(network.losses("discriminator", _pair(), outputs), expected)


def test_training_moves_source_and_target_apart_and_generation_moves_nothing() -> None:
    network, pair = _narrow("none").eval(), _pair()
    torch.manual_seed(1)
    with torch.no_grad():
        first = network.run(pair, "flow")
        again = network.run(pair, "flow")
        assert not torch.equal(first["source"], again["source"])
        assert not torch.equal(first["target"], again["target"])
        image = generated(network, pair.condition)
        assert torch.equal(image, generated(network, pair.condition))
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
        similarity = attention.compare(torch.cat(blocks, dim=1))
        weights = unfold_weights(torch.softmax(attention.weigh(similarity), dim=1), 3)
        expected = F.avg_pool2d(weights * blocks[1], 3)
        assert (attention(source, target, flow) - expected).abs().max() < FLOAT_NOISE


def test_without_a_feature_network_it_generates_but_is_not_trained() -> None:
    network = _narrow("none").eval()
    with torch.no_grad():
        assert generated(network, _pair().condition).shape == (1, 3, 64, 32)
    with pytest.raises(UserError, match="vgg19"):
        network.stages()


def test_reduced_precision_leaves_the_flow_in_float32() -> None:
    network = _narrow("none").eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        outputs = network.run(_pair(), "transfer")
    assert {name: value.dtype for name, value in outputs.items()} == dict.fromkeys(
        outputs, torch.float32
    )
