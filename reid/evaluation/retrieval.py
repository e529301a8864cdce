"""What a ranking looks like: the nearest images of every query, and the distances of all pairs.

``ranking`` makes the numbers; this is for those who want to see why they are as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float, Int

from manifests.schema import JUNK
from reid.data.labels import Labels
from reid.evaluation.ranking import CHUNK, DistanceFunction, Matches, Protocol

NUM_NEAREST: Final = 10
FALSE_POSITIVE_RATES: Final = (1e-4, 1e-3, 1e-2)

_FINE: Final = 1 << 16
COARSE: Final = 256
ROC_RATES: Final = np.logspace(-6, 0, 61)


@dataclass(frozen=True, slots=True)
class Span:
    """Between which distances all lie, and what similarity they stand for."""

    low: float
    high: float
    name: str
    """Of the similarity, ``offset`` minus the distance."""
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class Retrieval:
    """What stands near every query; the arrays have one entry per query, matched or not."""

    nearest: Int[np.ndarray, "queries nearest"]
    """Gallery rows, nearest first; -1 where there are fewer."""
    distances: Float[np.ndarray, "queries nearest"]
    is_match: Bool[np.ndarray, "queries nearest"]
    match_cameras: list[list[int]]
    """Cameras of the matches, nearest first; of equally near ones the lower number."""
    match_wrong: list[list[int]]
    """For each match the number of images of other people that are as near or nearer: the average
    precision over matches of some cameras alone is the mean of i / (i + this), i from 1."""
    positives: Int[np.ndarray, " bins"]
    negatives: Int[np.ndarray, " bins"]
    """Pairs by their distance, from the nearest: of one person, of two."""


def retrieve(
    distances: DistanceFunction,
    query: Labels,
    gallery: Labels,
    span: Span,
    protocol: Protocol = "market1501",
) -> Retrieval:
    """Return what stands near every query; what ``rank`` ignores is not there.

    Images at the same distance have no particular order.

    Args:
        distances: As ``rank`` takes it.
        query: One entry per row.
        gallery: One entry per column.
        span: Bounds of the distances; what lies beyond counts as at the bound.
        protocol: Which gallery images a query ignores.
    """
    kept = np.flatnonzero(np.asarray(gallery.people != JUNK))
    matches = Matches.of(query, gallery.take(kept), protocol)
    cameras = np.asarray(gallery.cameras)[kept]
    num_nearest = min(NUM_NEAREST, len(kept))
    nearest = np.full((len(query), num_nearest), -1)
    near = np.full((len(query), num_nearest), np.inf, np.float32)
    is_match = np.zeros((len(query), num_nearest), bool)
    match_cameras: list[list[int]] = []
    match_wrong: list[list[int]] = []
    counts = np.zeros((2, _FINE), np.int64)
    for start in range(0, len(query), CHUNK):
        rows = slice(start, min(start + CHUNK, len(query)))
        chunk = np.array(distances(rows)[:, kept], np.float32)
        pairs = slice(matches.starts[rows.start], matches.starts[rows.stop])
        owner = np.repeat(
            np.arange(rows.stop - rows.start), np.diff(matches.starts[rows.start : rows.stop + 1])
        )
        own, ignored = matches.gallery[pairs], matches.ignored[pairs]
        # Not a number is beyond every count and sorts last.
        chunk[owner[ignored], own[ignored]] = np.nan
        counts += _counts(chunk, (owner[~ignored], own[~ignored]), span)
        order = np.argpartition(chunk, num_nearest - 1, axis=1)[:, :num_nearest]
        order = np.take_along_axis(order, np.take_along_axis(chunk, order, 1).argsort(1), 1)
        near[rows] = np.take_along_axis(chunk, order, 1)
        positive = np.zeros(chunk.shape, bool)
        positive[owner, own] = True
        is_match[rows] = np.take_along_axis(positive, order, 1) & ~np.isnan(near[rows])
        nearest[rows] = np.where(np.isnan(near[rows]), -1, kept[order])
        for number, distance in enumerate(chunk):
            mine = own[(owner == number) & ~ignored]
            mine = mine[np.lexsort((cameras[mine], distance[mine]))]
            match_cameras.append(cameras[mine].tolist())
            match_wrong.append(_wrong_before(distance, distance[mine]))
    return Retrieval(nearest, near, is_match, match_cameras, match_wrong, *counts)


def _wrong_before(
    distances: Float[np.ndarray, " gallery"], own: Float[np.ndarray, " matches"]
) -> list[int]:
    if not len(own):
        return []
    near = np.sort(distances[distances <= own[-1]])
    return (near.searchsorted(own, "right") - own.searchsorted(own, "right")).tolist()


def _counts(
    distances: Float[np.ndarray, "chunk gallery"],
    positive: tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]],
    span: Span,
) -> Int[np.ndarray, "2 bins"]:
    """Return how many pairs of one and of two people have which distance."""

    def count(values: np.ndarray) -> np.ndarray:
        found = values[~np.isnan(values)]
        bins = ((found - span.low) * (_FINE / (span.high - span.low))).astype(np.int64)
        return np.bincount(bins.clip(0, _FINE - 1), minlength=_FINE)

    same = count(distances[positive])
    return np.stack([same, count(distances) - same])


def verification_block(retrieval: Retrieval, span: Span) -> dict[str, Any]:
    """Return how well a threshold on the similarity tells pairs of one person from others.

    A true positive rate is the largest that a threshold reaches whose false positive rate is not
    above the one named. Thresholds are taken in 65,536 steps over the span.
    """
    positives, negatives = retrieval.positives, retrieval.negatives
    true = np.concatenate([[0], positives.cumsum()]) / max(positives.sum(), 1)
    false = np.concatenate([[0], negatives.cumsum()]) / max(negatives.sum(), 1)

    def rate(limit: float) -> float:
        return float(true[np.searchsorted(false, limit, side="right") - 1])

    coarse = (np.flip(counts.reshape(COARSE, -1).sum(axis=1)) for counts in (positives, negatives))
    same, other = (counts.tolist() for counts in coarse)
    return {
        "similarity": span.name,
        "from": span.offset - span.high,
        "to": span.offset - span.low,
        "positives": same,
        "negatives": other,
        "num_positives": int(positives.sum()),
        "num_negatives": int(negatives.sum()),
        "tpr_at_fpr": {f"{limit:g}": rate(limit) for limit in FALSE_POSITIVE_RATES},
        "roc": {"fpr": ROC_RATES.tolist(), "tpr": [rate(limit) for limit in ROC_RATES]},
    }
