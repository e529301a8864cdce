"""What makes a flow right: it fetches what the target shows, and it bends gently (GFLA)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from augment.nets.warping import positions, resample_gaussian

EPSILON = 1e-8


def correctness(
    source: Float[Tensor, "batch channels height width"],
    target: Float[Tensor, "batch channels height width"],
    flow: Float[Tensor, "batch 2 rows columns"],
) -> Float[Tensor, ""]:
    """Return how much worse the flow's matches are than the best single ones.

    0 where they are as good; a mean over several pixels may do better and fall below.
    ``mean(exp(-mu)) - exp(-1)``, where ``mu`` is the cosine similarity of the target's features
    and those fetched along the flow, relative to the most similar features anywhere in the source
    (Ren et al. 2020, equation 4).

    Args:
        source: Features of the source image.
        target: Features of the target image.
        flow: Pixels of its own grid; a flow of another size is resized to the nearest pixel and
            its values are kept, as the published code does.
    """
    with torch.autocast(flow.device.type, enabled=False):
        source, target = source.float(), target.float()
        if flow.shape[2:] != source.shape[2:]:
            flow = F.interpolate(flow, source.shape[2:])
        fetched = resample_gaussian(source, flow.float())
        similarity = F.cosine_similarity(fetched, target, dim=1).flatten(1)
        directions = [F.normalize(features.flatten(2), dim=1) for features in (source, target)]
        best = (directions[0].transpose(1, 2) @ directions[1]).amax(dim=1)
        return torch.exp(-similarity / (best + EPSILON)).mean() - math.exp(-1)


def bending(flow: Float[Tensor, "batch 2 height width"], size: int) -> Float[Tensor, ""]:
    """Return the mean squared misfit of the best affine map in each window of the flow.

    Summed over x, y and the ``size * size`` positions of a window, averaged over windows (Ren et
    al. 2020, equation 6). The positions themselves are affine and add nothing, so the flow alone
    is fitted.
    """
    with torch.autocast(flow.device.type, enabled=False):
        x, y = positions(size, size, flow.new_zeros((), dtype=torch.float64)).flatten(1).cpu()
        design = torch.stack([x, y, torch.ones_like(x)], dim=1)
        misfit = design @ torch.linalg.pinv(design) - torch.eye(size * size, dtype=torch.float64)
        filters = misfit.to(flow).reshape(size * size, 1, size, size)
        residuals = F.conv2d(flow.flatten(0, 1)[:, None], filters)
        return 2 * residuals.square().sum(dim=1).mean()
