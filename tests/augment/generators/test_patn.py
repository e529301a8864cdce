"""PATN before a given street and with moved pixels: what it draws then, and what it leaves."""

from __future__ import annotations

import pytest
import torch

from augment.generators.patn import Patn
from augment.interface.condition import Pair
from augment.pose.limb_warp import limb_warp
from manifests.runtime.console import UserError
from tests.helpers.before_street import HEIGHT, WIDTH, condition
from tests.helpers.sampling import generated

CONFIG = Patn.Config(
    image_height=HEIGHT,
    image_width=WIDTH,
    base_width=4,
    discriminator_width=4,
    num_blocks=2,
    features="none",
    weight_perceptual=0,
    pool_size=2,
    batch_size=2,
    steps=2,
)
BEFORE = {"background": "target"}
MOVED = {"warp": "limbs"}


def network(**changes):
    torch.manual_seed(0)
    return Patn(CONFIG.model_copy(update=changes)).eval()


def with_exit(made, *channels):
    """Let the last convolution put out these numbers everywhere, before tanh."""
    last = made.decoder[-2]
    torch.nn.init.zeros_(last.weight)
    with torch.no_grad():
        last.bias.copy_(torch.tensor(channels))
    return made


@pytest.mark.parametrize(
    ("changes", "needs"),
    [
        ({}, set()),
        (BEFORE, {"background"}),
        (MOVED, {"mask"}),
        (BEFORE | MOVED, {"background", "mask"}),
    ],
)
def test_it_asks_for_what_its_settings_look_at(changes, needs):
    assert network(**changes).needs == needs


@pytest.mark.parametrize("changes", [BEFORE, BEFORE | MOVED])
def test_outside_its_hole_the_street_stays_but_for_what_was_moved_before_it(changes):
    given = condition()
    given.background.hole[..., :16] = 0
    street = given.background.image
    if "warp" in changes:
        street = limb_warp(given.image, given.mask, given.pose, given.target_pose).before(street)
    with torch.no_grad():
        made = generated(network(**changes), given)
    outside = (given.background.hole == 0).expand_as(made)
    assert torch.equal(made[outside], street[outside])
    assert not torch.equal(made[~outside], street[~outside])


def test_an_open_gate_keeps_the_moved_pixels_and_a_closed_one_draws_over_them():
    given = condition()
    warp = limb_warp(given.image, given.mask, given.pose, given.target_pose)
    colour = torch.tensor([0.3, -0.2, 0.9])
    drawn = torch.tanh(colour)[:, None, None].expand_as(given.image)
    with torch.no_grad():
        kept = generated(with_exit(network(**MOVED), *colour, 20.0), given)
        hidden = generated(with_exit(network(**MOVED), *colour, -20.0), given)
    assert 0.1 < warp.coverage.mean() < 0.9
    torch.testing.assert_close(kept, warp.before(drawn))
    torch.testing.assert_close(hidden, drawn)


@pytest.mark.parametrize("changes", [BEFORE, MOVED, BEFORE | MOVED])
def test_what_is_given_reaches_the_features_and_gradients_reach_every_weight(changes):
    given = condition()
    made = network(**changes).train()
    outputs = made.run(Pair(given, given.image.flip(-1)), "transfer")
    terms = made.losses("generator", Pair(given, given.image.flip(-1)), outputs)
    torch.stack(list(terms.values())).sum().backward()
    entry = made.pose_encoder[1].weight.grad
    assert entry.shape[1] == 36 + 4 * len(changes)
    assert (entry[:, 36:].abs().sum((0, 2, 3)) > 0).all()
    assert all(
        weight.grad is not None
        for child in made.sampling
        for weight in made.get_submodule(child).parameters()
    )


@pytest.mark.parametrize("phase", ["reconstruction", "generator"])
@pytest.mark.parametrize("out", [20.0, 0.0, -20.0])
def test_the_gate_costs_what_share_of_the_moved_pixels_it_hides(phase, out):
    given = condition()
    pair = Pair(given, given.image.flip(-1))
    made = with_exit(network(**MOVED, weight_gate=0.5), 0.0, 0.0, 0.0, out)
    outputs = made.run(pair, "transfer")
    term = made.losses(phase, pair, outputs)["gate"].item()
    assert term == pytest.approx(0.5 * {20.0: 0.0, 0.0: 0.5, -20.0: 1.0}[out], abs=1e-4)
    assert "gate" not in made.losses("shape", pair, outputs)


def test_a_gate_of_no_weight_costs_nothing_and_one_without_moved_pixels_is_refused():
    given = condition()
    pair = Pair(given, given.image.flip(-1))
    made = network(**MOVED)
    assert "gate" not in made.losses("generator", pair, made.run(pair, "transfer"))
    with pytest.raises(UserError, match=r"--config\.weight-gate 0\.5: found --config\.warp none"):
        network(weight_gate=0.5).stages()
