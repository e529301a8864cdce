from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from manifests.runtime.console import UserError
from manifests.schema import DISTRACTOR, JUNK
from reid.data.labels import Labels
from reid.evaluation.ranking import Ranking, check_matches, distance_of, rank
from reid.models.torchreid_adapter import evaluate_rank

# Sums of the same float64 terms in another order.
SAME_SUM = 1e-12
# torchreid holds distances and its cumulative sums in float32.
TORCHREID = 1e-6


def made_up(
    num_queries: int, num_gallery: int, num_people: int, seed: int = 0, cameras: int = 3
) -> tuple[Labels, Labels, np.random.Generator]:
    generator = np.random.default_rng(seed)

    def labels(count: int) -> Labels:
        people = generator.integers(1, num_people + 1, count)
        return Labels(people.astype("U4"), generator.integers(0, cameras, count))

    return labels(num_queries), labels(num_gallery), generator


def by_hand(positions: list[int], length: int = 10) -> Ranking:
    """Rank one query whose matches stand at these positions (from 1)."""
    people = np.array(["b"] * length)
    people[np.array(positions) - 1] = "a"
    gallery = Labels(people, np.full(length, 2))
    distances = np.arange(length, dtype=np.float64)[None]
    return rank(distances, Labels(np.array(["a"]), np.array([1])), gallery)


@pytest.mark.parametrize("levels", [None, 2, 10])
def test_average_precision_equals_scikit_learn_for_every_query_also_under_heavy_ties(levels):
    query, gallery, generator = made_up(40, 300, 12)
    distances = generator.random((40, 300))
    if levels is not None:
        distances = np.floor(distances * levels)
    ranking = rank(distances, query, gallery)
    for row, value in zip(ranking.queries, ranking.average_precision, strict=True):
        same = gallery.people == query.people[row]
        kept = ~(same & (gallery.cameras == query.cameras[row]))
        expected = average_precision_score(same[kept], -distances[row, kept])
        assert value == pytest.approx(expected, abs=SAME_SUM)


@pytest.mark.parametrize("seed", range(3))
def test_map_and_cmc_equal_torchreid_without_ties(seed):
    query, gallery, generator = made_up(30, 400, 8, seed)
    distances = generator.permutation(30 * 400).reshape(30, 400).astype(np.float32)
    ranking = rank(distances, query, gallery)
    cmc, average = evaluate_rank(
        distances,
        (query.people.astype(int), query.cameras),
        (gallery.people.astype(int), gallery.cameras),
    )
    assert ranking.mean_average_precision == pytest.approx(average, abs=TORCHREID)
    np.testing.assert_allclose(ranking.cmc(50), cmc, atol=TORCHREID)


def test_chunks_of_queries_do_not_matter():
    query, gallery, generator = made_up(600, 50, 9)
    distances = generator.random((600, 50))
    whole = rank(distances, query, gallery)
    tail = rank(distances[500:], query.take(np.arange(500, 600)), gallery)
    assert whole.queries[-1] == 599
    np.testing.assert_array_equal(
        whole.average_precision[whole.queries >= 500], tail.average_precision
    )


@pytest.mark.parametrize("levels", [1, 3, 1000])
def test_no_number_depends_on_the_order_of_the_gallery(levels):
    query, gallery, generator = made_up(50, 200, 10)
    distances = np.floor(generator.random((50, 200)) * levels)
    order = generator.permutation(200)
    one = rank(distances, query, gallery)
    other = rank(distances[:, order], query, gallery.take(order))
    for name in Ranking.__slots__:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_no_query_depends_on_the_order_of_the_queries():
    query, gallery, generator = made_up(50, 60, 40)
    distances = np.floor(generator.random((50, 60)) * 10)
    order = generator.permutation(50)
    one = rank(distances, query, gallery)
    other = rank(distances[order], query.take(order), gallery)
    back = np.argsort(order[other.queries])
    assert 0 < len(one.unmatched) < 50
    np.testing.assert_array_equal(np.sort(order[other.unmatched]), one.unmatched)
    np.testing.assert_array_equal(order[other.queries][back], one.queries)
    for name in set(Ranking.__slots__) - {"queries", "unmatched"}:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name)[back], err_msg=name)


def test_trapezoidal_precision_of_hits_at_1_2_4_7():
    ranking = by_hand([1, 2, 4, 7])
    expected = ((1 + 1) / 2 + (1 + 1) / 2 + (2 / 3 + 3 / 4) / 2 + (3 / 6 + 4 / 7) / 2) / 4
    assert ranking.trapezoidal_precision[0] == pytest.approx(expected, abs=SAME_SUM)
    assert ranking.average_precision[0] == pytest.approx((1 + 1 + 3 / 4 + 4 / 7) / 4, abs=SAME_SUM)


def test_inverse_penalty_is_matches_over_the_rank_of_the_last():
    assert by_hand([1, 2, 4, 8]).inverse_penalty[0] == 0.5


