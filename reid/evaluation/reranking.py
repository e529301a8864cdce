"""Re-ranking by k-reciprocal neighbours, without a matrix of all images by all images.

Zhong et al. 2017, "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR.

The numbers are those of the authors' code, which differs from the paper's equations in four ways:
the distance is divided by the largest of its row; an image counts among its own k + 1 nearest; a
neighbour's set joins if it shares *more* than two thirds of its images (equation 4 says at least);
every encoding (equation 7) is divided by its sum. Equally near neighbours are taken in no
particular order.

The distance that goes in is the one asked for, as it is: ``cosine`` or the squared Euclidean
distance. torchreid squares what it is given, which is squared already.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from manifests.runtime.console import UserError
from reid.evaluation.ranking import Distance, DistanceFunction, distance_of

_CHUNK: Final = 128
_ENTRY_BYTES: Final = 8
"""Of a sparse matrix: a float32 and an int32."""


@dataclass(frozen=True, slots=True)
class Reranking:
    """The three numbers of the method; the defaults are the paper's for Market-1501."""

    k1: int = 20
    """Nearest images that can be reciprocal neighbours."""
    k2: int = 6
    """Nearest images over which encodings are averaged, the image itself included."""
    weight: float = 0.3
    """Of the distance that goes in (lambda in equation 12); the Jaccard distance has the rest."""


def reranked(
    query_features: Float[np.ndarray, "query width"],
    gallery_features: Float[np.ndarray, "gallery width"],
    distance: Distance,
    reranking: Reranking,
) -> DistanceFunction:
    """Return the function that gives the re-ranked distances of a slice of queries (equation 12).

    Raises:
        ValueError: If a feature is not finite.
        UserError: If more memory is needed than there is, or a number is out of range.
    """
    _check(reranking)
    features = np.concatenate([query_features, gallery_features])
    check_memory(needed_bytes(len(features), features.shape[1], reranking), available_bytes())
    raw = distance_of(features, features, distance)
    nearest, largest = _neighbours(raw, len(features), reranking.k1 + 1)

    def measure(rows: slice) -> np.ndarray:
        return raw(rows) / largest[rows, None]

    encoded = _encode(measure, nearest, reranking)
    by_image = encoded.tocsc()
    num_queries = len(query_features)

    def final(rows: slice) -> np.ndarray:
        jaccard = _jaccard(encoded, by_image, range(*rows.indices(num_queries)))
        mixed = (1 - reranking.weight) * jaccard + reranking.weight * measure(rows)
        return mixed[:, num_queries:].astype(np.float32)

    return final


def needed_bytes(num_images: int, width: int, reranking: Reranking) -> int:
    """Return an upper bound of the memory that re-ranking takes."""
    half_k1 = _half(reranking.k1)
    entries = min(num_images, (reranking.k1 + 1) * (half_k1 + 2))
    averaged = min(num_images, reranking.k2 * entries)
    sparse_matrices = num_images * (entries + 2 * averaged) * _ENTRY_BYTES
    nearest, near = min(num_images, reranking.k1 + 1), min(num_images, half_k1 + 1)
    # Two arrays of one byte: the neighbours of every neighbour, each held against all neighbours.
    compared = 2 * _CHUNK * nearest * near * nearest
    chunks = 8 * _CHUNK * num_images * 8
    return 2 * num_images * width * 4 + sparse_matrices + chunks + compared


def available_bytes() -> int | None:
    """Return the memory that this process can still take, None where the system does not say."""
    found: list[int] = []
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text("ascii").splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    group = Path("/sys/fs/cgroup")
    limit, used = group / "memory.max", group / "memory.current"
    if limit.exists() and limit.read_text("ascii").strip() != "max":
        found.append(int(limit.read_text("ascii")) - int(used.read_text("ascii")))
    return min(found, default=None)


def check_memory(needed: int, available: int | None) -> None:
    """Check that there is enough memory.

    Raises:
        UserError: If not; says how much is needed and how much there is.
    """
    if available is not None and needed > available:
        raise UserError(
            f"--rerank needs up to {needed / 1e9:.1f} GB of memory, found {available / 1e9:.1f} GB "
            "available; expected a smaller --rerank-k1 or --rerank-k2, or no --rerank"
        )


def _check(reranking: Reranking) -> None:
    if reranking.k1 < 1 or reranking.k2 < 1 or not 0 <= reranking.weight <= 1:
        raise UserError(
            f"re-ranking: found k1 {reranking.k1}, k2 {reranking.k2}, lambda {reranking.weight}; "
            "expected k1 and k2 from 1 on and a lambda from 0 to 1"
        )


