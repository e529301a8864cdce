"""Controls of an experiment with synthetic images: what else could have made the difference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from manifests.runtime.console import UserError
from manifests.runtime.random_numbers import random_bits
from reid.data.batch_sampler import BatchComposition, Mixture, mixture
from reid.data.dataset import TrainingSet
from reid.data.labels import NO_IDENTITY

Control = Literal["none", "repeated-real", "shuffled-labels", "synthetic-only", "added-real"]


@dataclass(frozen=True, slots=True)
class ReplacementSampler:
    """The batches of a mixture, each row replaced by another one."""

    mixture: Mixture
    shown: Int[np.ndarray, " rows"]
    """Row that is seen in place of each row."""

    def batch(self, step: int) -> Int[np.ndarray, " batch"]:
        """Return the rows of the batch of ``step`` (counted from 0)."""
        return self.shown[self.mixture.batch(step)]


def controlled(data: TrainingSet, control: Control, seed: int) -> TrainingSet:
    """Return the rows as a control has them: only ``shuffled-labels`` changes any.

    Raises:
        UserError: If there is no synthetic row to control for.
    """
    if control not in {"none", "added-real"} and not data.num_synthetic:
        raise UserError(
            f"--control {control} replaces synthetic rows, found none; expected --synthetic"
        )
    if control != "shuffled-labels":
        return data
    return replace(data, labels=shuffled_labels(data.labels, data.synthetic, seed))


def controlled_mixture(
    data: TrainingSet, control: Control, composition: BatchComposition
) -> Mixture:
    """Return the batches of a run under a control.

    ``repeated-real`` draws the very batches of a run without control and shows, for every
    synthetic row in them, a real one of the same person; for a row without identity any real
    one. ``synthetic-only`` shows no real row, whatever the share.

    Raises:
        UserError: As ``batch_sampler.mixture``.
    """
    if control == "synthetic-only":
        rows = np.flatnonzero(data.synthetic)
        pooled = replace(composition, synthetic_share=None)
        return ReplacementSampler(mixture(data.labels[rows], data.synthetic[rows], pooled), rows)
    mixed = mixture(data.labels, data.synthetic, composition)
    if control == "repeated-real":
        return ReplacementSampler(
            mixed, replacement_sampler(data.labels, data.synthetic, composition.seed)
        )
    return mixed


def shuffled_labels(
    labels: Int[np.ndarray, " rows"], synthetic: Bool[np.ndarray, " rows"], seed: int
) -> Int[np.ndarray, " rows"]:
    """Return the labels, those of synthetic rows with identity permuted among them.

    >>> labels, flags = np.array([0, 1, 2, 3, 4, -1]), np.arange(6) >= 2
    >>> sorted(shuffled_labels(labels, flags, seed=0)[2:5].tolist())
    [2, 3, 4]
    """
    rows = np.flatnonzero(synthetic & (labels != NO_IDENTITY))
    order = np.argsort(random_bits(seed, "shuffled labels", len(rows)), kind="stable")
    shuffled = labels.copy()
    shuffled[rows] = labels[rows[order]]
    return shuffled


def replacement_sampler(
    labels: Int[np.ndarray, " rows"], synthetic: Bool[np.ndarray, " rows"], seed: int
) -> Int[np.ndarray, " rows"]:
    """Return the row to show for every row: itself if real, else a real one of its person.

    A person's real rows are shown equally often, give or take one.

    Raises:
        UserError: If a synthetic row shows somebody without a real one.

    >>> labels, flags = np.array([0, 0, 1, 0, 0, 1]), np.array([False] * 3 + [True] * 3)
    >>> shown = replacement_sampler(labels, flags, seed=0)
    >>> sorted(shown[3:5].tolist()), int(shown[5])
    ([0, 1], 2)
    """
    shown = np.arange(len(labels))
    real = np.flatnonzero(~synthetic)
    for label in np.unique(labels[synthetic]):
        rows = np.flatnonzero(synthetic & (labels == label))
        own = real if label == NO_IDENTITY else real[labels[real] == label]
        if not len(own):
            raise UserError(
                "--control repeated-real: found synthetic images of people without real ones, "
                "as new people are; expected a real image to show in the place of each"
            )
        keys = random_bits(seed, "repeated real", len(own), stream=int(label) + 1)
        shown[rows] = np.resize(own[np.argsort(keys, kind="stable")], len(rows))
    return shown
