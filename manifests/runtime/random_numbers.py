"""Random draws that follow from a seed and a label alone, on every machine and NumPy build.

Only raw Philox output is used: NumPy promises it, but not the streams of ``Generator`` methods.
A draw keyed by a label does not move when other labels are added or left out.
"""

from __future__ import annotations

import hashlib

import numpy as np
from jaxtyping import UInt64


def draws(
    seed: int, label: str, count: int = 1, *, counter: int = 0, stream: int = 0
) -> UInt64[np.ndarray, " count"]:
    """Return ``count`` uniform 64-bit numbers for one (seed, label, counter, stream).

    Philox 4x64 (Salmon et al. 2011) with key blake2b-128 of seed and label.

    >>> int(draws(0, "0002")[0])
    11797827410968861244
    """
    digest = hashlib.blake2b(f"{seed}\0{label}".encode(), digest_size=16).digest()
    key = np.frombuffer(digest, dtype="<u8").astype(np.uint64)
    bits = np.random.Philox(key=key, counter=np.array([0, counter, stream, 0], np.uint64))
    return np.asarray(bits.random_raw(count), dtype=np.uint64)


def below(draw: int, limit: int) -> int:
    """Return the draw scaled to ``0 .. limit - 1``.

    >>> below(2**63, 10)
    5
    """
    return (int(draw) * limit) >> 64
