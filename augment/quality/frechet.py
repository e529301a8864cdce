"""Frechet distance between two sets of feature vectors, streamed; the formula behind FID.

Heusel et al. 2017, "GANs trained by a two time-scale update rule", eq. 6. On Inception's pool3
features it is FID; on any other features it is not, and must not be called so.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and spread of some feature vectors, in double precision."""

    count: int
    mean: Float[Tensor, " features"]
    scatter: Float[Tensor, "features features"]
    """Sum of the outer products of the differences from the mean."""

    @property
    def covariance(self) -> Float[Tensor, "features features"]:
        """The unbiased covariance (divided by ``count - 1``), as ``numpy.cov``."""
        return self.scatter / (self.count - 1)


def moments(features: Float[Tensor, "batch features"]) -> Moments:
    """Return the moments of one batch.

    >>> moments(torch.tensor([[1.0], [3.0]])).covariance.item()
    2.0
    """
    values = features.double()
    mean = values.mean(dim=0)
    difference = values - mean
    return Moments(len(values), mean, difference.T @ difference)


def merge(first: Moments | None, second: Moments) -> Moments:
    """Return the moments of both sets together (Chan et al. 1979), in any number of batches.

    Sums of squares would cancel where the mean is large against the spread; this does not.
    """
    if first is None:
        return second
    count = first.count + second.count
    step = second.mean - first.mean
    mean = first.mean + step * (second.count / count)
    between = torch.outer(step, step) * (first.count * second.count / count)
    return Moments(count, mean, first.scatter + second.scatter + between)


def frechet_distance(first: Moments, second: Moments) -> float:
    """Return ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`` of two Gaussians; at least 0.

    The trace of the root is the sum of the roots of the eigenvalues of ``C1^(1/2) C2 C1^(1/2)``,
    which is symmetric: covariances without full rank (fewer images than features) need no jitter,
    and nothing becomes complex.

    Raises:
        ValueError: If a set holds fewer than two vectors.

    >>> one = moments(torch.tensor([[0.0, 0.0], [2.0, 0.0]]))
    >>> frechet_distance(one, moments(torch.tensor([[3.0, 0.0], [5.0, 0.0]])))
    9.0
    """
    if min(first.count, second.count) < 2:
        raise ValueError(f"found {first.count} and {second.count} vectors, expected two at least")
    root = _root(first.covariance)
    product = root @ second.covariance @ root
    roots = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt()
    means = (first.mean - second.mean).square().sum()
    traces = first.covariance.trace() + second.covariance.trace()
    return max(0.0, float(means + traces - 2 * roots.sum()))


def _root(matrix: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Return the symmetric root of a covariance; eigenvalues below 0 are rounding."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
