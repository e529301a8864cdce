"""Whether one network's images score better than another's on the same pairs, with an interval.

Pairs of one person are not independent, so people are resampled and not pairs
(``manifests.compute.statistics``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

from augment.quality.metrics import Family, Mean, Metric
from manifests.compute.statistics import Difference, paired_difference


@dataclass(frozen=True, slots=True)
class MetricDifference:
    """How much higher a metric is for one subject than for another."""

    subject: str
    baseline: str
    name: str
    family: Family
    difference: Difference
    num_images: int
    """Pairs for which both have a value."""

    def as_json(self) -> dict[str, str | int | float | None]:
        """Return the difference as JSON has it; an end that is not finite becomes null."""
        found = self.difference
        numbers = {"mean": found.mean, "low": found.low, "high": found.high}
        return {
            "subject": self.subject,
            "baseline": self.baseline,
            "name": self.name,
            "family": self.family,
            **{key: number if np.isfinite(number) else None for key, number in numbers.items()},
            "num_images": self.num_images,
        }


def paired_differences(
    metrics: Mapping[str, Sequence[Metric]], people: Shaped[np.ndarray, " pairs"]
) -> tuple[MetricDifference, ...]:
    """Return the differences of every subject from the first, for metrics with a value per pair.

    Args:
        metrics: The same of every subject, in the same order, after the last batch.
        people: Who each pair shows.
    """
    baseline, *others = metrics or ("",)
    found: list[MetricDifference] = []
    for other in others:
        for left, right in zip(metrics[baseline], metrics[other], strict=True):
            if not (isinstance(left, Mean) and isinstance(right, Mean)):
                continue
            values = np.stack([left.values, right.values])
            both = np.isfinite(values).all(axis=0)
            if not both.any():
                continue
            before, after = values[:, None, both]
            shown = people[: values.shape[1]][both]
            difference = paired_difference(before, after, shown, same_seeds=True)
            found.append(
                MetricDifference(
                    other, baseline, left.name, left.family, difference, int(both.sum())
                )
            )
    return tuple(found)
