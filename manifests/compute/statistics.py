"""What a difference between runs is worth: paired intervals clustered by person, over seeds.

Queries of one person are not independent, so people are resampled, not queries; two arms are
compared on the same people; and the noise of training is carried by the seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

NUM_RESAMPLES = 5000
_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Difference:
    """How much better an arm is than the baseline, in the unit of the values."""

    mean: float
    low: float
    high: float
    """Ends of the 95 % interval."""
    p_value: float
    """Two-sided, against no difference."""
    num_seeds: int
    """Seeds per arm, the smaller; with one the noise of training is not in the interval."""

    @property
    def is_null(self) -> bool:
        """Whether the interval holds zero."""
        return self.low <= 0 <= self.high


def per_person(
    values: Float[np.ndarray, "seeds queries"], people: Shaped[np.ndarray, " queries"]
) -> tuple[Float[np.ndarray, "seeds people"], Float[np.ndarray, " people"]]:
    """Return the sums over each person's queries, people sorted, and how many queries they have.

    >>> sums, counts = per_person(np.array([[1.0, 2.0, 4.0]]), np.array(["a", "b", "a"]))
    >>> sums.tolist(), counts.tolist()
    ([[5.0, 2.0]], [2.0, 1.0])
    """
    names, codes = np.unique(people, return_inverse=True)
    sums = np.stack([np.bincount(codes, row, len(names)) for row in values])
    return sums, np.bincount(codes, minlength=len(names)).astype(np.float64)


def paired_difference(
    baseline: Float[np.ndarray, "seeds queries"],
    other: Float[np.ndarray, "seeds_2 queries"],
    people: Shaped[np.ndarray, " queries"],
    *,
    same_seeds: bool = False,
    num_resamples: int = NUM_RESAMPLES,
) -> Difference:
    """Return the mean of ``other`` minus ``baseline`` over seeds and queries, with its interval.

    Bootstrap over people (clusters of queries, the same draw for both arms), plus normal noise with
    the variance of the mean over fresh seeds: of the seeds' differences when ``same_seeds``, else
    of each arm. Two or three seeds hardly know their variance, so the resamples are spread from
    the normal to the t distribution, with the effective degrees of freedom of the sum of variances
    (Satterthwaite 1946). The queries of one person alone leave the interval without
    ends.

    >>> generator = np.random.default_rng(0)
    >>> people = np.repeat(np.arange(100), 4)
    >>> baseline = generator.normal(0.5, 0.1, (3, 400))
    >>> gain = paired_difference(baseline, baseline + 0.02, people, same_seeds=True)
    >>> round(gain.low, 3), round(gain.mean, 3), round(gain.high, 3)
    (0.02, 0.02, 0.02)
    """
    left, counts = per_person(baseline, people)
    right, _ = per_person(other, people)
    mean = float(other.mean() - baseline.mean())
    num_people, num_seeds = len(counts), min(len(baseline), len(other))
    if num_people < 2:
        return Difference(mean, -np.inf, np.inf, 1.0, num_seeds)
    generator = np.random.Generator(np.random.Philox(0))
    weights = generator.multinomial(
        num_people, np.full(num_people, 1 / num_people), size=num_resamples
    ).astype(np.float64)
    arms = [right - left] if same_seeds else [right, -left]
    samples = weights @ sum(arm.mean(axis=0) for arm in arms) / (weights @ counts)
    variances = [(float(samples.var()), num_people - 1)]
    for arm in arms:
        if len(arm) > 1:
            error = float(np.std(arm.sum(axis=1) / counts.sum(), ddof=1)) / np.sqrt(len(arm))
            samples = samples + generator.normal(0, error, num_resamples)
            variances.append((error**2, len(arm) - 1))
    samples = mean + (samples - mean) * _spread(variances, num_resamples, generator)
    low, high = np.quantile(samples, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Difference(mean, float(low), float(high), _p_value(samples), num_seeds)


def _spread(
    variances: Sequence[tuple[float, int]], count: int, generator: np.random.Generator
) -> Float[np.ndarray, " count"]:
    """Return factors that make t of normal deviations.

    Args:
        variances: Parts of one variance, each with its degrees of freedom.
        count: How many factors.
        generator: Draws them.
    """
    whole = sum(variance for variance, _ in variances)
    if whole == 0:
        return np.ones(count)
    freedom = whole**2 / sum(variance**2 / degrees for variance, degrees in variances)
    return np.sqrt(freedom / generator.chisquare(freedom, count))


def _p_value(samples: np.ndarray) -> float:
    """Return twice the smaller tail of the resamples beyond zero, never exactly 0."""
    count = len(samples)
    tail = min((samples <= 0).sum(), (samples >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (count + 1)))


def holm(p_values: list[float]) -> list[float]:
    """Return p values corrected for several comparisons (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    count = len(p_values)
    corrected = [0.0] * count
    largest = 0.0
    for place, index in enumerate(sorted(range(count), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (count - place) * p_values[index]))
        corrected[index] = largest
    return corrected
