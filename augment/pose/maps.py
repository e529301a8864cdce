"""Maps drawn from poses on the device: what the networks see of a pose.

Convention: joints are (x, y) pixels, pixel centres at integers; maps are indexed [row, column].
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from augment.pose.pose import Pose


def gaussians(
    pose: Pose, height: int, width: int, sigma_px: float = 6.0
) -> Float[Tensor, "batch 18 height width"]:
    """Return one Gaussian bump per joint, in [0, 1]; a missing joint gives zeros.

    ``exp(-((y - y_k)^2 + (x - x_k)^2) / (2 sigma^2))`` with sigma 6 px, neither cut off nor
    normalised, as PATN, XingGAN, GFLA and DPTN draw it. The channels lie innermost in memory.
    """
    joints = torch.nan_to_num(pose.joints.float())
    device = joints.device
    scale = -0.5 / sigma_px**2
    columns = torch.arange(width, device=device, dtype=torch.float32)
    rows = torch.arange(height, device=device, dtype=torch.float32)
    across = torch.exp(scale * (columns[None, :, None] - joints[:, None, :, 0]) ** 2)
    down = torch.exp(scale * (rows[None, :, None] - joints[:, None, :, 1]) ** 2)
    down = down * pose.visible[:, None, :]
    return (down[:, :, None, :] * across[:, None, :, :]).permute(0, 3, 1, 2)


def whole_pixel_gaussians(
    pose: Pose, height: int, width: int
) -> Float[Tensor, "batch 18 height width"]:
    """Return the maps of joints truncated to whole pixels, as GFLA's and DPTN's code draws them."""
    return gaussians(Pose(pose.joints.trunc()), height, width)
