"""Distances between images by their features: content and style.

Content: Johnson et al. 2016, section 3.2, with L1 in place of the squared distance; style: Gatys
et al. 2016 by Gram matrices. Layers and normalisation are those of GFLA and DPTN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

CONTENT_LAYERS: Final = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
STYLE_LAYERS: Final = ("relu2_2", "relu3_4", "relu4_4", "relu5_2")


def gram(
    features: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch channels channels"]:
    """Return the mean products of channels, divided by ``channels * height * width``.

    >>> gram(torch.ones(1, 2, 4, 4)).tolist()
    [[[0.5, 0.5], [0.5, 0.5]]]
    """
    # In bfloat16 the products would keep two digits.
    with torch.autocast(features.device.type, enabled=False):
        flat = features.float().flatten(2)
        return flat @ flat.transpose(1, 2) / flat[0].numel()


def content(prediction: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """Return the sum over ``CONTENT_LAYERS`` of the mean absolute difference."""
    return torch.stack(
        [F.l1_loss(prediction[layer].float(), target[layer].float()) for layer in CONTENT_LAYERS]
    ).sum()


def style(prediction: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """Return the sum over ``STYLE_LAYERS`` of the mean absolute difference of Gram matrices."""
    return torch.stack(
        [F.l1_loss(gram(prediction[layer]), gram(target[layer])) for layer in STYLE_LAYERS]
    ).sum()
