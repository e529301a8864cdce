from __future__ import annotations

import numpy as np
import pytest

from manifests.console import UserError
from reid.mixing import Stream, mixture

FLAGS = np.arange(50) >= 30


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 4), (0.5, 8), (1.0, 16)])
def test_every_batch_holds_exactly_its_share_of_synthetic_rows(share, expected):
    mixed = mixture(FLAGS, 16, share, seed=3)
    assert {int(FLAGS[mixed.batch(step)].sum()) for step in range(40)} == {expected}


def test_without_a_share_every_row_comes_once_per_round():
    mixed = mixture(FLAGS, 10, None, seed=0)
    rows = np.concatenate([mixed.batch(step) for step in range(5)])
    assert sorted(rows.tolist()) == list(range(50))


def test_batches_follow_from_seed_and_step_in_whatever_order_they_are_asked_for():
    one, other = (mixture(FLAGS, 16, 0.5, seed=3) for _ in range(2))
    forward = [one.batch(step).tolist() for step in range(12)]
    backward = [other.batch(step).tolist() for step in reversed(range(12))]
    assert forward == backward[::-1]


def test_seeds_and_rounds_differ():
    assert not np.array_equal(
        mixture(FLAGS, 50, None, 0).batch(0), mixture(FLAGS, 50, None, 1).batch(0)
    )
    mixed = mixture(FLAGS, 50, None, 0)
    assert not np.array_equal(mixed.batch(0), mixed.batch(1))


def test_a_batch_may_be_larger_than_all_rows():
    stream = Stream(np.array([4, 5, 6]), 0, "x")
    rows = stream.take(0, 7).tolist()
    assert sorted(rows[:3]) == sorted(rows[3:6]) == [4, 5, 6]


def test_a_share_of_rows_that_are_not_there_is_refused():
    with pytest.raises(UserError, match=r"needs 8 synthetic rows .* found no synthetic row"):
        mixture(np.zeros(30, bool), 16, 0.5, seed=0)
