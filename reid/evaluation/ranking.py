"""Exact ranking of a gallery for every query: average precision, mINP and CMC, safe under ties.

The rank of a match is one plus the number of kept gallery images that are closer, so a sort of the
distances up to the last match and a binary search of the few matches give everything. Queries go by
in chunks: no query-by-gallery matrix is held.

Ties: images at equal distance have no order. Average precision counts all of a tied block, as
scikit-learn's ``average_precision_score`` does; CMC, mINP and the trapezoidal average precision
take the matches of a block as its last. No number depends on the order of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from manifests.runtime.console import UserError
from manifests.runtime.thread_pool import thread_pool
from manifests.schema import JUNK, UNKNOWN_CAMERA
from reid.data.labels import Labels

Protocol = Literal["market1501", "all-cameras"]
"""``market1501``: a query's own person on its own camera is ignored. ``all-cameras``: only the
query's own image is, for data of a single camera."""

_EXPECTED: Final[Mapping[Protocol, str]] = {
    "market1501": "images of a person by two cameras (--protocol all-cameras is for data of one "
    "camera)",
    "all-cameras": "two images of a person",
}

Distance = Literal["cosine", "euclidean"]

DistanceFunction = Callable[[slice], Float[np.ndarray, "chunk gallery"]]
"""From a slice of queries to their distances."""

NUM_RANKS: Final = 50
CHUNK: Final = 256
_THREADS: Final = 2


@dataclass(frozen=True, slots=True)
class Ranking:
    """How every query fared; arrays have one entry per query that has a match."""

    queries: Int[np.ndarray, " matched"]
    """Row of the query in the table it came from."""
    average_precision: Float[np.ndarray, " matched"]
    """Non-interpolated: the mean over matches of the precision at each."""
    trapezoidal_precision: Float[np.ndarray, " matched"]
    """By trapezoids, as the Matlab code of Market-1501 does."""
    inverse_penalty: Float[np.ndarray, " matched"]
    """Matches over the rank of the last one (mINP, Ye et al. 2021, equation 1)."""
    first_rank: Int[np.ndarray, " matched"]
    """Rank of the first match, counted from 1."""
    num_matches: Int[np.ndarray, " matched"]
    num_tied: Int[np.ndarray, " matched"]
    """Matches at exactly the distance of another person's image."""
    unmatched: Int[np.ndarray, " unmatched"]
    """Queries without any match, left out of every mean."""

    @property
    def mean_average_precision(self) -> float:
        """The mean of ``average_precision``: the headline."""
        return float(self.average_precision.mean())

    def cmc(self, num_ranks: int = NUM_RANKS) -> Float[np.ndarray, " ranks"]:
        """Return the share of queries whose first match stands at rank 1, 2, ... or before."""
        counts = np.bincount(np.minimum(self.first_rank, num_ranks + 1), minlength=num_ranks + 2)
        return counts.cumsum()[1 : num_ranks + 1] / len(self.queries)


def rank(
    distances: Float[np.ndarray, "query gallery"] | DistanceFunction,
    query: Labels,
    gallery: Labels,
    protocol: Protocol = "market1501",
) -> Ranking:
    """Rank the gallery for every query under the Market-1501 protocol.

    Gallery images of the query's own person *and* camera are ignored; a query with no other match
    is left out of the means and listed in ``Ranking.unmatched`` (Zheng et al. 2015, section 5).
    Junk is never ranked; distractors are, and never match.

    >>> query = Labels(np.array(["a"]), np.array([1]))
    >>> gallery = Labels(np.array(["b", "a", "a"]), np.array([2, 2, 1]))
    >>> rank(np.array([[0.1, 0.2, 0.0]]), query, gallery).average_precision
    array([0.5])

    Args:
        distances: The matrix, or what gives the rows of a slice (see ``distance_of``).
        query: One entry per row.
        gallery: One entry per column.
        protocol: Which gallery images a query ignores.

    Raises:
        UserError: If no query has a match, or all queries or all gallery images are of unknown
            cameras under the protocol ``market1501``.
        ValueError: If a distance is not finite.
    """
    if not isinstance(distances, np.ndarray):
        return _rank(distances, query, gallery, protocol)
    if distances.shape != (len(query), len(gallery)):
        raise ValueError(f"distances are {distances.shape}, expected {(len(query), len(gallery))}")
    return _rank(distances.__getitem__, query, gallery, protocol)


