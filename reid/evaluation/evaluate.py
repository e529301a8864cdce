"""Scores of anybody's features: the ranking behind ``reid score``, from Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
from jaxtyping import Float, Int

from manifests.person_ids import check_spellings
from manifests.runtime.console import UserError
from reid.data.labels import Labels
from reid.evaluation.ranking import Distance, Protocol, Ranking, distance_of, rank


def evaluate(  # noqa: PLR0913, PLR0917 - in torchreid's order
    query: Float[np.ndarray, "query width"],
    gallery: Float[np.ndarray, "gallery width"],
    query_people: Sequence[object],
    gallery_people: Sequence[object],
    query_cameras: Sequence[int],
    gallery_cameras: Sequence[int],
    *,
    distance: Distance = "cosine",
    protocol: Protocol = "market1501",
) -> Ranking:
    """Rank a gallery for every query and return how each fared.

    ``.mean_average_precision`` and ``.cmc()[0]`` (rank-1) are shares in [0, 1];
    ``.average_precision`` has one value per query. Ties count as ties, whatever the order of rows.

    >>> evaluate(np.eye(2), np.eye(2), "ab", "ab", [1, 1], [2, 2]).mean_average_precision
    1.0

    Args:
        query: Features, one row per image.
        gallery: Features of the same width.
        query_people: Who is on each image; "-1" is junk and never ranked.
        gallery_people: The same of the gallery.
        query_cameras: Where each was seen; -1 is not known.
        gallery_cameras: The same of the gallery.
        distance: ``cosine`` or ``euclidean``.
        protocol: ``market1501`` ignores gallery images of a query's own person and camera;
            ``all-cameras`` ignores none.

    Raises:
        UserError: If numbers of rows or widths differ, a feature is not finite, no query has a
            match, or there is no such distance or protocol.
    """
    for name, value, known in (
        ("distance", distance, get_args(Distance)),
        ("protocol", protocol, get_args(Protocol)),
    ):
        if value not in known:
            raise UserError(f"found {name} {value!r}, expected one of {', '.join(known)}")
    query, gallery = _features("query", query), _features("gallery", gallery)
    if query.shape[1] != gallery.shape[1]:
        raise UserError(
            f"found features of {query.shape[1]} and of {gallery.shape[1]} numbers for query and "
            "gallery, expected the same"
        )
    of_query = _labels("query", len(query), query_people, query_cameras)
    of_gallery = _labels("gallery", len(gallery), gallery_people, gallery_cameras)
    check_spellings([*of_query.people.tolist(), *of_gallery.people.tolist()], "people")
    try:
        return rank(distance_of(query, gallery, distance), of_query, of_gallery, protocol)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{error}; expected finite numbers") from error


def _features(name: str, values: Float[np.ndarray, "rows width"]) -> np.ndarray:
    """Return features as floating-point numbers: a hash of bits is one too."""
    found = np.atleast_2d(values)
    if found.dtype.kind not in "iufb":
        raise UserError(f"{name}: found features of type {found.dtype}, expected numbers")
    return found if found.dtype.kind == "f" else found.astype(np.float64)


def _labels(name: str, count: int, people: Sequence[object], cameras: Sequence[int]) -> Labels:
    for what, values in (("people", people), ("cameras", cameras)):
        if len(values) != count:
            raise UserError(
                f"{name}: found {len(values)} {what} for {count} features, expected one each"
            )
    with np.errstate(invalid="ignore"):
        found = np.asarray(cameras)
        is_number = found.dtype.kind in "iufb"
        numbers: Int[np.ndarray, " rows"] = found.astype(np.int64) if is_number else np.zeros(0)
    # pandas makes numbers of which one is missing to floats, NaN among them.
    if not is_number or not (numbers == found).all():
        raise UserError(f"{name}: found cameras that are no whole numbers, expected -1 for unknown")
    return Labels(np.array([str(person) for person in people]), numbers)