def test_cmc_counts_the_first_match_only():
    np.testing.assert_array_equal(by_hand([3, 4]).cmc(5), [0, 0, 1, 1, 1])


def test_a_match_tied_with_others_counts_as_last_of_them():
    query = Labels(np.array(["a"]), np.array([1]))
    gallery = Labels(np.array(["a", "b", "c", "d"]), np.full(4, 2))
    ranking = rank(np.array([[1.0, 1.0, 1.0, 2.0]]), query, gallery)
    assert ranking.first_rank[0] == 3
    assert ranking.average_precision[0] == pytest.approx(1 / 3)
    assert ranking.num_tied[0] == 1


def test_the_own_person_on_the_own_camera_is_ignored_and_others_there_are_not():
    query = Labels(np.array(["a"]), np.array([1]))
    gallery = Labels(np.array(["a", "b", "a"]), np.array([1, 1, 2]))
    ranking = rank(np.array([[0.0, 1.0, 2.0]]), query, gallery)
    assert (ranking.first_rank[0], ranking.num_matches[0]) == (2, 1)


def test_junk_is_never_ranked_and_a_distractor_costs_precision():
    query = Labels(np.array(["a"]), np.array([1]))
    gallery = Labels(np.array([JUNK, DISTRACTOR, "a"]), np.array([2, 2, 2]))
    ranking = rank(np.array([[0.0, 1.0, 2.0]]), query, gallery)
    assert ranking.first_rank[0] == 2
    assert ranking.average_precision[0] == 0.5


@pytest.mark.parametrize("cameras", [([1, 2], [-1, -1]), ([-1, -1], [1, 2]), ([-1, -1], [-1, -1])])
def test_unknown_cameras_are_refused_where_the_protocol_looks_at_them(cameras):
    query, gallery = (Labels(np.array(["a", "b"]), np.array(part)) for part in cameras)
    for look in (
        lambda: rank(np.eye(2), query, gallery),
        lambda: check_matches(query, gallery, "market1501"),
    ):
        with pytest.raises(UserError, match=r"none of 2 .* has a camera.*--protocol all-cameras"):
            look()
    assert rank(1 - np.eye(2), query, gallery, "all-cameras").mean_average_precision == 1


def test_all_cameras_ignores_the_own_image_only():
    query = Labels(np.array(["a"]), np.array([1]), np.array(["a1"]))
    gallery = Labels(np.array(["a", "b", "a"]), np.array([1, 1, 1]), np.array(["a1", "b1", "a2"]))
    ranking = rank(np.array([[0.0, 1.0, 2.0]]), query, gallery, "all-cameras")
    assert (ranking.first_rank[0], ranking.num_matches[0]) == (2, 1)


def test_queries_without_a_match_are_listed_and_left_out_of_the_mean():
    query = Labels(np.array(["a", "nobody", "b"]), np.array([1, 1, 1]))
    gallery = Labels(np.array(["a", "b"]), np.array([2, 1]))
    ranking = rank(np.zeros((3, 2)) + np.arange(2), query, gallery)
    assert ranking.queries.tolist() == [0]
    assert ranking.unmatched.tolist() == [1, 2]
    assert ranking.mean_average_precision == 1


def test_no_match_at_all_is_refused_with_the_numbers():
    query = Labels(np.array(["a"]), np.array([1]))
    with pytest.raises(ValueError, match="none of 1 queries has a match among 1 gallery images"):
        rank(np.zeros((1, 1)), query, query)


def test_a_gallery_of_nothing_but_junk_is_refused_with_the_numbers():
    query, junk = Labels(np.array(["a"]), np.array([1])), Labels(np.array(["-1"]), np.array([2]))
    with pytest.raises(UserError, match="none of 1 queries has a match among 0 gallery images"):
        check_matches(query, junk, "market1501")


def test_a_small_gallery_with_uneven_removal_is_ranked_where_torchreid_crashes():
    query = Labels(np.array(["1", "2"]), np.array([1, 1]))
    gallery = Labels(np.array(["1", "1", "2"]), np.array([1, 2, 2]))
    distances = np.array([[0.0, 1.0, 2.0], [1.0, 2.0, 0.0]], np.float32)
    with pytest.raises(ValueError, match="inhomogeneous"):
        evaluate_rank(
            distances,
            (query.people.astype(int), query.cameras),
            (gallery.people.astype(int), gallery.cameras),
        )
    assert rank(distances, query, gallery).cmc(3).tolist() == [1, 1, 1]


def test_cmc_does_not_fall_where_few_gallery_images_are_kept():
    # Ten of twelve gallery images are ignored for the first query; the second finds its match last.
    query = Labels(np.array(["1", "2"]), np.array([1, 1]))
    gallery = Labels(np.array(["1"] * 11 + ["2"]), np.array([1] * 10 + [2, 2]))
    distances = np.tile(np.arange(12.0), (2, 1))
    ranking = rank(distances, query, gallery)
    assert ranking.first_rank.tolist() == [1, 12]
    assert ranking.cmc(11).tolist() == [0.5] * 11
    assert ranking.cmc(12)[11] == 1