def _half(k1: int) -> int:
    # Rounded to the even number, as the authors' code does.
    return int(np.around(k1 / 2))


def _chunks(count: int) -> Iterator[slice]:
    for start in range(0, count, _CHUNK):
        yield slice(start, min(start + _CHUNK, count))


def _neighbours(
    measure: DistanceFunction, count: int, number: int
) -> tuple[Int[np.ndarray, "images number"], Float[np.ndarray, " images"]]:
    """Return every image's nearest images in order (equation 2), and its largest distance."""
    number = min(number, count)
    nearest = np.empty((count, number), np.int32)
    largest = np.empty(count, np.float32)
    for rows in _chunks(count):
        distances = measure(rows)
        largest[rows] = np.maximum(distances.max(axis=1), np.finfo(np.float32).tiny)
        some = np.argpartition(distances, number - 1, axis=1)[:, :number]
        order = np.argsort(np.take_along_axis(distances, some, axis=1), axis=1, kind="stable")
        nearest[rows] = np.take_along_axis(some, order, axis=1)
    return nearest, largest


def _reciprocal(
    nearest: Int[np.ndarray, "images number"], rows: np.ndarray
) -> Bool[np.ndarray, "rows number"]:
    """Return which of the neighbours have the image among theirs too (equation 3)."""
    return (nearest[nearest[rows]] == rows[:, None, None]).any(axis=2)


def _encode(measure: DistanceFunction, nearest: np.ndarray, reranking: Reranking) -> Any:
    """Return the averaged encodings of all images, one sparse row each (equations 7 and 11)."""
    count = len(nearest)
    near = nearest[:, : _half(reranking.k1) + 1]
    near_is_mutual = np.concatenate(
        [_reciprocal(near, np.arange(count)[rows]) for rows in _chunks(count)]
    )
    parts: list[Any] = []
    for rows in _chunks(count):
        owner, image = _expanded(nearest, near, near_is_mutual, np.arange(count)[rows])
        weight = np.exp(-measure(rows)[owner, image].astype(np.float64))
        weight /= np.bincount(owner, weight)[owner]
        shape = (rows.stop - rows.start, count)
        parts.append(sparse.csr_array((weight.astype(np.float32), (owner, image)), shape=shape))
    encoded = sparse.vstack(parts, format="csr")
    number = min(reranking.k2, nearest.shape[1])
    starts = np.arange(0, count * number + 1, number)
    mean = np.full(count * number, 1 / number, np.float32)
    neighbourhood = sparse.csr_array(
        (mean, nearest[:, :number].reshape(-1), starts), shape=(count, count)
    )
    return neighbourhood @ encoded


def _expanded(
    nearest: np.ndarray, near: np.ndarray, near_is_mutual: np.ndarray, rows: np.ndarray
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """Return the images of every row's expanded set (equation 4) as (place in rows, image)."""
    own, mutual = nearest[rows], _reciprocal(nearest, rows)
    theirs, their_mutual = near[own], near_is_mutual[own]
    shared = (theirs[..., None] == own[:, None, None, :]) & mutual[:, None, None, :]
    common = (shared.any(axis=3) & their_mutual).sum(axis=2)
    joins = mutual & (3 * common > 2 * their_mutual.sum(axis=2))
    place, neighbour = np.nonzero(mutual)
    join_place, join, member = np.nonzero(joins[..., None] & their_mutual)
    owner = np.concatenate([place, join_place])
    image = np.concatenate([own[place, neighbour], theirs[join_place, join, member]])
    return np.divmod(np.unique(owner * len(nearest) + image), len(nearest))


def _jaccard(encoded: Any, by_image: Any, queries: range) -> Float[np.ndarray, "chunk images"]:
    """Return the Jaccard distances of some rows to all images (equations 8 to 10).

    Every encoding sums to one, so the sum of the larger parts is two minus that of the smaller.
    """
    count = encoded.shape[0]
    result = np.empty((len(queries), count))
    for place, query in enumerate(queries):
        entries = slice(encoded.indptr[query], encoded.indptr[query + 1])
        images, values = encoded.indices[entries], encoded.data[entries]
        starts, stops = by_image.indptr[images], by_image.indptr[images + 1]
        lengths = stops - starts
        offsets = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
        where = np.arange(lengths.sum()) + offsets
        smaller = np.minimum(by_image.data[where], np.repeat(values, lengths))
        common = np.bincount(by_image.indices[where], smaller, count)
        result[place] = 1 - common / (2 - common)
    return result
