"""Adversarial losses and the pool of past fakes."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from manifests.compute.devices import upload


def cross_entropy(logits: Float[Tensor, "*shape"], *, real: bool) -> Float[Tensor, ""]:
    """Return the mean binary cross entropy of logits to the label ``real`` or fake."""
    logits = logits.float()
    return F.softplus(-logits if real else logits).mean()


def least_squares(scores: Float[Tensor, "*shape"], *, real: bool) -> Float[Tensor, ""]:
    """Return the mean squared distance of the scores from 1 (real) or 0 (fake), as in LSGAN."""
    return ((scores.float() - (1.0 if real else 0.0)) ** 2).mean()


def hinge(scores: Float[Tensor, "*shape"], *, real: bool) -> Float[Tensor, ""]:
    """Return the mean hinge loss of a discriminator (Lim and Ye 2017): margins of 1 about 0."""
    scores = scores.float()
    return F.relu(1.0 - scores if real else 1.0 + scores).mean()


_UNKNOWN: Final = -1


class ImagePool(nn.Module):
    """Past fakes, so that a discriminator does not forget them (Shrivastava et al. 2017).

    Until ``size`` images are stored each new one is stored and returned; then each is, with
    probability one half, exchanged for a stored one, which is returned in its place.
    """

    images: Tensor
    num_stored: Tensor

    def __init__(self, size: int, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("images", torch.zeros(size, channels, height, width))
        self.register_buffer("num_stored", torch.zeros((), dtype=torch.int64))
        self._known_stored = 0
        self.register_load_state_dict_post_hook(_forget_count)

    def forward(
        self, fakes: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return as many images, some of them older, and remember the new ones.

        Decisions come from the CPU generator and the host counts along, so that neither the
        device nor the host has to wait for the other.
        """
        if self.size == 0:
            return fakes
        exchange = (torch.rand(len(fakes)) > 0.5).tolist()
        slots = torch.randint(self.size, (len(fakes),)).tolist()
        if self._known_stored == _UNKNOWN:
            self._known_stored = int(self.num_stored)
        num_stored = self._known_stored
        # Where each slot's image and each returned image come from: numbers from 0 are slots
        # of the pool as it was, ~row is a row of the new fakes.
        stored: dict[int, int] = {}
        returned = list(range(-1, -len(fakes) - 1, -1))
        for row, (is_exchanged, slot) in enumerate(zip(exchange, slots, strict=True)):
            if num_stored < self.size:
                stored[num_stored] = row
                num_stored += 1
            elif is_exchanged:
                returned[row] = ~stored[slot] if slot in stored else slot
                stored[slot] = row
        result = fakes.clone()
        older = [row for row, origin in enumerate(returned) if origin >= 0]
        _copy_rows(result, older, self.images, [returned[row] for row in older])
        exchanged = [row for row, origin in enumerate(returned) if origin < 0 and origin != ~row]
        _copy_rows(result, exchanged, fakes, [~returned[row] for row in exchanged])
        _copy_rows(self.images, list(stored), fakes, list(stored.values()))
        self.num_stored.fill_(num_stored)
        self._known_stored = num_stored
        return result


def _forget_count(pool: nn.Module, keys: object) -> None:
    """Let a pool whose buffers were loaded look up how full it is."""
    del keys
    pool.__dict__["_known_stored"] = _UNKNOWN


def _copy_rows(to: Tensor, to_rows: list[int], source: Tensor, rows: list[int]) -> None:
    if rows:
        there, here = upload(torch.tensor([to_rows, rows]), to.device)
        to.index_copy_(0, there, source.index_select(0, here).to(to.dtype))