@pytest.mark.parametrize("protocol", ["market1501", "all-cameras"])
@pytest.mark.parametrize("levels", [3, 40, 10**9])
def test_every_measure_equals_one_look_at_the_sorted_list(levels, protocol):
    query, gallery, generator = made_up(40, 200, 9)
    images = [np.arange(len(part)).astype(str) for part in (query, gallery)]
    query, gallery = (
        Labels(np.where(generator.random(len(part)) < 0.1, JUNK, part.people), part.cameras, names)
        for part, names in zip((query, gallery), images, strict=True)
    )
    distances = np.floor(generator.random((40, 200)) * levels)
    ranking = rank(distances, query, gallery, protocol)
    expected: list[tuple[float, ...]] = []
    for row, (person, camera, name) in enumerate(
        zip(query.people, query.cameras, images[0], strict=True)
    ):
        same = gallery.people == person
        hidden = gallery.cameras == camera if protocol == "market1501" else images[1] == name
        kept = (gallery.people != JUNK) & ~(same & hidden)
        # Of equally near images the matches stand last.
        order = np.lexsort((same[kept], distances[row, kept]))
        hits = np.flatnonzero(same[kept][order]) + 1
        if person == JUNK or not len(hits):
            continue
        found = np.arange(1, len(hits) + 1)
        before = np.where(hits > 1, (found - 1) / np.maximum(hits - 1, 1), 1)
        others = set(distances[row, kept & ~same])
        ties = sum(value in others for value in distances[row, kept & same])
        trapezoid = ((before + found / hits) / 2).mean()
        expected.append((row, trapezoid, len(hits) / hits[-1], hits[0], len(hits), ties))
    columns = np.array(expected).T
    np.testing.assert_array_equal(ranking.queries, columns[0])
    np.testing.assert_allclose(ranking.trapezoidal_precision, columns[1], atol=SAME_SUM)
    np.testing.assert_array_equal(ranking.inverse_penalty, columns[2])
    np.testing.assert_array_equal(ranking.first_rank, columns[3])
    np.testing.assert_array_equal(ranking.num_matches, columns[4])
    np.testing.assert_array_equal(ranking.num_tied, columns[5])
    assert len(ranking.unmatched) == 40 - len(expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_distances_and_features_that_are_not_finite_are_refused(bad):
    query, gallery, generator = made_up(3, 20, 2)
    distances = generator.random((3, 20))
    distances[1, 4] = bad
    with pytest.raises(ValueError, match="not finite"):
        rank(distances, query, gallery)
    features = generator.random((20, 4))
    features[3, 3] = bad
    with pytest.raises(ValueError, match="gallery features are not finite"):
        distance_of(features[:3], features, "cosine")


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_features_whose_length_overflows_are_refused_and_no_ties(distance):
    _, _, generator = made_up(3, 20, 2)
    features = generator.random((20, 4)).astype(np.float32)
    distance_of(features, features * np.float32(1e18), distance)
    with pytest.raises(ValueError, match="gallery features are too large for float32"):
        distance_of(features, features * np.float32(1e20), distance)


def test_finite_distances_whose_sum_overflows_are_ranked():
    query, gallery, generator = made_up(3, 20, 2)
    distances = (generator.random((3, 20)) * 3e38).astype(np.float32)
    large, small = rank(distances, query, gallery), rank(distances / 1e30, query, gallery)
    np.testing.assert_array_equal(large.average_precision, small.average_precision)


def test_constant_features_score_as_one_block_of_ties():
    query, gallery, _ = made_up(30, 100, 5)
    ranking = rank(distance_of(np.ones((30, 8)), np.ones((100, 8)), "cosine"), query, gallery)
    kept = [
        (~((gallery.people == person) & (gallery.cameras == camera))).sum()
        for person, camera in zip(query.people, query.cameras, strict=True)
    ]
    np.testing.assert_allclose(ranking.average_precision, ranking.num_matches / kept)
    np.testing.assert_array_equal(ranking.num_tied, ranking.num_matches)


def test_map_falls_when_a_match_moves_down():
    values = [by_hand([2, place]).mean_average_precision for place in range(3, 11)]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == len(values)


def test_euclidean_and_cosine_agree_on_features_of_unit_length():
    query, gallery, generator = made_up(20, 100, 5)
    features = generator.normal(size=(120, 6))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    one, other = (
        rank(distance_of(features[:20], features[20:], distance), query, gallery)
        for distance in ("cosine", "euclidean")
    )
    np.testing.assert_array_equal(one.first_rank, other.first_rank)
    np.testing.assert_array_equal(one.average_precision, other.average_precision)
