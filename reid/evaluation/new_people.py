"""How people who do not exist lie among real ones: are they several, and are they new?

All by the centroids of ``identity_similarity``: the direction of the sum of a person's unit
features, and the cosine between two of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from reid.evaluation.identity_similarity import Centroids, centroids_of


@dataclass(frozen=True, slots=True)
class NewPeopleSimilarity:
    """Cosines of new people's images and centroids."""

    within: float
    """Between an image and its own person's centroid, the image left out; median. NaN where nobody
    has two images."""
    between: float
    """Between the centroids of two new people; median over all pairs. NaN for one person."""
    to_real: Float[np.ndarray, " new_people"]
    """Between a new person's centroid and the nearest real person's."""
    real_to_real: Float[np.ndarray, " real_people"]
    """Between a real person's centroid and the nearest other real person's."""

    @property
    def share_memorised(self) -> float:
        """Return the share of new people who are nearer to a real one than real people are.

        Than they are in the median, each to the nearest other.
        """
        return float((self.to_real > np.median(self.real_to_real)).mean())


def new_people_similarity(
    features: Float[np.ndarray, "images width"],
    person: Int[np.ndarray, " images"],
    real: Centroids,
) -> NewPeopleSimilarity:
    """Return how new people lie among each other and among real ones.

    >>> real = centroids_of(np.array([[1.0, 0, 0], [0, 1.0, 0]]), np.array([0, 1]), num_people=2)
    >>> found = new_people_similarity(np.array([[1.0, 0, 0], [0, 0, 1.0]]), np.array([0, 1]), real)
    >>> found.to_real.tolist(), found.real_to_real.tolist(), found.share_memorised
    ([1.0, 0.0], [0.0, 0.0], 0.5)

    Args:
        features: Of images of new people, of any length; only their direction counts.
        person: Whom each shows, from 0 without gaps.
        real: At least two real people.
    """
    new = centroids_of(features, person, num_people=int(person.max()) + 1)
    several = np.bincount(person)[person] > 1
    within = np.nan
    if several.any():
        left_out = new.similarity_left_out(features[several], person[several])
        within = float(np.median(left_out.similarity))
    mine, others = new.directions(), real.directions()
    pairs = (mine @ mine.T)[np.triu_indices(len(mine), 1)]
    among = others @ others.T
    np.fill_diagonal(among, -np.inf)
    return NewPeopleSimilarity(
        within=within,
        between=float(np.median(pairs)) if len(pairs) else np.nan,
        to_real=(mine @ others.T).max(axis=1),
        real_to_real=among.max(axis=1),
    )
