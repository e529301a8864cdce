"""Which rows make up the batch of a step: real and synthetic, a function of (seed, step) alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int

from manifests.console import UserError
from manifests.draws import draws


@dataclass(slots=True)
class Stream:
    """An endless shuffled walk over rows: every row once per round, each round a new order."""

    rows: Int[np.ndarray, " rows"]
    seed: int
    label: str
    _round: int = field(default=-1, init=False)
    _order: Int[np.ndarray, " rows"] = field(
        default_factory=lambda: np.empty(0, np.int64), init=False
    )

    def take(self, start: int, count: int) -> Int[np.ndarray, " count"]:
        """Return the rows at positions ``start .. start + count - 1`` of the walk.

        >>> stream = Stream(np.array([7, 8, 9]), seed=0, label="real")
        >>> sorted(stream.take(3, 3).tolist())
        [7, 8, 9]
        >>> stream.take(2, 4).tolist()[1:] == stream.take(3, 3).tolist()
        True
        """
        parts: list[Int[np.ndarray, " part"]] = []
        while count > 0:
            order = self._order_of(start // len(self.rows))
            offset = start % len(self.rows)
            part = order[offset : offset + count]
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return np.concatenate(parts)

    def _order_of(self, number: int) -> Int[np.ndarray, " rows"]:
        if number != self._round:
            keys = draws(self.seed, self.label, len(self.rows), counter=number)
            self._round, self._order = number, self.rows[np.argsort(keys, kind="stable")]
        return self._order


@dataclass(frozen=True, slots=True)
class Mixture:
    """The batches of a run: one stream per part, each with its fixed number of rows per batch."""

    parts: tuple[tuple[Stream, int], ...]

    def batch(self, step: int) -> Int[np.ndarray, " batch"]:
        """Return the rows of the batch of ``step`` (counted from 0)."""
        return np.concatenate([stream.take(step * count, count) for stream, count in self.parts])


def mixture(
    synthetic: np.ndarray, batch_size: int, synthetic_share: float | None, seed: int
) -> Mixture:
    """Return the batches over rows that are flagged synthetic or not.

    With a share, every batch holds ``round(batch_size * synthetic_share)`` synthetic rows and
    real ones for the rest; without one all rows are pooled.

    >>> flags = np.array([False, False, True, True, True])
    >>> mixed = mixture(flags, batch_size=4, synthetic_share=0.5, seed=0)
    >>> flags[mixed.batch(17)].tolist()
    [False, False, True, True]

    Raises:
        UserError: If the share asks for rows of a kind that is not there.
    """
    if synthetic_share is None:
        return Mixture(((Stream(np.arange(len(synthetic)), seed, "rows"), batch_size),))
    counts = {True: round(batch_size * synthetic_share)}
    counts[False] = batch_size - counts[True]
    parts: list[tuple[Stream, int]] = []
    for flag, label in ((False, "real"), (True, "synthetic")):
        rows = np.flatnonzero(synthetic == flag)
        if counts[flag] and not len(rows):
            raise UserError(
                f"a synthetic share of {synthetic_share} needs {counts[flag]} {label} rows in "
                f"every batch of {batch_size}, found no {label} row"
            )
        if counts[flag]:
            parts.append((Stream(rows, seed, label), counts[flag]))
    return Mixture(tuple(parts))
