"""Training losses as plain functions of logits or features, labels and per-row settings."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from reid.data.labels import NO_IDENTITY


def smoothed_cross_entropy(
    logits: Float[Tensor, "batch people"],
    labels: Int[Tensor, " batch"],
    smoothing: Float[Tensor, " batch"],
    weight: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """Return the weighted mean of the label-smoothed cross entropy.

    Row ``i`` has target ``(1 - smoothing[i])`` on its label plus ``smoothing[i] / people``
    everywhere (Szegedy et al. 2016, section 7). A row labelled ``NO_IDENTITY`` has the uniform
    target, whatever its smoothing (LSRO, Zheng et al. 2017, equation 4). A batch of weight zero has
    loss zero. Logits are taken in float32.
    """
    log_probabilities = F.log_softmax(logits.float(), dim=1)
    nobody = labels == NO_IDENTITY
    picked = log_probabilities.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    smoothing = smoothing.masked_fill(nobody, 1.0)
    losses = -(1 - smoothing) * picked - smoothing * log_probabilities.mean(dim=1)
    return (weight * losses).sum() / weight.sum().clamp(min=torch.finfo(torch.float32).tiny)


def batch_hard_triplet(
    features: Float[Tensor, "batch width"],
    labels: Int[Tensor, " batch"],
    weight: Float[Tensor, " batch"],
    margin: float,
    *,
    soft_margin: bool = False,
) -> Float[Tensor, ""]:
    """Return the weighted mean over anchors of the triplet loss on the hardest pair of each.

    ``max(0, margin + d(anchor, farthest of the person) - d(anchor, nearest of another))`` with
    Euclidean distances (Hermans et al. 2017, equation 5); with a soft margin ``ln(1 + exp(x))`` of
    the difference (their section 2). Anchors without both are left out, rows
    labelled ``NO_IDENTITY`` are neither anchor nor pair; without any anchor the loss is zero.
    Features are taken in float32.
    """
    known = labels != NO_IDENTITY
    features, labels, weight = features.float()[known], labels[known], weight[known]
    if len(labels) < 2:
        return features.sum() * 0.0
    library: Any = import_module("pytorch_metric_learning")
    for part in ("distances", "losses", "miners", "reducers"):
        import_module(f"{library.__name__}.{part}")
    distance = library.distances.LpDistance(normalize_embeddings=False)
    triplets = library.miners.BatchHardMiner(distance=distance)(features, labels)
    if not len(triplets[0]):
        return features.sum() * 0.0
    # The library's own mean leaves out triplets of loss zero; the published one does not.
    each = library.losses.TripletMarginLoss(
        margin=0.0 if soft_margin else margin,
        smooth_loss=soft_margin,
        distance=distance,
        reducer=library.reducers.DoNothingReducer(),
    )(features, labels, triplets)["loss"]["losses"]
    anchors = weight[triplets[0]]
    return (anchors * each).sum() / anchors.sum().clamp(min=torch.finfo(torch.float32).tiny)


def centre_loss(
    features: Float[Tensor, "batch width"],
    labels: Int[Tensor, " batch"],
    weight: Float[Tensor, " batch"],
    centres: Float[Tensor, "people width"],
) -> Float[Tensor, ""]:
    """Return the weighted mean squared distance of each row to the centre of its person.

    Wen et al. 2016, equation 2, without its factor one half, as the published strong baseline
    has it. Rows labelled ``NO_IDENTITY`` are left out. Features are taken in float32.
    """
    known = labels != NO_IDENTITY
    distances = (features.float()[known] - centres[labels[known]]).square().sum(dim=1)
    weight = weight[known]
    return (weight * distances).sum() / weight.sum().clamp(min=torch.finfo(torch.float32).tiny)
