from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from manifests.compute.statistics import holm, paired_difference, per_person


def queries(num_people: int = 80, each: int = 4) -> np.ndarray:
    return np.repeat(np.arange(num_people), each)


def test_the_interval_covers_a_known_shift_as_often_as_it_says():
    covered, people = 0, queries()
    generator = np.random.default_rng(0)
    for _ in range(200):
        hard = generator.normal(0, 0.2, 80)[people]
        effect = 0.03 + generator.normal(0, 0.05, 80)[people]
        base = 0.5 + hard + generator.normal(0, 0.05, (1, len(people)))
        other = 0.5 + hard + effect + generator.normal(0, 0.05, (1, len(people)))
        found = paired_difference(base, other, people, num_resamples=500)
        covered += found.low <= 0.03 <= found.high
    # 200 trials at 95 %: mean 190, standard deviation 3.1; four of them either way.
    assert 178 <= covered <= 200


def test_clusters_of_queries_widen_the_interval():
    people = queries(40, 10)
    generator = np.random.default_rng(1)
    base = np.zeros((1, len(people)))
    other = generator.normal(0, 0.1, 40)[people][None]
    clustered = paired_difference(base, other, people)
    alone = paired_difference(base, other, np.arange(len(people)))
    # All ten queries of a person say the same: the interval is sqrt(10) times as wide.
    ratio = (clustered.high - clustered.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(np.sqrt(10), rel=0.1)


@pytest.mark.parametrize("same_seeds", [True, False])
@pytest.mark.parametrize("num_seeds", [3, 5])
@pytest.mark.parametrize(("seed_noise", "person_noise"), [(0.01, 0.0), (0.01, 0.05)])
def test_few_seeds_do_not_make_an_effect_of_the_noise_of_training(
    num_seeds, same_seeds, seed_noise, person_noise
):
    people, covered, certain = queries(50), 0, 0
    generator = np.random.default_rng(5)
    for _ in range(300):
        shared = generator.normal(0, person_noise, 50)[people]
        base, other = (
            part + generator.normal(0, seed_noise, (num_seeds, 1))
            for part in (generator.normal(0.5, 0.01, 200), 0.5 + shared)
        )
        found = paired_difference(base, other, people, same_seeds=same_seeds, num_resamples=500)
        covered += found.is_null
        certain += found.p_value < 0.01
    # 300 trials at 95 %: mean 285, standard deviation 3.8; at 1 %: 3 and 1.7. Four of them, and one
    # more, since the effective degrees of freedom are an estimate themselves.
    assert covered >= 285 - 5 * 3.8
    assert certain <= 3 + 5 * 1.7


def test_of_seeds_alone_the_interval_is_that_of_students_t():
    people = queries(50, 2)
    shifts = np.array([-0.03, 0.0, 0.03])
    base = np.zeros((3, len(people)))
    other = base + shifts[:, None]
    found = paired_difference(base, other, people, same_seeds=True, num_resamples=200_000)
    half_width = stats.t.ppf(0.975, 2) * shifts.std(ddof=1) / np.sqrt(3)
    assert (found.low, found.high) == pytest.approx((-half_width, half_width), rel=0.03)
    one = paired_difference(base[:1], other[:1], people)
    assert (one.low, one.high) == pytest.approx((-0.03, -0.03))


def test_of_few_people_the_interval_is_that_of_students_t():
    values = np.random.default_rng(6).normal(0, 1, 6)[None]
    found = paired_difference(np.zeros((1, 6)), values, np.arange(6), num_resamples=200_000)
    # The spread of the people themselves, as every bootstrap of the mean has it: 6 - 1 in 6.
    half_width = stats.t.ppf(0.975, 5) * values.std() / np.sqrt(6)
    assert found.high - found.low == pytest.approx(2 * half_width, rel=0.03)


def test_one_person_leaves_the_interval_without_ends():
    found = paired_difference(np.zeros((2, 3)), np.ones((2, 3)), np.zeros(3), same_seeds=True)
    assert (found.mean, found.low, found.high) == (1, -np.inf, np.inf)
    assert found.p_value == 1


def test_pairing_over_seeds_removes_what_both_arms_share():
    people = queries(30, 2)
    generator = np.random.default_rng(2)
    shared = generator.normal(0, 0.1, (3, 1))
    base = np.zeros((3, len(people))) + shared
    paired = paired_difference(base, base + 0.01, people, same_seeds=True)
    apart = paired_difference(base, base + 0.01, people)
    assert paired.high - paired.low < 1e-9
    assert apart.high - apart.low > 0.05


def test_equal_arms_are_compatible_with_no_effect():
    values = np.random.default_rng(3).random((2, 60))
    found = paired_difference(values, values, queries(15, 4), same_seeds=True)
    assert found.is_null
    assert found.p_value == 1


def test_a_clear_gain_has_a_small_p_value_that_is_never_zero():
    values = np.random.default_rng(3).random((2, 60))
    found = paired_difference(values, values + 1, queries(15, 4), same_seeds=True)
    assert found.p_value == pytest.approx(2 / 5001)


def test_the_same_values_give_the_same_interval():
    values = np.random.default_rng(4).random((2, 2, 60))
    results = [paired_difference(*values, queries(15, 4)) for _ in range(2)]
    assert results[0] == results[1]


def test_persons_with_more_queries_weigh_more():
    sums, counts = per_person(np.array([[1.0, 1.0, 4.0]]), np.array(["b", "b", "a"]))
    assert sums.tolist() == [[4.0, 2.0]]
    assert counts.tolist() == [1, 2]


def test_holm_never_falls_below_the_single_p_value_nor_above_one():
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.001]) == [0.001]
