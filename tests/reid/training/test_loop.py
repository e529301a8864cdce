from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from manifests.io import read_images
from manifests.runtime.console import UserError
from manifests.synthetic import read_synthetic
from reid.data.controls import controlled
from reid.data.dataset import TrainingSet, load_training_set, select
from reid.data.labels import NO_IDENTITY
from reid.models.backbone import BackboneOptions
from reid.models.network import build_network
from reid.training.batches import Batches, Destination
from reid.training.loop import Trainer, learning_rate, needs_features
from reid.training.settings import TrainSettings
from tests.helpers.reid_people import write_people, write_synthetic

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> TrainingSet:
    """Return 24 real rows of 6 people, 12 synthetic ones, the last two of nobody."""
    folder = tmp_path_factory.mktemp("people")
    images = read_images(write_people(folder / "real"))
    made = read_synthetic(write_synthetic(folder / "synthetic"))
    chosen = select(images, made, real_fraction=1.0, num_validation_people=0, data_seed=0)
    found = load_training_set(chosen, made, (32, 64))
    labels = found.labels.copy()
    labels[-2:] = NO_IDENTITY
    return replace(found, labels=labels)


def settings(**changes: object) -> TrainSettings:
    plain = TrainSettings(
        images=Path("images"), out=Path("out"), steps=6, batch_size=8, height=64, width=32
    )
    return plain.model_copy(update=changes)


def trainer_of(plan: TrainSettings) -> Trainer:
    torch.manual_seed(plan.seed)
    network = build_network(
        plan.model,
        BackboneOptions(6, plan.height, plan.width),
        neck=plan.neck,
        with_features=needs_features(plan),
    )
    network.module.train()
    return Trainer(network, plan, CPU)


def run(trainer: Trainer, data: TrainingSet, plan: TrainSettings, until: int) -> None:
    for batch in Batches(
        controlled(data, plan.control, plan.seed), plan, Destination(CPU), trainer.done
    ):
        trainer.update(batch)
        if trainer.done == until:
            return


IDENTITY = {"train_sampler": "identity", "num_instances": 2, "synthetic_share": 0.5}
LOSSES = {"triplet_weight": 1.0, "centre_weight": 5e-4}
PLANS = {
    "pool and fixed base": {"fixbase": 0.5},
    "repeated real": {"synthetic_share": 0.5, "control": "repeated-real", "optimizer": "sgd"},
    "shuffled labels": {**IDENTITY, "control": "shuffled-labels", "optimizer": "adam"},
    "synthetic only": {"control": "synthetic-only", "schedule": "cosine"},
    "strong baseline": {
        **IDENTITY,
        **LOSSES,
        "neck": "bnneck",
        "num_outliers": 2,
        "optimizer": "amsgrad",
        "schedule": "multi-step",
        "milestones": (0.5,),
    },
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", PLANS)
def test_every_mix_and_loss_continued_from_a_saved_state_equals_a_straight_run(
    name, workers, data, tmp_path
):
    plan = settings(**PLANS[name])
    straight = trainer_of(plan)
    run(straight, data, plan, 6)
    prefetching = plan.model_copy(update={"workers": workers})
    stopped = trainer_of(prefetching)
    run(stopped, data, prefetching, 3)
    stopped.save(tmp_path)
    continued = trainer_of(prefetching)
    assert continued.restore(tmp_path) == 3
    run(continued, data, prefetching, 6)
    assert continued.done == straight.done == 6
    left, right = straight.network.module.state_dict(), continued.network.module.state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)
    if straight.centres is not None:
        assert torch.equal(straight.centres, continued.centres)


def test_while_the_base_is_fixed_only_the_classifier_learns(data):
    plan = settings(fixbase=0.5, weight_decay=0.0)
    trainer = trainer_of(plan)
    before = {name: value.clone() for name, value in trainer.network.module.state_dict().items()}
    run(trainer, data, plan, 3)
    changed = {
        name
        for name, value in trainer.network.module.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed == {"classifier.weight", "classifier.bias"}
    run(trainer, data, plan, 4)
    assert not torch.equal(
        trainer.network.module.state_dict()["conv1.conv.weight"], before["conv1.conv.weight"]
    )


def test_centres_move_towards_the_features_by_their_own_rate(data):
    plan = settings(centre_weight=0.01, centre_learning_rate=0.25, precision="float32")
    trainer = trainer_of(plan)
    batch = Batches(data, plan, Destination(CPU), 0).batch(0)
    before = trainer.centres.detach().clone()
    with torch.no_grad():
        # Batch statistics only: evaluation would use others.
        _, features = trainer.network.module(batch.images)
    trainer.update(batch)
    known = batch.labels != NO_IDENTITY
    expected = before.clone()
    for row in known.nonzero()[:, 0]:
        label = batch.labels[row]
        expected[label] += 0.25 * 2 / known.sum() * (features[row] - before[label])
    # float32 sums in another order.
    torch.testing.assert_close(trainer.centres.detach(), expected, atol=1e-5, rtol=0)


def test_a_source_of_weight_zero_leaves_the_gradient_to_the_others(data):
    outcomes = []
    for pixel in (0, 255):
        pixels = data.pixels.copy()
        pixels[data.synthetic] = pixel
        plan = settings(synthetic_share=0.5, synthetic_weight=0.0, model="squeezenet1_0")
        trainer = trainer_of(plan)
        run(trainer, replace(data, pixels=pixels), plan, 2)
        outcomes.append(trainer.network.module.state_dict()["classifier.weight"])
    assert torch.equal(*outcomes)


def test_the_one_cycle_rate_rises_to_the_peak_and_falls():
    plan = settings(steps=100, learning_rate=1.0)
    rates = [learning_rate(step, plan) for step in range(100)]
    assert np.argmax(rates) == 10
    assert max(rates) == 1.0
    assert rates[0] == pytest.approx(0.04)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_the_multi_step_rate_warms_up_in_a_line_and_falls_by_a_tenth_at_each_milestone():
    plan = settings(
        steps=100, learning_rate=1.0, schedule="multi-step", warmup=0.1, milestones=(0.5, 0.8)
    )
    rates = {step: learning_rate(step, plan) for step in (0, 5, 10, 49, 50, 79, 80, 99)}
    expected = {0: 0.01, 5: 0.505, 10: 1, 49: 1, 50: 0.1, 79: 0.1, 80: 0.01, 99: 0.01}
    assert rates == pytest.approx(expected)


def test_the_cosine_rate_starts_at_the_peak_and_is_half_of_it_in_the_middle():
    plan = settings(steps=100, learning_rate=1.0, schedule="cosine", warmup=0.0)
    assert [learning_rate(step, plan) for step in (0, 50)] == pytest.approx([1.0, 0.5])


def test_centres_for_a_network_of_many_features_are_refused():
    with pytest.raises(UserError, match="needs a network with one feature"):
        trainer_of(settings(model="pcb_p4", centre_weight=1.0, height=64, width=32))
