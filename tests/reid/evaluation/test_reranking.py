from __future__ import annotations

import numpy as np
import pytest

from manifests.runtime.console import UserError
from reid.evaluation.ranking import distance_of
from reid.evaluation.reranking import Reranking, check_memory, needed_bytes, reranked
from reid.models.torchreid_adapter import re_ranking

# Distances of float32 features, as differences of sums of their squares.
FLOAT32 = 1e-5


def made_up(num_query: int, num_gallery: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features in loose groups, so that reciprocal neighbours exist."""
    generator = np.random.default_rng(seed)
    centroids = generator.normal(size=(12, 8))
    groups = generator.integers(0, 12, num_query + num_gallery)
    features = centroids[groups] + 0.4 * generator.normal(size=(num_query + num_gallery, 8))
    features = features.astype(np.float32)
    return features[:num_query], features[num_query:]


def blocks(whole: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return whole[:count, count:], whole[:count, :count], whole[count:, count:]


def literal(distances: np.ndarray, num_query: int, settings: Reranking) -> np.ndarray:
    """Re-rank by sets and loops, equation by equation of Zhong et al. 2017."""
    distances = distances / distances.max(axis=1, keepdims=True)
    images = range(len(distances))
    order = [sorted(images, key=lambda j, i=i: distances[i, j]) for i in images]

    def reciprocal(image: int, number: int) -> set[int]:  # equation 3
        return {j for j in order[image][: number + 1] if image in order[j][: number + 1]}

    def expanded(image: int) -> set[int]:  # equation 4, with the "more than" of the code
        own = reciprocal(image, settings.k1)
        result = set(own)
        for neighbour in own:
            theirs = reciprocal(neighbour, int(np.around(settings.k1 / 2)))
            if len(own & theirs) > 2 / 3 * len(theirs):
                result |= theirs
        return result

    encoded = np.zeros(distances.shape)  # equation 7, each row divided by its sum
    for image in images:
        for member in expanded(image):
            encoded[image, member] = np.exp(-distances[image, member])
        encoded[image] /= encoded[image].sum()
    averaged = np.array(  # equation 11
        [encoded[order[image][: settings.k2]].mean(axis=0) for image in images]
    )
    result = np.zeros((num_query, len(distances)))
    for query in range(num_query):
        for image in images:  # equations 10 and 12
            smaller = np.minimum(averaged[query], averaged[image]).sum()
            larger = np.maximum(averaged[query], averaged[image]).sum()
            result[query, image] = (1 - settings.weight) * (1 - smaller / larger)
    result += settings.weight * distances[:num_query]
    return result[:, num_query:]


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize(
    "settings", [Reranking(), Reranking(7, 3, 0.5), Reranking(5, 1, 0.0), Reranking(400, 6)]
)
def test_reranking_equals_the_equations_of_the_paper_written_out(distance, settings):
    query, gallery = made_up(20, 60)
    features = np.concatenate([query, gallery])
    distances = distance_of(features, features, distance)(slice(0, len(features)))
    found = reranked(query, gallery, distance, settings)
    expected = literal(distances.astype(np.float64), 20, settings)
    np.testing.assert_allclose(found(slice(0, 20)), expected, atol=FLOAT32)
    # Products of other shapes may round otherwise.
    np.testing.assert_allclose(found(slice(3, 9)), found(slice(0, 20))[3:9], atol=FLOAT32)


def test_reranking_equals_torchreids_once_its_second_squaring_is_undone():
    query, gallery = made_up(30, 300, seed=1)
    features = np.concatenate([query, gallery])
    squared = distance_of(features, features, "euclidean")(slice(0, 330))
    plain = np.sqrt(np.maximum(squared, 0))
    theirs = re_ranking(blocks(plain, 30), 20, 6, 0.3)
    ours = reranked(query, gallery, "euclidean", Reranking())(slice(0, 30))
    np.testing.assert_allclose(ours, theirs, atol=FLOAT32)
    twice = re_ranking(blocks(squared, 30), 20, 6, 0.3)
    assert abs(twice - ours).max() > 100 * FLOAT32


def test_too_little_memory_is_refused_with_what_is_needed_and_what_there_is():
    needed = needed_bytes(19_281, 512, Reranking())
    assert 0.5e9 < needed < 2e9
    check_memory(needed, 8 * 10**9)
    check_memory(needed, None)
    with pytest.raises(UserError, match=r"needs up to \d\.\d GB of memory, found 0\.1 GB"):
        check_memory(needed, 10**8)


def test_many_neighbours_are_counted_in_the_memory_that_is_needed():
    # 128 rows at a time, 1001 neighbours, 501 of theirs each, held against 1001: 8.2 GB twice.
    assert needed_bytes(19_281, 512, Reranking(k1=1000)) > 2 * 128 * 1001 * 501 * 1001


def test_numbers_out_of_range_are_refused():
    query, gallery = made_up(2, 5)
    with pytest.raises(UserError, match=r"found k1 0, k2 6, lambda 0\.3"):
        reranked(query, gallery, "cosine", Reranking(k1=0))
