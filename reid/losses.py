"""Training losses as plain functions of logits, labels and per-row settings."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

NO_IDENTITY = -1
"""Label of a row that shows nobody in particular."""


def smoothed_cross_entropy(
    logits: Float[Tensor, "batch people"],
    labels: Int[Tensor, " batch"],
    smoothing: Float[Tensor, " batch"],
    weight: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """Return the weighted mean of the label-smoothed cross entropy.

    Row ``i`` has target ``(1 - smoothing[i])`` on its label plus ``smoothing[i] / people``
    everywhere (Szegedy et al. 2016, section 7). A row labelled ``NO_IDENTITY`` has the uniform
    target, whatever its smoothing (LSRO, Zheng et al. 2017, equation 4). Logits are taken in
    float32.
    """
    log_probabilities = F.log_softmax(logits.float(), dim=1)
    nobody = labels == NO_IDENTITY
    picked = log_probabilities.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    smoothing = smoothing.masked_fill(nobody, 1.0)
    losses = -(1 - smoothing) * picked - smoothing * log_probabilities.mean(dim=1)
    return (weight * losses).sum() / weight.sum()
