"""The body mask of the masked metrics: the target's limbs and joints, filled and closed.

As in the published evaluators of PATN, XingGAN, GFLA and DPTN, which draw it with scikit-image
(``skimage.draw.polygon`` and ``disk``, a closing by a 5 x 5 square). Drawn here on the device for a
whole batch, pixel for pixel the same. It is not the mask that PG2 and DPIG train with.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from augment.pose.maps import closed
from augment.pose.pose import Pose
from manifests.keypoints import LIMBS

LIMB_HALF_WIDTH_PX = 4.0
JOINT_RADIUS_PX = 4.0

VERTEX_TOLERANCE_PX = 1e-12
"""A pixel centre this close to a corner belongs to the polygon, as in scikit-image."""


def body_mask(pose: Pose, size: tuple[int, int]) -> Bool[Tensor, "batch height width"]:
    """Return where the body is: limbs 8 px wide, discs around joints, small gaps closed.

    A limb is drawn if both its ends are present and apart, a disc around every present joint
    (pixels strictly closer than 4 px). Nothing is drawn for a pose without joints.

    Convention: joints are (x, y), pixel centres at integers; ``size`` is (width, height).

    >>> joints = torch.full((1, 18, 2), torch.nan)
    >>> joints[0, 0] = torch.tensor([10.0, 12.0])
    >>> int(body_mask(Pose(joints), (64, 128)).sum())
    45
    """
    width, height = size
    joints = pose.joints.double()
    mask = _discs(joints, width, height)
    for start, end in LIMBS:
        mask |= _inside(_limb(joints[:, start], joints[:, end]), width, height)
    return closed(mask[:, None].float())[:, 0] > 0.5


def _discs(
    joints: Float[Tensor, "batch 18 2"], width: int, height: int
) -> Bool[Tensor, "batch height width"]:
    columns, rows = _offsets(joints, width, height)
    squared = columns[:, :, None, :] ** 2 + rows[:, :, :, None] ** 2
    return (squared < JOINT_RADIUS_PX**2).any(dim=1)


def _limb(
    start: Float[Tensor, "batch 2"], end: Float[Tensor, "batch 2"]
) -> Float[Tensor, "batch 4 2"]:
    """Return the corners of the limb's rectangle; NaN if an end is missing or both coincide."""
    along = start - end
    across = torch.stack((along[:, 1], -along[:, 0]), dim=1)
    length = (along[:, 0] ** 2 + along[:, 1] ** 2).sqrt()
    # In this order of operations, as the published code: the corners must be equal to the last bit.
    across = LIMB_HALF_WIDTH_PX * across / length[:, None]
    return torch.stack((start + across, start - across, end - across, end + across), dim=1)


def _inside(
    corners: Float[Tensor, "batch corners 2"], width: int, height: int
) -> Bool[Tensor, "batch height width"]:
    """Return which pixel centres lie in the polygon or on its border.

    Counts the edges that a ray to the right and one to the left cross; an odd count is inside, two
    counts of unlike parity are a point on an edge (O'Rourke 1998, chapter 7). Integer joints put
    pixel centres exactly on edges, so the sums are rounded in scikit-image's order. Corners that
    are NaN enclose nothing.
    """
    columns, rows = _offsets(corners, width, height)
    near = VERTEX_TOLERANCE_PX
    corner = (columns.abs() < near)[:, :, None, :] & (rows.abs() < near)[:, :, :, None]
    on_corner = corner.any(dim=1)
    right, left = torch.zeros_like(on_corner), torch.zeros_like(on_corner)
    for i in range(corners.shape[1]):
        x0, y0 = columns[:, i, None, :], rows[:, i, :, None]
        x1, y1 = columns[:, i - 1, None, :], rows[:, i - 1, :, None]
        upward = (y1 - y0).sign()
        crossing = x0 * (y1 * upward) - x1 * (y0 * upward)
        right ^= ((y0 > 0) != (y1 > 0)) & (crossing > 0)
        left ^= ((y0 < 0) != (y1 < 0)) & (crossing < 0)
    return right | left | on_corner


def _offsets(
    points: Float[Tensor, "batch points 2"], width: int, height: int
) -> tuple[Float[Tensor, "batch points width"], Float[Tensor, "batch points height"]]:
    """Return the points as seen from every column and from every row."""
    column = torch.arange(width, device=points.device, dtype=points.dtype)
    row = torch.arange(height, device=points.device, dtype=points.dtype)
    return points[..., :1] - column, points[..., 1:] - row
