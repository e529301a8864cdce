from __future__ import annotations

import numpy as np
import pytest

from manifests.runtime.console import UserError
from reid.data.batch_sampler import BatchComposition, mixture
from reid.data.controls import controlled, controlled_mixture
from reid.data.dataset import TrainingSet
from reid.data.labels import NO_IDENTITY

LABELS = np.concatenate([np.repeat(np.arange(6), 4), np.repeat(np.arange(6), 3), [NO_IDENTITY] * 2])
MADE = np.arange(len(LABELS)) >= 24
DATA = TrainingSet(
    pixels=np.zeros((len(LABELS), 8, 4, 3), np.uint8),
    labels=LABELS,
    synthetic=MADE,
    weight=np.ones(len(LABELS), np.float32),
    people=tuple("abcdef"),
)
PLANS = [
    BatchComposition(batch_size=8, seed=0),
    BatchComposition(batch_size=8, seed=0, synthetic_share=0.5),
    BatchComposition(
        batch_size=14, seed=0, synthetic_share=0.5, sampler="identity", num_outliers=2
    ),
]


@pytest.mark.parametrize("plan", PLANS)
def test_repeated_real_shows_a_real_row_of_the_same_person_in_the_place_of_every_synthetic_one(
    plan,
):
    plain, control = mixture(LABELS, MADE, plan), controlled_mixture(DATA, "repeated-real", plan)
    for step in range(20):
        rows, shown = plain.batch(step), control.batch(step)
        assert not MADE[shown].any()
        assert np.array_equal(shown[~MADE[rows]], rows[~MADE[rows]])
        somebody = LABELS[rows] != NO_IDENTITY
        assert np.array_equal(LABELS[shown[somebody]], LABELS[rows[somebody]])


def test_repeated_real_repeats_a_persons_images_equally_often():
    plan = BatchComposition(batch_size=len(LABELS), seed=0)
    shown = controlled_mixture(DATA, "repeated-real", plan).batch(0)
    counts = np.bincount(shown, minlength=len(LABELS))[:24].reshape(6, 4)
    # 3 synthetic images over 4 real ones, plus the real ones themselves; two more of anybody.
    assert counts.sum() == len(LABELS)
    assert (counts.sum(axis=1) >= 7).all()
    assert counts.min() == 1
    assert counts.max() <= 3


def test_shuffled_labels_permute_those_of_synthetic_rows_and_touch_nothing_else():
    shuffled = controlled(DATA, "shuffled-labels", seed=0)
    assert np.array_equal(shuffled.labels[:24], LABELS[:24])
    assert np.array_equal(shuffled.labels[-2:], LABELS[-2:])
    assert sorted(shuffled.labels[24:-2]) == sorted(LABELS[24:-2])
    assert not np.array_equal(shuffled.labels, LABELS)
    assert shuffled.pixels is DATA.pixels
    again, other = (controlled(DATA, "shuffled-labels", seed).labels for seed in (0, 1))
    assert np.array_equal(again, shuffled.labels)
    assert not np.array_equal(other, shuffled.labels)


@pytest.mark.parametrize("plan", PLANS)
def test_synthetic_only_shows_no_real_row_and_every_synthetic_one(plan):
    control = controlled_mixture(DATA, "synthetic-only", plan)
    rows = np.concatenate([control.batch(step) for step in range(30)])
    assert set(rows.tolist()) == set(np.flatnonzero(MADE).tolist())


def test_no_control_changes_nothing():
    assert controlled(DATA, "none", 0) is DATA
    plan = PLANS[1]
    assert np.array_equal(
        controlled_mixture(DATA, "none", plan).batch(5), mixture(LABELS, MADE, plan).batch(5)
    )


def test_a_control_without_synthetic_rows_is_refused():
    real = TrainingSet(DATA.pixels[:24], LABELS[:24], MADE[:24], DATA.weight[:24], DATA.people)
    with pytest.raises(UserError, match="replaces synthetic rows, found none"):
        controlled(real, "repeated-real", 0)