def check_matches(query: Labels, gallery: Labels, protocol: Protocol) -> None:
    """Check that a query has a match, as ``rank`` does: before a network is trained for it.

    Raises:
        UserError: If none has, or cameras are unknown where the protocol looks at them.
    """
    kept = gallery.take(np.flatnonzero(np.asarray(gallery.people != JUNK)))
    _check_matched(Matches.of(query, kept, protocol), query, kept, protocol)


def distance_of(
    query_features: Float[np.ndarray, "query width"],
    gallery_features: Float[np.ndarray, "gallery width"],
    distance: Distance,
) -> DistanceFunction:
    """Return the function that gives the distances of a slice of queries.

    ``cosine`` is one minus the cosine of the angle, ``euclidean`` the squared Euclidean distance,
    which has the order of the plain one.

    Raises:
        ValueError: If a feature is not finite, or the square of a length is not: such features
            would have no direction and all be ties.
    """
    for name, features in (("query", query_features), ("gallery", gallery_features)):
        if not np.isfinite(features).all():
            raise ValueError(f"{name} features are not finite")
        with np.errstate(over="ignore"):
            if not np.isfinite((features**2).sum(axis=1)).all():
                raise ValueError(f"{name} features are too large for {features.dtype}")
    if distance == "cosine":
        left, right = unit(query_features), unit(gallery_features).T
        return lambda rows: 1 - left[rows] @ right
    squares = (gallery_features**2).sum(axis=1)
    own = (query_features**2).sum(axis=1)[:, None]
    return lambda rows: own[rows] + squares - 2 * (query_features[rows] @ gallery_features.T)


def unit(features: Float[np.ndarray, "rows width"]) -> Float[np.ndarray, "rows width"]:
    """Return the features at length one; one of length zero stays.

    >>> unit(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    norm = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(norm, np.finfo(features.dtype).tiny)


@dataclass(frozen=True, slots=True)
class Matches:
    """Gallery rows of every query's person, as flat arrays cut at ``starts``."""

    starts: Int[np.ndarray, " queries_plus_1"]
    gallery: Int[np.ndarray, " pairs"]
    ignored: Bool[np.ndarray, " pairs"]

    @classmethod
    def of(cls, query: Labels, gallery: Labels, protocol: Protocol) -> Matches:
        """Return them; junk is taken for a person, so leave it out before."""
        if not len(gallery):
            none = np.empty(0, np.int64)
            return cls(np.zeros(len(query) + 1, np.int64), none, none.astype(bool))
        names, codes = np.unique(gallery.people, return_inverse=True)
        order = np.argsort(codes, kind="stable")
        first = np.searchsorted(codes[order], np.arange(len(names) + 1))
        place = np.searchsorted(names, query.people)
        place = np.where(place < len(names), place, 0)
        known = names[place] == query.people
        counts = np.where(known, first[place + 1] - first[place], 0)
        starts = np.concatenate([[0], np.cumsum(counts)])
        within = np.arange(starts[-1]) - np.repeat(starts[:-1], counts)
        rows = order[np.repeat(first[place], counts) + within]
        owner = np.repeat(np.arange(len(query)), counts)
        if protocol == "market1501":
            ignored = gallery.cameras[rows] == query.cameras[owner]
        elif query.images is None or gallery.images is None:
            ignored = np.zeros(len(rows), bool)
        else:
            ignored = gallery.images[rows] == query.images[owner]
        return cls(starts, rows, ignored)


def _rank(
    distances_of_rows: DistanceFunction, query: Labels, gallery: Labels, protocol: Protocol
) -> Ranking:
    kept = np.flatnonzero(np.asarray(gallery.people != JUNK))
    if len(kept) < len(gallery):
        whole = distances_of_rows
        gallery, distances_of_rows = gallery.take(kept), lambda rows: whole(rows)[:, kept]
    matches = Matches.of(query, gallery, protocol)
    _check_matched(matches, query, gallery, protocol)

    def chunk(start: int) -> list[_Ranks]:
        rows = slice(start, min(start + CHUNK, len(query)))
        distances = distances_of_rows(rows)
        _check_finite(distances, rows)
        return _ranks_of(distances, rows, matches)

    with thread_pool(_THREADS) as pool:
        found = [p for part in pool.map(chunk, range(0, len(query), CHUNK)) for p in part]
    return _ranking_of(found, len(query))


