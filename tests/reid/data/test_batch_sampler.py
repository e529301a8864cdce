from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from manifests.compute.distributed import ProcessGroup
from manifests.runtime.console import UserError
from reid.data.batch_sampler import BatchComposition, Stream, mixture, real_rows_per_batch
from reid.data.labels import NO_IDENTITY
from reid.training.parallel import batch_part

FLAGS = np.arange(50) >= 30
LABELS = np.arange(50) % 10
SOME_NOBODY = np.where(np.arange(50) < 45, LABELS, NO_IDENTITY)
PLAIN = BatchComposition(batch_size=16, seed=3)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 4), (0.5, 8), (1.0, 16)])
def test_every_batch_holds_exactly_its_share_of_synthetic_rows(share, expected):
    mixed = mixture(LABELS, FLAGS, replace(PLAIN, synthetic_share=share))
    assert {int(FLAGS[mixed.batch(step)].sum()) for step in range(40)} == {expected}


def test_without_a_share_every_row_comes_once_per_round():
    mixed = mixture(LABELS, FLAGS, replace(PLAIN, batch_size=10))
    rows = np.concatenate([mixed.batch(step) for step in range(5)])
    assert sorted(rows.tolist()) == list(range(50))


@pytest.mark.parametrize(
    "plan",
    [
        replace(PLAIN, synthetic_share=0.5),
        replace(PLAIN, synthetic_share=0.5, sampler="identity"),
        replace(PLAIN, sampler="identity"),
        replace(PLAIN, synthetic_share=0.5, sampler="identity", num_outliers=4),
    ],
)
def test_batches_follow_from_seed_and_step_in_whatever_order_they_are_asked_for(plan):
    one, other = (mixture(SOME_NOBODY, FLAGS, plan) for _ in range(2))
    forward = [one.batch(step).tolist() for step in range(12)]
    backward = [other.batch(step).tolist() for step in reversed(range(12))]
    assert forward == backward[::-1]
    third = mixture(SOME_NOBODY, FLAGS, replace(plan, seed=4))
    assert forward != [third.batch(step).tolist() for step in range(12)]


def test_seeds_and_rounds_differ():
    whole = replace(PLAIN, batch_size=50)
    mixed = mixture(LABELS, FLAGS, whole)
    other = mixture(LABELS, FLAGS, replace(whole, seed=1))
    assert not np.array_equal(mixed.batch(0), other.batch(0))
    assert not np.array_equal(mixed.batch(0), mixed.batch(1))


def test_a_batch_may_be_larger_than_all_rows():
    stream = Stream(np.array([4, 5, 6]), 0, "x")
    rows = stream.take(0, 7).tolist()
    assert sorted(rows[:3]) == sorted(rows[3:6]) == [4, 5, 6]


def test_a_share_of_rows_that_are_not_there_is_refused():
    with pytest.raises(UserError, match=r"needs 8 synthetic rows .* found no synthetic row"):
        mixture(np.zeros(30, int), np.zeros(30, bool), replace(PLAIN, synthetic_share=0.5))


# Ten people of 4 real rows each; 3 synthetic ones for all but the last two; 5 of nobody.
PEOPLE = np.concatenate(
    [np.repeat(np.arange(10), 4), np.repeat(np.arange(8), 3), [NO_IDENTITY] * 5]
)
MADE = np.arange(len(PEOPLE)) >= 40
WHOLE_PEOPLE = BatchComposition(
    batch_size=18, seed=0, synthetic_share=0.5, sampler="identity", num_instances=4, num_outliers=2
)


def test_every_batch_holds_p_people_with_k_real_and_k_synthetic_rows_and_the_outliers():
    mixed = mixture(PEOPLE, MADE, WHOLE_PEOPLE)
    met: set[int] = set()
    for step in range(60):
        rows = mixed.batch(step)
        assert (PEOPLE[rows[-2:]] == NO_IDENTITY).all()
        assert len(set(rows.tolist())) == 18
        people = PEOPLE[rows[:-2]].reshape(4, 4)
        assert (people == people[:, :1]).all()
        assert len(set(people[:, 0].tolist())) == 4
        made = MADE[rows[:-2]].reshape(4, 4).sum(axis=1)
        # The last two people have no synthetic rows and fall back to real ones.
        assert made.tolist() == np.where(people[:, 0] < 8, 2, 0).tolist()
        met |= set(rows.tolist())
    assert met == set(range(len(PEOPLE)))


def test_every_person_comes_equally_often_over_whole_rounds():
    mixed = mixture(PEOPLE, MADE, replace(WHOLE_PEOPLE, batch_size=22))
    people = np.concatenate([PEOPLE[mixed.batch(step)[:-2:4]] for step in range(20)])
    assert np.bincount(people, minlength=10).tolist() == [10] * 10


