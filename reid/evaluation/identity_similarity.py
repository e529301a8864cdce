"""Whom an image looks like: the cosine between its feature and every person's centroid.

A person's centroid is the direction of the sum of the unit features of his real images, the nearest
class mean of Mensink et al. 2013 on the unit sphere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

_CHUNK = 1024
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class IdentitySimilarity:
    """How much images look like their own people; one entry per image."""

    similarity: Float[np.ndarray, " images"]
    """Cosine between the image and the centroid of its own person, in [-1, 1]."""
    rank: Int[np.ndarray, " images"]
    """Place of the image's own person among all people, nearest first, counted from 1. People at
    the same distance stand before him."""
    nearest: Int[np.ndarray, " images"]
    """The nearest person; of several as near, the first."""

    def share_within(self, rank: int) -> float:
        """Return the part of the images whose own person is among the ``rank`` nearest."""
        return float((self.rank <= rank).mean())


@dataclass(frozen=True, slots=True)
class Centroids:
    """Where people lie among features."""

    sums: Float[np.ndarray, "people width"]
    """Of the unit features of every person's real images."""

    def directions(self) -> Float[np.ndarray, "people width"]:
        """Return every person's centroid, of length 1."""
        return _unit(self.sums)

    def similarity(
        self, features: Float[np.ndarray, "images width"], own: Int[np.ndarray, " images"]
    ) -> IdentitySimilarity:
        """Return whom images look like that are not among those of the centroids.

        >>> centroids = centroids_of(np.eye(2), np.array([0, 1]), num_people=2)
        >>> centroids.similarity(np.array([[0.6, 0.8], [3.0, 4.0]]), np.array([0, 1])).rank.tolist()
        [2, 1]

        Args:
            features: Of any length; only their direction counts.
            own: Row of ``sums`` of the person that every image shall show.
        """
        unit = _unit(features)
        return self._similarity(unit, own, (unit * _unit(self.sums)[own]).sum(axis=1))

    def similarity_left_out(
        self, features: Float[np.ndarray, "images width"], own: Int[np.ndarray, " images"]
    ) -> IdentitySimilarity:
        """Return whom the centroids' own images look like, each left out of its person's centroid.

        Every person must have at least two of them.
        """
        unit = _unit(features)
        without = _unit(self.sums[own] - unit)
        return self._similarity(unit, own, (unit * without).sum(axis=1))

    def _similarity(
        self,
        unit: Float[np.ndarray, "images width"],
        own: Int[np.ndarray, " images"],
        similarity: Float[np.ndarray, " images"],
    ) -> IdentitySimilarity:
        centroids = self.directions()
        rank, nearest = np.empty(len(unit), np.int64), np.empty(len(unit), np.int64)
        for start in range(0, len(unit), _CHUNK):
            part = slice(start, start + _CHUNK)
            cosines = unit[part] @ centroids.T
            rows = np.arange(len(cosines))
            cosines[rows, own[part]] = similarity[part]
            nearest[part] = cosines.argmax(axis=1)
            # His own column counts too, which makes the rank start from 1.
            rank[part] = (cosines >= similarity[part, None]).sum(axis=1)
        return IdentitySimilarity(similarity, rank, nearest)


def centroids_of(
    features: Float[np.ndarray, "images width"], own: Int[np.ndarray, " images"], num_people: int
) -> Centroids:
    """Return the centroids of people from the features of their real images.

    Args:
        features: Of any length; only their direction counts.
        own: The person of every image, from 0 to ``num_people - 1``.
        num_people: Rows of the result.
    """
    sums = np.zeros((num_people, features.shape[1]), np.float64)
    np.add.at(sums, own, _unit(features))
    return Centroids(sums)


def _unit(features: Float[np.ndarray, "rows width"]) -> Float[np.ndarray, "rows width"]:
    features = features.astype(np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), _TINY)
