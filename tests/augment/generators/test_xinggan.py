"""XingGAN's blocks and recipe."""

from __future__ import annotations

import torch

from augment.generators.xinggan import Fusion, XingBlock, Xinggan

FLOAT_NOISE = 1e-5


def test_the_published_recipe() -> None:
    network = Xinggan(Xinggan.Config(base_width=8, discriminator_width=4))
    (stage,) = network.stages()
    config = network.config
    assert (config.weight_l1, config.weight_perceptual, config.weight_adversarial) == (50, 50, 5)
    assert (stage.steps, stage.batch_size) == (87_500, 32)
    assert [phase.name for phase in stage.phases] == ["generator", "appearance", "shape"]
    for phase in stage.phases:
        assert (phase.optimizer.learning_rate, phase.optimizer.beta1) == (2e-4, 0.5)
        # 500 epochs of 125 steps, then 200 down to zero.
        factors = [phase.schedule.factor(125 * epoch) for epoch in (0, 498, 499, 500, 698, 699)]
        expected = [1.0, 1.0, 1 - 1 / 201, 1 - 2 / 201, 1 / 201, 0.0]
        assert max(abs(a - b) for a, b in zip(factors, expected, strict=True)) < 1e-12


def test_a_short_run_has_the_same_schedule_in_small() -> None:
    (stage,) = Xinggan(
        Xinggan.Config(base_width=8, discriminator_width=4, steps=10, batch_size=2)
    ).stages()
    factors = [stage.phases[0].schedule.factor(step) for step in range(10)]
    assert factors == [1.0] * 6 + [0.75, 0.5, 0.25, 0.0]


def test_a_block_equals_the_published_one_written_out() -> None:
    torch.manual_seed(0)
    block = XingBlock(16, "batch", 0.0, first=False).eval()
    torch.nn.init.constant_(block.strength, 0.7)
    for layer in (block.query, block.key):
        # Sharp attention, so that a wrong partner shows.
        torch.nn.init.normal_(layer.weight, 0.0, 2.0)
    image, pose = torch.randn(2, 16, 4, 3), torch.randn(2, 32, 4, 3)
    with torch.no_grad():
        appearance, shape = block(image, pose)
        one, two = block.image_path(image), block.pose_path(pose)
        for found, features, others in ((appearance, one, two), (shape[:, 16:], two, one)):
            query, key = block.query(features).flatten(2), block.key(others).flatten(2)
            attention = torch.softmax(torch.einsum("bci,bcj->bij", query, key), dim=2)
            mixed = torch.einsum("bcj,bij->bci", block.value(features).flatten(2), attention)
            expected = features + 0.7 * mixed.unflatten(2, (4, 3))
            assert (found - expected).abs().max() < FLOAT_NOISE
    assert torch.equal(shape[:, :16], appearance)


def test_an_untrained_block_does_not_attend() -> None:
    block = XingBlock(16, "batch", 0.0, first=True).eval()
    image, pose = torch.randn(1, 16, 4, 3), torch.randn(1, 16, 4, 3)
    with torch.no_grad():
        appearance, shape = block(image, pose)
        assert torch.equal(appearance, block.image_path(image))
        assert torch.equal(shape[:, 16:], block.pose_path(pose))


def test_the_last_weight_belongs_to_the_source_image() -> None:
    fusion = Fusion(4, "instance").eval()
    last = fusion.attention[6]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    with torch.no_grad():
        last.bias[20] = 50.0
        source = torch.rand(1, 3, 16, 8)
        blend = fusion(source, torch.randn(1, 16, 4, 2), torch.randn(1, 32, 4, 2))
    assert (blend - source).abs().max() < FLOAT_NOISE
