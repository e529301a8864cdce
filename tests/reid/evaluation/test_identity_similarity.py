from __future__ import annotations

import numpy as np
import pytest

from reid.evaluation.identity_similarity import centroids_of


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def by_hand(image, own, centroids):
    """Return similarity, rank and nearest of one image, one person at a time."""
    cosines = [float(unit(image) @ unit(centroid)) for centroid in centroids]
    before = [c for person, c in enumerate(cosines) if person != own and c >= cosines[own]]
    return cosines[own], 1 + len(before), int(np.argmax(cosines))


def drawn(num_people: int = 5, per_person: int = 3, width: int = 7):
    random = np.random.default_rng(0)
    own = np.repeat(np.arange(num_people), per_person)
    features = random.normal(size=(num_people, width))[own] + random.normal(size=(len(own), width))
    return features * random.uniform(0.1, 10, (len(own), 1)), own


def test_similarity_equals_one_person_at_a_time():
    real, of_real = drawn()
    centroids = [sum(unit(f) for f in real[of_real == person]) for person in range(5)]
    others = np.random.default_rng(1).normal(size=(2000, 7))
    own = np.arange(len(others)) % 5
    found = centroids_of(real, of_real, 5).similarity(others, own)
    for row in range(0, len(others), 7):
        similarity, rank, nearest = by_hand(others[row], own[row], centroids)
        assert found.similarity[row] == pytest.approx(similarity, abs=1e-12)
        assert (found.rank[row], found.nearest[row]) == (rank, nearest)
    assert found.share_within(5) == 1
    assert found.share_within(2) == np.mean(found.rank <= 2)


def test_an_image_left_out_does_not_know_its_own_centroid():
    real, of_real = drawn()
    found = centroids_of(real, of_real, 5).similarity_left_out(real, of_real)
    for row, own in enumerate(of_real):
        kept = np.arange(len(real)) != row
        centroids = [sum(unit(f) for f in real[kept & (of_real == person)]) for person in range(5)]
        similarity, rank, nearest = by_hand(real[row], own, centroids)
        assert found.similarity[row] == pytest.approx(similarity, abs=1e-12)
        assert (found.rank[row], found.nearest[row]) == (rank, nearest)


def test_people_as_near_stand_before_an_image_s_own_so_that_equal_features_tell_nothing():
    same = np.ones((6, 4))
    found = centroids_of(same, np.arange(6), 6).similarity(same, np.arange(6))
    assert found.rank.tolist() == [6] * 6


def test_no_feature_at_all_is_like_nobody():
    real, of_real = drawn()
    found = centroids_of(real, of_real, 5).similarity(np.zeros((1, 7)), np.array([2]))
    assert (found.similarity[0], found.rank[0]) == (0, 5)
