"""Adversarial losses and the pool of past fakes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def cross_entropy(logits: Float[Tensor, "*shape"], *, real: bool) -> Float[Tensor, ""]:
    """Return the mean binary cross entropy of judging everything ``real`` or fake."""
    logits = logits.float()
    return F.softplus(-logits if real else logits).mean()


def least_squares(scores: Float[Tensor, "*shape"], *, real: bool) -> Float[Tensor, ""]:
    """Return the mean squared distance of the scores from 1 (real) or 0 (fake), as in LSGAN."""
    return ((scores.float() - (1.0 if real else 0.0)) ** 2).mean()


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

    def forward(
        self, fakes: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return as many images, some of them older, and remember the new ones.

        Decisions come from the CPU generator, so that no device has to wait for the host.
        """
        if self.size == 0:
            return fakes
        exchange = (torch.rand(len(fakes)) > 0.5).tolist()
        places = torch.randint(self.size, (len(fakes),)).tolist()
        num_stored = int(self.num_stored)
        # Where each place's image and each returned image come from: numbers from 0 are places
        # of the pool as it was, ~row is a row of the new fakes.
        stored: dict[int, int] = {}
        returned = list(range(-1, -len(fakes) - 1, -1))
        for row, (wants_exchange, place) in enumerate(zip(exchange, places, strict=True)):
            if num_stored < self.size:
                stored[num_stored] = row
                num_stored += 1
            elif wants_exchange:
                returned[row] = ~stored[place] if place in stored else place
                stored[place] = row
        result = fakes.clone()
        older = [row for row, origin in enumerate(returned) if origin >= 0]
        result[older] = self.images[[returned[row] for row in older]].to(fakes.dtype)
        exchanged = [row for row, origin in enumerate(returned) if origin < 0 and origin != ~row]
        result[exchanged] = fakes[[~returned[row] for row in exchanged]]
        self.images[list(stored)] = fakes[list(stored.values())].to(self.images.dtype)
        self.num_stored.fill_(num_stored)
        return result
