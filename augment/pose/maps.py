"""Maps drawn from poses on the device: what the networks see of a pose.

Convention: joints are (x, y) pixels, pixel centres at integers; maps are indexed [row, column].
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from augment.pose.pose import Pose
from manifests.keypoints import LIMBS

CLOSING_PX: Final = 5
"""Edge of the square that closes gaps in a body mask."""


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


def discs(
    pose: Pose, height: int, width: int, radius_px: int = 4
) -> Float[Tensor, "batch 18 height width"]:
    """Return one solid disc per joint, 1 inside and -1 outside, as PG2 and DPIG draw it.

    The centre is truncated to a whole pixel; a missing joint gives -1 everywhere. The channels lie
    innermost in memory.

    >>> joints = torch.full((1, 18, 2), torch.nan)
    >>> joints[0, 0] = torch.tensor([10.9, 12.0])
    >>> int((discs(Pose(joints), 128, 64) > 0).sum())
    49
    """
    centres = pose.joints.float().trunc()
    columns = torch.arange(width, device=centres.device, dtype=torch.float32)
    rows = torch.arange(height, device=centres.device, dtype=torch.float32)
    across = (columns[None, :, None] - centres[:, None, :, 0]) ** 2
    down = (rows[None, :, None] - centres[:, None, :, 1]) ** 2
    # NaN is outside.
    inside = down[:, :, None] + across[:, None] <= radius_px**2
    return (2.0 * inside - 1.0).permute(0, 3, 1, 2)


def limb_discs(
    pose: Pose, height: int, width: int, radius_px: int
) -> Float[Tensor, "batch 1 height width"]:
    """Return 1 where the body is, else 0, as PG2 and DPIG see it in training.

    Each limb with both ends is a row of solid discs: at its ends and, if it is longer than two
    radii, at ``int(length / radius)`` equal steps between them; centres are truncated to whole
    pixels. Small gaps are closed. A joint of no such limb is not drawn.
    """
    centres = _limb_centres(pose, radius_px, steps=(height + width) // radius_px).trunc()
    rows, columns = height + 2 * radius_px, width + 2 * radius_px
    column, row = (centres + radius_px).unbind(-1)
    near = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    # What is not drawn goes to one cell behind the last.
    cell = torch.where(near, row * columns + column, rows * columns).long()
    dots = torch.zeros(len(cell), rows * columns + 1, device=cell.device)
    dots = dots.scatter_(1, cell, 1.0)[:, None, :-1].unflatten(2, (rows, columns))
    offset = torch.arange(-radius_px, radius_px + 1, device=cell.device)
    disc = (offset**2 + offset[:, None] ** 2 <= radius_px**2).float()
    with torch.autocast(dots.device.type, enabled=False):
        return closed((F.conv2d(dots, disc[None, None]) > 0.5).float())


def _limb_centres(pose: Pose, radius_px: int, steps: int) -> Float[Tensor, "batch centres 2"]:
    """Return the discs of all limbs; centres that are not to be drawn are NaN."""
    # In float32 the step of a whole length could come out just below a whole pixel.
    joints = pose.joints.double()
    start, end = joints[:, [limb[0] for limb in LIMBS]], joints[:, [limb[1] for limb in LIMBS]]
    count = ((end - start).norm(dim=-1, keepdim=True) / radius_px).trunc().clamp(1, steps)
    step = torch.arange(steps, device=joints.device)
    share = torch.where(step < count, step / count, torch.nan)[..., None]
    between = start[:, :, None] + (end - start)[:, :, None] * share
    last = torch.where(count > 0, end, torch.nan)
    return torch.cat([between.flatten(1, 2), last], dim=1)


def closed(mask: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch 1 height width"]:
    """Return a mask of 0 and 1 dilated and eroded by a square; beyond the border is nothing."""
    margin = CLOSING_PX // 2
    dilated = F.max_pool2d(mask, CLOSING_PX, stride=1, padding=margin)
    return -F.max_pool2d(-dilated, CLOSING_PX, stride=1, padding=margin)