@pytest.mark.parametrize(
    "plan",
    [
        BatchComposition(batch_size=23, seed=0),
        BatchComposition(batch_size=16, seed=0, synthetic_share=0.3),
        replace(WHOLE_PEOPLE, batch_size=22),
        replace(WHOLE_PEOPLE, batch_size=22, synthetic_share=0.3),
        BatchComposition(batch_size=35, seed=0, sampler="identity", num_instances=7),
    ],
)
def test_the_real_rows_of_a_batch_are_known_before_it_is_drawn(plan):
    mixed = mixture(PEOPLE, MADE, plan)
    # 840 steps are whole rounds of every walk over rows, people and images.
    counts = [(~MADE[mixed.batch(step)]).sum() for step in range(840)]
    assert real_rows_per_batch(PEOPLE, MADE, plan) == pytest.approx(np.mean(counts))


def test_people_without_real_rows_come_as_often_as_the_others():
    labels = np.concatenate([np.repeat(np.arange(4), 4), np.repeat(np.arange(6), 3)])
    made = np.arange(len(labels)) >= 16
    plan = BatchComposition(
        batch_size=8, seed=0, synthetic_share=0.5, sampler="identity", num_instances=4
    )
    batches = [mixture(labels, made, plan).batch(step) for step in range(60)]
    met = np.bincount(np.concatenate([labels[rows[::4]] for rows in batches]), minlength=6)
    assert met.tolist() == [20] * 6
    real = np.mean([(~made[rows]).sum() for rows in batches])
    assert real_rows_per_batch(labels, made, plan) == pytest.approx(real) == 8 * (4 * 0.5) / 6
    none = replace(plan, synthetic_share=0.0)
    rows = np.concatenate([mixture(labels, made, none).batch(step) for step in range(20)])
    assert set(labels[rows].tolist()) == set(range(4))
    assert real_rows_per_batch(labels, made, none) == 8


def test_a_person_with_too_few_rows_repeats_them_evenly():
    labels = np.array([0, 0, 0, 1])
    mixed = mixture(
        labels,
        np.zeros(4, bool),
        BatchComposition(batch_size=8, seed=0, sampler="identity", num_instances=4),
    )
    for step in range(5):
        counts = np.bincount(mixed.batch(step), minlength=4)
        assert sorted(counts[:3].tolist()) == [1, 1, 2]
        assert counts[3] == 4


def test_the_parts_of_the_processes_are_disjoint_and_make_up_the_batch():
    mixed = mixture(PEOPLE, MADE, WHOLE_PEOPLE)
    for step in range(10):
        rows = mixed.batch(step)
        parts = [rows[batch_part(18, ProcessGroup(rank, 3))].tolist() for rank in range(3)]
        assert [len(part) for part in parts] == [6, 6, 6]
        assert [row for part in parts for row in part] == rows.tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 17}, "no multiple of --num-instances 4"),
        ({"batch_size": 50}, "needs 12 people, found 10"),
        ({"sampler": "random"}, "--num-outliers 2 needs --train-sampler identity"),
    ],
)
def test_a_batch_that_does_not_come_out_even_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        mixture(PEOPLE, MADE, replace(WHOLE_PEOPLE, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"synthetic_share": 0.02}, "--batch-size 16 makes 0 synthetic rows"),
        ({"synthetic_share": 0.98}, "--batch-size 16 makes 16 synthetic rows"),
        ({"synthetic_share": 0.1, "sampler": "identity"}, "--num-instances 4 makes 0 synthetic"),
        ({"synthetic_share": 0.9, "sampler": "identity"}, "--num-instances 4 makes 4 synthetic"),
    ],
)
def test_a_share_that_rounds_to_none_or_all_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        mixture(LABELS, FLAGS, replace(PLAIN, **changes))


def test_people_without_any_synthetic_rows_among_them_are_no_share():
    plan = replace(PLAIN, synthetic_share=0.5, sampler="identity")
    with pytest.raises(UserError, match="needs 2 synthetic rows of every person, found no"):
        mixture(LABELS, np.zeros(50, bool), plan)


def test_outliers_that_are_not_there_are_refused():
    with pytest.raises(UserError, match="needs synthetic rows of person -1, found none"):
        mixture(LABELS, FLAGS, WHOLE_PEOPLE)


def test_a_batch_that_does_not_divide_over_the_processes_is_refused():
    with pytest.raises(UserError, match="64 over 3 processes"):
        batch_part(64, ProcessGroup(0, 3))
    with pytest.raises(UserError, match=r"4 over 4 processes; expected .* two images or more"):
        batch_part(4, ProcessGroup(0, 4))
