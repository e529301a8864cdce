"""Images that are added to every step, and new streets behind real people."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from manifests.runtime.console import UserError
from manifests.scenes import Scenes, take_apart
from reid.data.dataset import TrainingSet
from reid.data.labels import NO_IDENTITY
from reid.models.backbone import BackboneOptions
from reid.models.network import build_network
from reid.training.batches import Batches, Destination
from reid.training.loop import Trainer, needs_features
from reid.training.settings import TrainSettings

CPU = torch.device("cpu")
PEOPLE, REAL, SYNTHETIC = 4, 16, 8
PLAIN = TrainSettings.model_validate(
    {"images": "i", "out": "o", "steps": 6, "batch_size": 8, "height": 64, "width": 32},
    strict=False,
)
ADD = {"synthetic_mix": "add", "synthetic_added": 4}


def data() -> TrainingSet:
    """Return 4 real and 2 synthetic images of each of 4 people, all of one colour each."""
    labels = np.concatenate([np.arange(REAL) % PEOPLE, np.arange(SYNTHETIC) % PEOPLE])
    pixels = np.empty((REAL + SYNTHETIC, 64, 32, 3), np.uint8)
    pixels[:] = (np.arange(REAL + SYNTHETIC) * 10)[:, None, None, None]
    return TrainingSet(
        pixels=pixels,
        labels=labels,
        synthetic=np.arange(REAL + SYNTHETIC) >= REAL,
        weight=np.ones(REAL + SYNTHETIC, np.float32),
        people=tuple("abcd"),
    )


def scenes(found: TrainingSet) -> Scenes:
    masks = np.zeros((REAL, 64, 32), bool)
    masks[:, 16:56, 10:22] = True
    return take_apart(found.pixels[:REAL], masks, np.ones(REAL, bool))


def batches(found: TrainingSet, streets: Scenes | None = None, **changes: object) -> Batches:
    still = PLAIN.augmentation.model_copy(update={"flip": 0.0, "pad": 0, "erase": 0.0})
    plan = PLAIN.model_copy(update={"augmentation": still, **changes})
    return Batches(found, plan, Destination(CPU), 0, streets)


def shades(images: torch.Tensor) -> list[int]:
    """Return the colour of each image's corner, which tells its row."""
    corner = images[:, 0, 0, 0] * 0.229 + 0.485
    return (corner * 255).round().int().tolist()


def test_added_synthetic_images_leave_all_of_the_batch_to_real_ones():
    for batch in batches(data(), **ADD):
        assert max(shades(batch.images)) < REAL * 10
        assert batch.added is not None
        assert min(shades(batch.added.images)) >= REAL * 10
        assert len(batch.added.labels) == 4
        rows = np.array(shades(batch.added.images)) // 10
        assert batch.added.labels.tolist() == data().labels[rows].tolist()


def test_the_control_adds_as_many_real_images():
    for batch in batches(data(), scenes(data()), control="added-real", scene_added=3, **ADD):
        assert batch.added is not None
        assert len(batch.added.labels) == 7
        assert max(shades(batch.added.images)) < REAL * 10


def test_scenes_come_before_new_streets_and_with_synthetic_images_in_one_pass():
    found = data()
    seen = list(batches(found, scenes(found), scene_added=3, **ADD))
    for batch in seen:
        assert batch.added is not None
        assert len(batch.added.labels) == 7
        middle = batch.added.images[:3, 0, 32, 16] * 0.229 + 0.485
        rows = (middle * 255 / 10).round().int().numpy()
        assert batch.added.labels[:3].tolist() == found.labels[rows].tolist()
        # The street is another image's.
        assert all(a != b * 10 for a, b in zip(shades(batch.added.images[:3]), rows, strict=True))
        assert min(shades(batch.added.images[3:])) >= REAL * 10