def _check_matched(matches: Matches, query: Labels, gallery: Labels, protocol: Protocol) -> None:
    if protocol == "market1501":
        _check_cameras(query, "queries")
        _check_cameras(gallery, "gallery images")
    if matches.ignored.all():
        raise UserError(
            f"none of {len(query)} queries has a match among {len(gallery)} gallery images under "
            f"the protocol '{protocol}'; expected {_EXPECTED[protocol]}"
        )


def _check_cameras(labels: Labels, what: str) -> None:
    if len(labels) and (labels.cameras == UNKNOWN_CAMERA).all():
        raise UserError(
            f"none of {len(labels)} {what} has a camera, so nothing of a query's own camera could "
            "be ignored and the scores would be too high; expected camera_id, or --protocol "
            "all-cameras"
        )


def _check_finite(distances: np.ndarray, rows: slice) -> None:
    # A sum is quicker than a look at every number; finite numbers can overflow in it.
    with np.errstate(all="ignore"):
        total = distances.sum()
    if not np.isfinite(total) and not np.isfinite(distances).all():
        raise ValueError(f"distances of queries {rows.start} to {rows.stop - 1} are not finite")


@dataclass(frozen=True, slots=True)
class _Ranks:
    """Where the matches of one query stand, nearest first, among the images that are kept."""

    query: int
    before: Int[np.ndarray, " matches"]
    """Kept images that are nearer than the match."""
    until: Int[np.ndarray, " matches"]
    """Kept images that are nearer or as near, itself included."""
    first_equal: Int[np.ndarray, " matches"]
    """Matches that are nearer."""
    last_equal: Int[np.ndarray, " matches"]
    """Matches that are nearer or as near, itself included."""


def _ranks_of(distances: np.ndarray, rows: slice, matches: Matches) -> list[_Ranks]:
    """Return the places of every query of a chunk that has a match.

    Only gallery images at most as far as a query's last match decide anything, so only they are
    sorted; the few ignored ones are counted out again.
    """
    found: list[_Ranks] = []
    for query, row in zip(range(rows.start, rows.stop), distances, strict=True):
        pairs = slice(matches.starts[query], matches.starts[query + 1])
        gallery, ignored = matches.gallery[pairs], matches.ignored[pairs]
        own, hidden = row[gallery[~ignored]], row[gallery[ignored]]
        if not len(own):
            continue
        own.sort()
        hidden.sort()
        near = row[row <= own[-1]]
        near.sort()
        found.append(
            _Ranks(
                query,
                near.searchsorted(own, "left") - hidden.searchsorted(own, "left"),
                near.searchsorted(own, "right") - hidden.searchsorted(own, "right"),
                own.searchsorted(own, "left"),
                own.searchsorted(own, "right"),
            )
        )
    return found


def _ranking_of(found: list[_Ranks], num_queries: int) -> Ranking:
    """Return the measures of all queries, computed over all matches at once."""
    queries = np.array([ranks.query for ranks in found])
    count = np.array([len(ranks.until) for ranks in found])
    ends = np.cumsum(count)
    starts = ends - count
    before, until, first, last = (
        np.concatenate([getattr(ranks, name) for ranks in found])
        for name in ("before", "until", "first_equal", "last_equal")
    )
    # The matches of a tied block take its last ranks.
    number = np.arange(1, ends[-1] + 1) - np.repeat(starts, count)
    place = until - (last - number)
    earlier = np.where(place > 1, (number - 1) / np.maximum(place - 1, 1), 1.0)
    tied = until - before > last - first
    return Ranking(
        queries,
        np.add.reduceat(last / until, starts) / count,
        np.add.reduceat(earlier + number / place, starts) / (2 * count),
        count / until[ends - 1],
        place[starts],
        count,
        np.add.reduceat(tied.astype(np.int64), starts),
        unmatched=np.setdiff1d(np.arange(num_queries), queries),
    )
