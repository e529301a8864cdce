"""What a ranking looks like, held against the ranking and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from reid.data.labels import Labels
from reid.evaluation.ranking import rank
from reid.evaluation.retrieval import Retrieval, Span, retrieve, verification_block

COSINE = Span(0.0, 2.0, "cosine similarity", 1.0)


def made_up(seed: int, levels: int = 10**6) -> tuple[np.ndarray, Labels, Labels]:
    """Return distances of so many levels, query and gallery with junk; few levels make ties."""
    generator = np.random.default_rng(seed)

    def labels(count: int, *more: str) -> Labels:
        names = np.array(["p1", "p2", "p3", *more])
        people = generator.choice(names, count)
        return Labels(people, generator.integers(1, 4, count), np.arange(count).astype(str))

    query, gallery = labels(300), labels(60, "-1", "0000")
    return (generator.integers(0, levels, (300, 60)) / levels).astype(np.float32), query, gallery


def found(seed: int, levels: int = 10**6) -> tuple[Retrieval, np.ndarray, Labels, Labels]:
    distances, query, gallery = made_up(seed, levels)
    return retrieve(distances.__getitem__, query, gallery, COSINE), distances, query, gallery


def is_kept(query: Labels, gallery: Labels, row: int) -> np.ndarray:
    own = gallery.people == query.people[row]
    return ~(own & (gallery.cameras == query.cameras[row])) & (gallery.people != "-1")


def test_the_nearest_are_the_first_of_the_sorted_gallery_without_what_is_ignored():
    retrieval, distances, query, gallery = found(0)
    for row in range(len(query)):
        kept = np.flatnonzero(is_kept(query, gallery, row))
        expected = kept[distances[row, kept].argsort()][:10]
        assert retrieval.nearest[row].tolist() == expected.tolist()
        assert (retrieval.distances[row] == distances[row, expected]).all()
        right = gallery.people[expected] == query.people[row]
        assert retrieval.is_match[row].tolist() == right.tolist()


@pytest.mark.parametrize("levels", [10**6, 5])
def test_average_precision_over_matches_of_a_camera_alone_follows_from_the_wrong_before(levels):
    retrieval, distances, query, gallery = found(1, levels)
    for row in range(len(query)):
        other = gallery.people != query.people[row]
        for camera in (1, 2, 3):
            seen = np.array(retrieval.match_cameras[row], int) == camera
            wrong = np.array(retrieval.match_wrong[row], int)[seen]
            match = is_kept(query, gallery, row) & ~other & (gallery.cameras == camera)
            kept = np.flatnonzero((is_kept(query, gallery, row) & other) | match)
            if not match.any():
                assert not len(wrong)
                continue
            # A match stands behind everybody else at its distance.
            order = kept[np.lexsort((match[kept], distances[row, kept]))]
            hits = np.flatnonzero(match[order]) + 1
            number = np.arange(1, len(hits) + 1)
            assert (number / hits).tolist() == (number / (number + wrong)).tolist()


def test_average_precision_over_all_matches_is_that_of_the_ranking():
    retrieval, distances, query, gallery = found(2)
    ranking = rank(distances, query, gallery)
    for row, expected in zip(ranking.queries, ranking.average_precision, strict=True):
        wrong = np.array(retrieval.match_wrong[row])
        number = np.arange(1, len(wrong) + 1)
        assert (number / (number + wrong)).mean() == pytest.approx(expected, abs=1e-12)


def test_rates_of_a_threshold_equal_those_of_scikit_learn():
    retrieval, distances, query, gallery = found(3)
    block = verification_block(retrieval, COSINE)
    kept = np.stack([is_kept(query, gallery, row) for row in range(len(query))])
    same = (gallery.people[None] == query.people[:, None])[kept]
    false, true, _ = roc_curve(same, 1 - distances[kept], drop_intermediate=False)
    assert block["num_positives"] == same.sum()
    assert block["num_negatives"] == (~same).sum()
    for limit, rate in zip(block["roc"]["fpr"], block["roc"]["tpr"], strict=True):
        # Thresholds stand at borders of bins, which hold up to two pairs here.
        assert rate == pytest.approx(true[false <= limit].max(), abs=2 / same.sum())
    assert block["tpr_at_fpr"]["0.01"] == block["roc"]["tpr"][40]


def test_histograms_go_from_the_least_similar_and_count_every_pair():
    retrieval, distances, query, gallery = found(4)
    block = verification_block(retrieval, COSINE)
    kept = np.stack([is_kept(query, gallery, row) for row in range(len(query))])
    same = (gallery.people[None] == query.people[:, None])[kept]
    assert (block["from"], block["to"]) == (-1.0, 1.0)
    for name, chosen in (("positives", same), ("negatives", ~same)):
        counts, _ = np.histogram(1 - distances[kept][chosen], bins=256, range=(-1, 1))
        # A distance on a border may fall to either side of it.
        assert np.abs(np.cumsum(block[name]) - np.cumsum(counts)).max() <= 3
        assert sum(block[name]) == chosen.sum()


def test_a_small_gallery_leaves_places_empty():
    query = Labels(np.array(["a"]), np.array([1]), np.array(["q"]))
    gallery = Labels(np.array(["a", "a", "-1"]), np.array([2, 1, 3]), np.array(["x", "y", "z"]))
    retrieval = retrieve(np.array([[0.5, 0.1, 0.0]]).__getitem__, query, gallery, COSINE)
    assert retrieval.nearest.tolist() == [[0, -1]]
