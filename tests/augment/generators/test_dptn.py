"""DPTN's recipe."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from augment.generators.dptn import Dptn
from augment.interface.condition import Condition, Pair
from augment.nets.tokens import Attention
from augment.objectives.features import load_features
from augment.objectives.style import CONTENT_LAYERS, STYLE_LAYERS, content, style
from augment.pose.pose import Pose
from tests.helpers.sampling import generated

FLOAT_NOISE = 1e-5


def _pair() -> Pair:
    numbers = torch.Generator().manual_seed(0)
    images = 2 * torch.rand(2, 1, 3, 64, 32, generator=numbers) - 1
    poses = [Pose(64 * torch.rand(1, 18, 2, generator=numbers)) for _ in range(2)]
    return Pair(Condition(images[0], *poses), images[1])


def _narrow(features: str = "none") -> Dptn:
    torch.manual_seed(0)
    return Dptn(Dptn.Config(base_width=8, discriminator_width=4, features=features))


def test_the_published_recipe() -> None:
    (stage,) = Dptn(Dptn.Config(base_width=8, discriminator_width=4)).stages()
    assert stage.steps * stage.batch_size == 811_200
    assert [phase.name for phase in stage.phases] == ["discriminator", "generator"]
    assert [phase.optimizer.learning_rate for phase in stage.phases] == [2e-5, 2e-4]
    for phase in stage.phases:
        assert (phase.optimizer.beta1, phase.optimizer.beta2) == (0.5, 0.999)
        assert phase.schedule.factor(stage.steps) == 1.0


def test_the_generators_terms_follow_the_published_weights() -> None:
    network, pair = _narrow("vgg19-random"), _pair()
    features = load_features(
        "vgg19-random", CONTENT_LAYERS + STYLE_LAYERS, imagenet_normalised=False
    )
    with torch.no_grad():
        outputs = network.run(pair, "transfer")
        terms = network.eval().losses("generator", pair, outputs)
        scores = network.discriminator(outputs["fake"])
        assert features is not None
        expected = {"fool": 5 * ((scores - 1) ** 2).mean()}
        for task, share, output, target in (
            ("transfer", 0.8, "fake", pair.target),
            ("source", 0.2, "reconstruction", pair.condition.image),
        ):
            left, right = features(outputs[output]), features(target)
            expected[f"{task}_l1"] = share * 2 * F.l1_loss(outputs[output], target)
            expected[f"{task}_style"] = share * 500 * style(left, right)
            expected[f"{task}_content"] = share * 0.5 * content(left, right)
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert abs(terms[name] - value) < FLOAT_NOISE * value, name


def test_the_discriminator_does_not_reach_the_generator() -> None:
    network, pair = _narrow(), _pair()
    (discriminator,) = network.losses("discriminator", pair, network.run(pair, "transfer")).values()
    discriminator.backward()
    assert all(p.grad is not None for p in network.discriminator.parameters())
    for child in network.sampling:
        assert all(p.grad is None for p in network.get_submodule(child).parameters())


def test_textures_come_from_the_source_image_alone() -> None:
    network, pair = _narrow().eval(), _pair()
    seen: list[torch.Tensor] = []
    block = network.transformer.get_submodule("texture.0")
    block.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[2]))
    with torch.no_grad():
        generated(network, pair.condition)
        expected = network.source_encoder(pair.condition.image).flatten(2).transpose(1, 2)
    assert torch.equal(seen[0], expected)


def test_joints_count_in_whole_pixels() -> None:
    network, pair = _narrow().eval(), _pair()
    condition = pair.condition
    whole = Condition(condition.image, Pose(condition.pose.joints.trunc()), condition.target_pose)
    with torch.no_grad():
        assert torch.equal(generated(network, condition), generated(network, whole))


def test_attention_equals_torchs_forward() -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2)
    torch.nn.init.normal_(attention.in_proj_bias)
    query, others, values = torch.randn(2, 5, 8), torch.randn(2, 7, 8), torch.randn(2, 7, 8)
    expected, _ = attention(query, others, values, need_weights=False)
    assert (attention.attend(query, others, values) - expected).abs().max() < FLOAT_NOISE


def test_the_gain_of_the_first_weights_is_published_and_can_be_another() -> None:
    published = _narrow()
    torch.manual_seed(0)
    louder = Dptn(published.config.model_copy(update={"initial_gain": 1.0}))
    for name in ("pose_encoder.0.model.0.weight", "transformer.context.0.linear1.weight"):
        expected = published.get_parameter(name) * 50
        assert torch.allclose(louder.get_parameter(name), expected), name
    assert torch.equal(louder.get_parameter("pose_encoder.0.model.0.bias"), torch.zeros(8))