def test_a_share_of_real_images_gets_a_new_street_and_synthetic_ones_none():
    found = data()
    scene = PLAIN.augmentation.model_copy(
        update={"flip": 0.0, "pad": 0, "erase": 0.0, "scene": 1.0}
    )
    for batch in batches(found, scenes(found), augmentation=scene, synthetic_share=0.5):
        middle = ((batch.images[:, 0, 32, 16] * 0.229 + 0.485) * 255).round().int().tolist()
        changed = [a != b for a, b in zip(shades(batch.images), middle, strict=True)]
        assert changed == [row < REAL * 10 for row in middle]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_goes_on_sees_what_a_straight_one_sees_with_any_threads(workers: int):
    found = data()
    straight = list(batches(found, scenes(found), scene_added=3, **ADD))
    plan = {"scene_added": 3, "workers": workers, **ADD}
    later = batches(found, scenes(found), **plan)
    later._start = 4
    for batch, expected in zip(later, straight[4:], strict=True):
        assert batch.added is not None
        assert expected.added is not None
        assert torch.equal(batch.added.images, expected.added.images)
        assert torch.equal(batch.images, expected.images)


@pytest.mark.parametrize("weight", [1.0, 0.25, 0.0])
def test_the_added_cross_entropy_counts_each_image_as_one_of_the_batch_times_its_weight(weight):
    changes = {"triplet_weight": 1.0, "synthetic_smoothing": 0.3, "synthetic_weight": weight}
    plan = PLAIN.model_copy(update={"precision": "float32", **changes, **ADD})
    torch.manual_seed(0)
    network = build_network(
        plan.model,
        BackboneOptions(PEOPLE, plan.height, plan.width),
        neck=plan.neck,
        with_features=needs_features(plan),
    )
    trainer = Trainer(network, plan, CPU)
    batch = next(iter(Batches(data(), plan, Destination(CPU), 0)))
    assert batch.added is not None
    network.module.train()
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    alone = trainer.update(replace(batch, added=None))
    network.module.load_state_dict(before)
    together = trainer.update(batch)
    network.module.load_state_dict(before)
    # The batch goes first, as its own statistics are updated first.
    network.module(batch.images)
    logits, _ = network.module(batch.added.images)
    expected = F.cross_entropy(logits, batch.added.labels, label_smoothing=0.3) * 4 / 8
    expected = weight * expected.detach()
    torch.testing.assert_close(together - alone, expected, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_added_is_refused():
    real = data()
    real = replace(real, synthetic=np.zeros(REAL + SYNTHETIC, bool))
    with pytest.raises(UserError, match="--synthetic-mix add: found no synthetic images"):
        batches(real, **ADD)
    with pytest.raises(UserError, match="--control added-real: found synthetic images that repl"):
        batches(data(), control="added-real")


def test_the_control_alone_adds_as_many_real_images_as_synthetic_ones_would_be():
    found = data()
    real = replace(found, pixels=found.pixels[:REAL], labels=found.labels[:REAL],
                   synthetic=found.synthetic[:REAL], weight=found.weight[:REAL])  # fmt: skip
    batch = next(iter(batches(real, control="added-real", synthetic_added=5)))
    assert batch.added is not None
    assert len(batch.added.labels) == 5


def test_images_of_nobody_are_added_with_the_uniform_target():
    found = data()
    labels = found.labels.copy()
    labels[-SYNTHETIC:] = NO_IDENTITY
    batch = next(iter(batches(replace(found, labels=labels), **ADD)))
    assert batch.added is not None
    assert batch.added.labels.tolist() == [NO_IDENTITY] * 4


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "add"),
        ({"control": "added-real"}, "add"),
        ({"synthetic": None}, "replace"),
        ({"synthetic_share": 0.5}, "replace"),
        ({"num_outliers": 2}, "replace"),
        ({"control": "repeated-real"}, "replace"),
        ({"control": "shuffled-labels"}, "replace"),
        ({"control": "synthetic-only"}, "replace"),
        ({"synthetic_mix": "replace"}, "replace"),
        ({"synthetic_mix": "add"}, "add"),
    ],
)
def test_synthetic_images_are_added_unless_something_says_that_they_replace(given, expected):
    plan = PLAIN.model_copy(update={"synthetic": Path("s"), **given})
    assert plan.mix == expected


@pytest.mark.parametrize(
    ("flag", "given"),
    [
        ("--synthetic-share", {"synthetic_share": 0.5}),
        ("--num-outliers", {"num_outliers": 2}),
        ("--control repeated-real", {"control": "repeated-real"}),
    ],
)
def test_what_says_how_images_replace_others_is_refused_where_they_are_added(flag, given):
    settings = json.loads(PLAIN.to_json()) | {"synthetic": "s", "synthetic_mix": "add"} | given
    with pytest.raises(UserError, match=f"--synthetic-mix add: found {flag}, which says"):
        TrainSettings.from_json(json.dumps(settings))
