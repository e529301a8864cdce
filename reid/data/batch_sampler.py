"""Which rows make up the batch of a step: real and synthetic, a function of (seed, step) alone.

A batch is drawn for all processes of a run together; each takes its own part of it, so that the
parts are disjoint and their number changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Bool, Int

from manifests.runtime.console import UserError
from manifests.runtime.random_numbers import random_bits
from reid.data.labels import NO_IDENTITY

Sampler = Literal["random", "identity"]
"""torchreid's RandomSampler and RandomIdentitySampler."""


@dataclass(slots=True)
class Stream:
    """An endless shuffled walk over rows: every row once per round, each round a new order."""

    rows: Int[np.ndarray, " rows"]
    seed: int
    label: str
    stream: int = 0
    """Streams of one label with different numbers are independent."""
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

    def block(self, number: int, count: int) -> Int[np.ndarray, " count"]:
        """Return ``count`` rows, none of them twice unless there are fewer rows than that.

        A round holds as many whole blocks as fit; the rows left over in one round have their turn
        in another.

        >>> stream = Stream(np.array([7, 8, 9]), seed=0, label="real")
        >>> all(len(set(stream.block(number, 2).tolist())) == 2 for number in range(20))
        True
        """
        if count >= len(self.rows):
            return np.resize(self._order_of(number), count)
        number, part = divmod(number, len(self.rows) // count)
        return self._order_of(number)[part * count : (part + 1) * count]

    def _order_of(self, number: int) -> Int[np.ndarray, " rows"]:
        if number != self._round:
            keys = random_bits(
                self.seed, self.label, len(self.rows), counter=number, stream=self.stream
            )
            self._round, self._order = number, self.rows[np.argsort(keys, kind="stable")]
        return self._order


class Mixture(Protocol):
    """The batches of a run."""

    def batch(self, step: int) -> Int[np.ndarray, " batch"]:
        """Return the rows of the batch of ``step`` (counted from 0)."""
        ...


@dataclass(frozen=True, slots=True)
class Streams:
    """One stream per part, each with its fixed number of rows per batch."""

    parts: tuple[tuple[Stream, int], ...]

    def batch(self, step: int) -> Int[np.ndarray, " batch"]:
        """Return the rows of the batch of ``step`` (counted from 0)."""
        return np.concatenate([stream.take(step * count, count) for stream, count in self.parts])


@dataclass(frozen=True, slots=True)
class PeopleStreams:
    """P people x (real + synthetic images) + rows without identity in every batch."""

    people: Stream
    """Numbers of people, each at most once per batch."""
    num_people: int
    """P."""
    images: tuple[tuple[tuple[Stream, int], ...], ...]
    """Of every person: streams of his rows and how many of each a batch takes."""
    outliers: tuple[Stream, int] | None

    def batch(self, step: int) -> Int[np.ndarray, " batch"]:
        """Return the rows of the batch of ``step``: person after person, outliers at the end."""
        # A person comes at most once per round, so the round numbers his blocks.
        turn = step // (len(self.people.rows) // self.num_people)
        parts = [
            stream.block(turn, count)
            for person in self.people.block(step, self.num_people)
            for stream, count in self.images[person]
        ]
        if self.outliers is not None:
            stream, count = self.outliers
            parts.append(stream.block(step, count))
        return np.concatenate(parts)


@dataclass(frozen=True, slots=True)
class BatchComposition:
    """What every batch of a run is made of."""

    batch_size: int
    seed: int
    synthetic_share: float | None = None
    """Synthetic part of every batch, or of every person's images. None: one pool."""
    sampler: Sampler = "random"
    num_instances: int = 4
    """Images of a person in a batch of the identity sampler."""
    num_outliers: int = 0
    """Rows without identity in a batch of the identity sampler."""


def mixture(
    labels: Int[np.ndarray, " rows"],
    synthetic: Bool[np.ndarray, " rows"],
    composition: BatchComposition,
) -> Mixture:
    """Return the batches over rows of people that are flagged synthetic or not.

    Random sampler: with a share, every batch holds ``round(batch_size * synthetic_share)``
    synthetic rows and real ones for the rest; without one all rows are pooled.

    Identity sampler: as many people as fit, each with ``num_instances`` rows, then the outliers.
    With a share, ``round(num_instances * synthetic_share)`` of a person's rows are synthetic, all
    real where he has none and all synthetic where he has no real one; without one his rows are
    pooled. No person comes twice in a batch, and
    no row where the person has enough.

    >>> labels, flags = np.array([0, 1, 0, 1, 1]), np.array([False, False, True, True, True])
    >>> mixed = mixture(labels, flags, BatchComposition(batch_size=4, seed=0, synthetic_share=0.5))
    >>> flags[mixed.batch(17)].tolist()
    [False, False, True, True]

    Raises:
        UserError: If the batch asks for rows or people that are not there, or does not come out
            even.
    """
    if composition.sampler == "identity":
        return _people_streams(labels, synthetic, composition)
    if composition.num_outliers:
        raise UserError(
            f"--num-outliers {composition.num_outliers} needs --train-sampler identity; the random "
            "sampler draws rows without identity as it finds them"
        )
    share, size = composition.synthetic_share, composition.batch_size
    if share is None:
        return Streams(((Stream(np.arange(len(synthetic)), composition.seed, "rows"), size),))
    counts = {True: _shared(size, share, "--batch-size")}
    counts[False] = size - counts[True]
    parts: list[tuple[Stream, int]] = []
    for flag, label in ((False, "real"), (True, "synthetic")):
        rows = np.flatnonzero(synthetic == flag)
        if counts[flag] and not len(rows):
            raise UserError(
                f"a synthetic share of {share} needs {counts[flag]} {label} rows in "
                f"every batch of {size}, found no {label} row"
            )
        if counts[flag]:
            parts.append((Stream(rows, composition.seed, label), counts[flag]))
    return Streams(tuple(parts))


def real_rows_per_batch(
    labels: Int[np.ndarray, " rows"],
    synthetic: Bool[np.ndarray, " rows"],
    composition: BatchComposition,
) -> float:
    """Return how many real rows the batches of ``mixture`` hold on average.

    >>> labels, flags = np.array([0, 1, 0, 1, 1]), np.array([False, False, True, True, True])
    >>> real_rows_per_batch(labels, flags, BatchComposition(batch_size=5, seed=0))
    2.0
    """
    share, size = composition.synthetic_share, composition.batch_size
    if composition.sampler == "random":
        return size * float(np.mean(~synthetic)) if share is None else size - round(size * share)
    # Every person who has rows to draw comes equally often.
    people = [synthetic[labels == person] for person in np.unique(labels[labels != NO_IDENTITY])]
    people = [own for own in people if share != 0 or not own.all()]
    real_parts = [
        float(np.mean(~own))
        if share is None or not own.any() or own.all()
        else 1 - round(composition.num_instances * share) / composition.num_instances
        for own in people
    ]
    return (size - composition.num_outliers) * float(np.mean(real_parts))


def _shared(count: int, share: float, flag: str) -> int:
    """Return how many of ``count`` rows are synthetic by a share.

    Raises:
        UserError: If the share is neither 0 nor 1 and rounds to all or none of them.
    """
    num_synthetic = round(count * share)
    if 0 < share < 1 and num_synthetic in {0, count}:
        raise UserError(
            f"--synthetic-share {share} of {flag} {count} makes {num_synthetic} synthetic rows; "
            f"expected a share that leaves some of both, or a larger {flag}"
        )
    return num_synthetic


def _people_streams(
    labels: np.ndarray, synthetic: np.ndarray, composition: BatchComposition
) -> PeopleStreams:
    seed, outliers = composition.seed, np.flatnonzero(labels == NO_IDENTITY)
    if composition.num_outliers and not len(outliers):
        raise UserError(
            f"--num-outliers {composition.num_outliers} needs synthetic rows of person -1, found "
            "none"
        )
    num_people, rest = divmod(
        composition.batch_size - composition.num_outliers, composition.num_instances
    )
    if num_people < 1 or rest:
        raise UserError(
            f"--batch-size {composition.batch_size} less {composition.num_outliers} outliers is no "
            f"multiple of --num-instances {composition.num_instances}; expected whole people"
        )
    share = composition.synthetic_share
    num_synthetic = (
        None if share is None else _shared(composition.num_instances, share, "--num-instances")
    )
    if num_synthetic and not synthetic[labels != NO_IDENTITY].any():
        raise UserError(
            f"a synthetic share of {share} needs {num_synthetic} synthetic rows of every person, "
            "found no synthetic row"
        )
    images = [
        _images_of(person, labels, synthetic, composition) for person in range(labels.max() + 1)
    ]
    usable = np.array([person for person, parts in enumerate(images) if parts], np.int64)
    if len(usable) < num_people:
        raise UserError(
            f"a batch of {composition.batch_size} needs {num_people} people, found {len(usable)}; "
            "expected a smaller --batch-size or a larger --num-instances"
        )
    return PeopleStreams(
        Stream(usable, seed, "people"),
        num_people,
        tuple(images),
        (Stream(outliers, seed, "outliers"), composition.num_outliers)
        if composition.num_outliers
        else None,
    )


def _images_of(
    person: int, labels: np.ndarray, synthetic: np.ndarray, composition: BatchComposition
) -> tuple[tuple[Stream, int], ...]:
    """Return a person's streams with their counts; none if he has no row to draw."""
    own = labels == person
    count, seed = composition.num_instances, composition.seed
    if composition.synthetic_share is None:
        rows = np.flatnonzero(own)
        return ((Stream(rows, seed, "of a person", person), count),) if len(rows) else ()
    num_synthetic = round(count * composition.synthetic_share)
    made, real = np.flatnonzero(own & synthetic), np.flatnonzero(own & ~synthetic)
    if num_synthetic and not (len(made) and len(real)):
        num_synthetic = count if len(made) else 0
    parts = (
        (Stream(real, seed, "real of a person", person), count - num_synthetic),
        (Stream(made, seed, "synthetic of a person", person), num_synthetic),
    )
    if any(count and not len(stream.rows) for stream, count in parts):
        return ()
    return tuple((stream, count) for stream, count in parts if count)
