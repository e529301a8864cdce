"""Random numbers of generated images: a row's follow from its own seed, whatever batch it is in."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float, UInt64
from torch import Tensor

from manifests.compute.devices import upload
from manifests.runtime.random_numbers import random_bits

Draw = TypeVar("Draw", bound=Callable[..., Tensor])


def _not_compiled(draw: Draw) -> Draw:
    """Return ``torch.compiler.disable`` of a method, with the method's type."""
    return cast("Draw", torch.compiler.disable(draw))


class RowRandom:
    """A seeded generator per row of a batch, which a system draws from as often as it likes.

    The numbers of a row follow from its seed and from what was drawn before, not from other rows,
    the device or the number of threads. They are made on the host from raw Philox output.

    >>> row = RowRandom(np.array([7], np.uint64), "cpu")
    >>> batch = RowRandom(np.array([3, 7], np.uint64), "cpu")
    >>> bool((row.normal(2, 4)[0] == batch.normal(2, 4)[1]).all())
    True
    """

    def __init__(self, seeds: UInt64[np.ndarray, " batch"], device: torch.device | str) -> None:
        self._seeds = [int(seed) for seed in seeds]
        self._device = torch.device(device)
        self._num_draws = 0

    @classmethod
    def numbered(cls, count: int, device: torch.device | str) -> RowRandom:
        """Return the generators of rows whose seeds are 0 to ``count - 1``."""
        return cls(np.arange(count, dtype=np.uint64), device)

    def __len__(self) -> int:
        return len(self._seeds)

    @_not_compiled
    def uniform(self, *shape: int) -> Float[Tensor, "batch ..."]:
        """Return numbers in (0, 1), independent of those drawn before."""
        return self._on_device(self._uniform(math.prod(shape)), shape)

    @_not_compiled
    def normal(self, *shape: int) -> Float[Tensor, "batch ..."]:
        """Return standard normal numbers, independent of those drawn before.

        The polar form of Box and Muller (1958).
        """
        count = math.prod(shape)
        halves = self._uniform(2 * count)
        radius = np.sqrt(-2.0 * np.log(halves[:, :count]))
        return self._on_device(radius * np.cos(2.0 * np.pi * halves[:, count:]), shape)

    def _uniform(self, count: int) -> Float[np.ndarray, "batch count"]:
        stream, self._num_draws = self._num_draws, self._num_draws + 1
        bits = np.stack(
            [random_bits(seed, "noise", count, stream=stream) for seed in self._seeds]
        ).reshape(len(self._seeds), count)
        # 53 bits, away from 0 where the logarithm ends.
        return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53

    def _on_device(
        self, values: Float[np.ndarray, "batch count"], shape: tuple[int, ...]
    ) -> Float[Tensor, "batch ..."]:
        tensor = torch.from_numpy(values.astype(np.float32)).reshape(len(self._seeds), *shape)
        return upload(tensor, self._device)
