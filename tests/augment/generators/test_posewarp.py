"""Pose warp: what the painter may and may not change, and its losses written out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from augment.generators.posewarp import GATE_BIAS, PoseWarp, relative_distance
from augment.interface.condition import Condition, Pair
from augment.interface.randomness import RowRandom
from augment.objectives.exported_features import OUTPUT
from augment.pose.limb_warp import limb_warp
from manifests import io
from manifests.runtime.console import Exit, UserError
from tests.helpers import trivial
from tests.helpers.before_street import HEIGHT, WIDTH, condition
from tests.helpers.sampling import generated

CONFIG = PoseWarp.Config(
    image_height=HEIGHT,
    image_width=WIDTH,
    width=4,
    discriminator_width=4,
    features="none",
    batch_size=2,
    warmup_steps=1,
    steps=60,
)


NOTHING_HIDDEN = {
    "hidden": torch.zeros(2, 1, HEIGHT, WIDTH),
    "target_maps": torch.zeros(2, 18, HEIGHT, WIDTH),
}


def network(**changes):
    torch.manual_seed(0)
    return PoseWarp(CONFIG.model_copy(update=changes)).eval()


def with_exit(made, gate, colour):
    """Let the painter put out one gate and one colour everywhere, before their activations."""
    last = made.painter.exit
    torch.nn.init.zeros_(last.weight)
    with torch.no_grad():
        last.bias.copy_(torch.tensor([*colour, gate]))
    return made


@pytest.mark.parametrize("steps", [2, 60, 100, 119, 179, 1000, 19_000])
def test_the_learning_rate_falls_over_two_thirds_of_the_steps_and_is_zero_in_the_last_epoch(steps):
    (phase, _) = network(steps=steps).stages()[1].phases
    factors = np.array([phase.schedule.factor(step) for step in range(steps)])
    assert (np.diff(factors) <= 0).all()
    assert (factors == 0).sum() <= phase.schedule.epoch_steps <= max(1, steps / 30)
    # The published rule begins to fall an epoch early.
    assert abs((factors == 1).mean() - 1 / 3) <= 2 * phase.schedule.epoch_steps / steps


def test_identity_has_no_weight_of_its_own_without_a_network():
    with pytest.raises(UserError, match=r"--config\.weight-identity 5: found no --config\.ident"):
        network(weight_identity=5.0).stages()


def test_a_network_of_another_size_is_blamed_on_the_flag_that_named_it(tmp_path):
    (tmp_path / "none.pt2").write_bytes(b"nothing")
    made = network(identity=str(tmp_path / "none.pt2"))
    pair = Pair(condition(), condition().image)
    with pytest.raises(UserError, match=r"^--config\.identity"):
        made.losses("painter", pair, made.run(pair, "painting"))


def test_outside_its_hole_the_street_stays_but_for_what_was_moved_before_it():
    given = condition()
    given.background.hole[..., :20] = 0
    moved = limb_warp(given.image, given.mask, given.pose, given.target_pose)
    before, hole = moved.before(given.background.image), given.background.hole
    with torch.no_grad():
        made = generated(network(), given)
    outside = (hole == 0).expand_as(made)
    assert torch.equal(made[outside], before[outside])
    assert not torch.equal(made[~outside], before[~outside])
    assert 50 < ((moved.coverage > 0) & (hole == 0)).sum() < 0.9 * (hole == 0).sum()


def test_an_open_gate_keeps_the_moved_pixels_and_a_closed_one_paints_over_them():
    given = condition()
    warp = limb_warp(given.image, given.mask, given.pose, given.target_pose)
    colour = torch.tensor([0.3, -0.2, 0.9])
    painted = torch.tanh(colour)[:, None, None].expand_as(given.image)
    hole, street = given.background.hole, given.background.image
    with torch.no_grad():
        kept = generated(with_exit(network(), 40.0, colour), given)
        gone = generated(with_exit(network(), -40.0, colour), given)
    assert float(warp.coverage.mean()) > 0.2
    around = (1 - hole) * warp.before(street)
    assert torch.allclose(kept, hole * warp.before(painted) + around, atol=1e-6)
    assert torch.allclose(gone, hole * painted + around, atol=1e-6)


def test_the_option_keep_opens_the_gate():
    given = condition()
    made = with_exit(network(), 1.0, torch.zeros(3))
    wider = with_exit(network(), 3.5, torch.zeros(3))
    with torch.no_grad():
        kept = made.generate(given, RowRandom.numbered(2, "cpu"), made.Options(keep=2.5))
        assert torch.equal(kept, generated(wider, given))
        assert not torch.equal(kept, generated(made, given))


def test_what_is_painted_over_is_what_was_moved_and_the_gate_hides():
    given = condition()
    given.background.hole[..., :20] = 0
    warp = limb_warp(given.image, given.mask, given.pose, given.target_pose)
    made = with_exit(network(weight_gate=0.5), 1.0, torch.zeros(3))
    pair = Pair(given, given.background.image)
    outputs = made.run(pair, "painting")
    closed = 1 - torch.sigmoid(torch.tensor(1.0 + GATE_BIAS))
    expected = closed * warp.coverage * given.background.hole
    torch.testing.assert_close(outputs["hidden"], expected)
    term = made.losses("painter", pair, outputs)["gate"].detach()
    share = expected.detach().sum() / given.background.hole.sum()
    assert float(term) == pytest.approx(0.5 * float(share), rel=1e-5)


def test_what_stood_in_the_sources_street_does_not_reach_the_image():
    given = condition()
    elsewhere = torch.where(given.mask > 0, given.image, -given.image)
    with torch.no_grad():
        first, second = (
            generated(network(), Condition(image, given.pose, given.target_pose, None, given.mask,
                                           given.background))
            for image in (given.image, elsewhere)
        )  # fmt: skip
    assert torch.equal(first, second)


def test_a_pose_without_a_torso_is_painted_from_the_source_alone():
    given = condition()
    given.pose.joints[:, 8] = torch.nan
    with torch.no_grad():
        made = generated(network(), given)
    assert torch.isfinite(made).all()


def test_the_distance_of_colours_counts_the_hole_alone():
    made, given = network(weight_l1=3.0), condition()
    target = given.background.image.clone()
    fake = target + 0.25 * given.background.hole
    fake[..., 0, 0] += 7
    pair = Pair(given, target)
    terms = made.losses("painter", pair, {"fake": fake, **NOTHING_HIDDEN})
    assert terms.keys() == {"l1", "gate"}
    assert terms["gate"] == 0
    assert float(terms["l1"]) == pytest.approx(0.75)


def test_the_two_sides_of_the_discriminator():
    made, given = network(weight_adversarial=0.5), condition()
    pair = Pair(given, given.background.image)
    outputs = made.run(pair, "adversarial")
    scores = [
        made.discriminator(image, given.image, outputs["target_maps"])
        for image in (pair.target, outputs["fake"])
    ]
    expected = F.relu(1 - scores[0]).mean() + F.relu(1 + scores[1]).mean()
    found = made.losses("discriminator", pair, outputs)["discriminator"]
    assert torch.allclose(found, expected)
    found = made.losses("fooling_painter", pair, outputs)["adversarial"]
    assert torch.allclose(found, -0.5 * scores[1].mean())


def test_the_identity_is_that_of_both_real_images():
    made, given = network(weight_identity=2.0, weight_identity_features=0.25), condition()
    target, fake = given.background.image, given.image.flip(-1)

    def person(images):
        maps = images.mean(dim=(2, 3))
        return {OUTPUT: maps, "relu4_1": images[:, :1], "relu5_1": images[:, 1:]}

    made._person = person
    outputs = {"fake": fake, **NOTHING_HIDDEN}
    terms = made.losses("painter", Pair(given, target), outputs)
    both = sum(F.normalize(person(image)[OUTPUT]) for image in (target, given.image))
    similarity = F.cosine_similarity(person(fake)[OUTPUT], both).mean()
    assert float(terms["identity"]) == pytest.approx(float(2 * (1 - similarity)), rel=1e-5)
    relative = sum(
        float(
            (fake[:, part] - target[:, part]).abs().mean() / (target[:, part].abs().mean() + 1e-3)
        )
        for part in (slice(0, 1), slice(1, 3))
    )
    assert float(terms["identity_features"]) == pytest.approx(0.25 * relative, rel=1e-5)


def test_a_relative_distance_is_zero_for_equals_and_two_for_the_negative():
    maps = {"a": torch.full((1, 2, 3, 3), 4.0)}
    assert float(relative_distance(maps, maps, ("a",))) == 0
    negative = {"a": -maps["a"]}
    assert float(relative_distance(negative, maps, ("a",))) == pytest.approx(2, rel=1e-3)


def test_a_training_needs_masks_and_says_so(tmp_path, capsys):
    from augment.cli import PROGRAM

    table = trivial.write_people(tmp_path / "people")
    arguments = ["train", "--generator", "posewarp", "--images", str(table)]
    arguments += ["--out", str(tmp_path / "run"), "--config.features", "none", "--device", "cpu"]
    with pytest.raises(SystemExit) as left:
        PROGRAM.main(arguments)
    assert left.value.code == Exit.REFUSED
    assert "found no train image with a mask" in capsys.readouterr().err


def test_a_short_training_from_the_command_line_makes_weights_that_generate(tmp_path):
    from augment.cli import PROGRAM

    table = trivial.write_people(tmp_path / "people", masked=True)
    changes = {"width": 4, "discriminator-width": 4, "features": "none", "batch-size": 2,
               "warmup-steps": 1, "steps": 1}  # fmt: skip
    arguments = ["train", "--generator", "posewarp", "--images", str(table), "--device", "cpu"]
    arguments += ["--out", str(tmp_path / "run")]
    for name, value in changes.items():
        arguments += [f"--config.{name}", str(value)]
    with pytest.raises(SystemExit) as left:
        PROGRAM.main(arguments)
    assert left.value.code == Exit.DONE
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert all(np.isfinite(value) for value in lines[-1].values())
    weights = str(tmp_path / "run/weights.safetensors")
    with pytest.raises(SystemExit) as left:
        PROGRAM.main(["generate", "--images", str(table), "--weights", weights, "--per-id", "2",
                      "--out", str(tmp_path / "out"), "--device", "cpu"])  # fmt: skip
    assert left.value.code == Exit.DONE
    assert io.read_images(table)


def test_what_has_nothing_to_train_is_not_trained(tmp_path, capsys):
    from augment.cli import PROGRAM

    table = trivial.write_people(tmp_path / "people", masked=True)
    with pytest.raises(SystemExit) as left:
        PROGRAM.main(["train", "--generator", "recompose", "--images", str(table),
                      "--out", str(tmp_path / "run"), "--device", "cpu"])  # fmt: skip
    assert left.value.code == Exit.REFUSED
    assert "recompose: has nothing to train" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
