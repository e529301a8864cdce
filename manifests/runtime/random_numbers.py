"""Random numbers that follow from a seed and a label alone, on every machine and NumPy build.

Only raw Philox output is used: NumPy promises it, but not the streams of ``Generator`` methods.
Numbers keyed by a label do not change when other labels are added or left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Float, UInt64

T = TypeVar("T")

_BLOCK = 96


def random_bits(
    seed: int, label: str, count: int = 1, *, counter: int = 0, stream: int = 0
) -> UInt64[np.ndarray, " count"]:
    """Return ``count`` uniform 64-bit numbers for one (seed, label, counter, stream).

    Philox 4x64 (Salmon et al. 2011) with key blake2b-128 of seed and label.

    >>> int(random_bits(0, "0002")[0])
    11797827410968861244
    """
    digest = hashlib.blake2b(f"{seed}\0{label}".encode(), digest_size=16).digest()
    key = np.frombuffer(digest, dtype="<u8").astype(np.uint64)
    bits = np.random.Philox(key=key, counter=np.array([0, counter, stream, 0], np.uint64))
    return np.asarray(bits.random_raw(count), dtype=np.uint64)


def bounded(bits: int, limit: int) -> int:
    """Return a 64-bit number scaled to ``0 .. limit - 1``.

    >>> bounded(2**63, 10)
    5
    """
    return (int(bits) * limit) >> 64


class KeyedRandom:
    """The random numbers of one (seed, label), one after the other.

    >>> rng = KeyedRandom(0, "0002")
    >>> round(rng.uniform(0.0, 10.0), 4)
    6.3956
    """

    def __init__(self, seed: int, label: str) -> None:
        self._seed = seed
        self._label = label
        self._block = 0
        self._numbers: list[float] = []

    def uniform(self, low: float, high: float) -> float:
        """Return a uniform number in [low, high)."""
        if not self._numbers:
            raw = random_bits(self._seed, self._label, _BLOCK, counter=self._block)
            self._numbers = ((raw >> np.uint64(11)) * 2.0**-53).tolist()[::-1]
            self._block += 1
        return low + (high - low) * self._numbers.pop()

    def bounded_normal(self, scale: float) -> float:
        """Return a number near 0, never beyond ``2 * scale``: the sum of three uniform ones."""
        return scale * sum(self.uniform(-1.0, 1.0) for _ in range(3)) * (2.0 / 3.0)

    def bernoulli(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self.uniform(0.0, 1.0) < probability

    def integer(self, low: int, high: int) -> int:
        """Return a whole number from ``low`` to ``high``, both included."""
        return low + int(self.uniform(0.0, 1.0) * (high - low + 1))

    def choice(self, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
        """Return one of the options, by weight where weights are given."""
        if weights is None:
            return options[self.integer(0, len(options) - 1)]
        rest = self.uniform(0.0, sum(weights))
        for option, weight in zip(options, weights, strict=True):
            rest -= weight
            if rest < 0:
                return option
        return options[-1]

    def permutation(self, options: Sequence[T]) -> list[T]:
        """Return all options in a random order."""
        keys = [self.uniform(0.0, 1.0) for _ in options]
        return [options[row] for row in sorted(range(len(options)), key=keys.__getitem__)]

    def noise(self, *shape: int) -> Float[np.ndarray, "*shape"]:
        """Return independent noise of mean 0 and standard deviation 1 (sums of four bytes)."""
        count = int(np.prod(shape))
        raw = random_bits(self._seed, self._label, (count + 1) // 2, stream=1, counter=self._block)
        self._block += 1
        bytes_ = raw.astype("<u8").view(np.uint8).reshape(-1, 4)[:count]
        summed = bytes_.astype(np.float32).sum(axis=1) - 510.0
        return (summed * np.float32(1 / 147.8)).reshape(shape)
