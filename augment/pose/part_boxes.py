"""Boxes around seven parts of a body, as DPIG looks at a person part by part.

Convention: joints and corners are (x, y) pixels, pixel centres at integers, origin at the centre of
the top-left pixel.
"""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from augment.pose.pose import Pose

PARTS: Final = (
    (0, 1, 2, 5, 14, 15, 16, 17),
    (2, 3, 4, 5, 6, 7, 8, 11),
    (8, 9, 10, 11, 12, 13),
    (5, 6, 7),
    (2, 3, 4),
    (11, 12, 13),
    (8, 9, 10),
)
"""Joints of head, upper body, lower body, left arm, right arm, left leg, right leg."""
MARGIN_PX: Final = 6
SINGLE_MARGIN_PX: Final = 10
"""Around a part of which one joint alone is seen."""


def part_boxes(
    pose: Pose, height: int, width: int
) -> tuple[Float[Tensor, "batch parts 4"], Bool[Tensor, "batch parts"]]:
    """Return (left, top, right, bottom) of each part, and which parts are seen.

    The smallest box around the part's joints, truncated to whole pixels, and a margin, inside the
    image. A part without joints has the box (0, 0, 1, 1).

    >>> boxes, seen = part_boxes(Pose(torch.full((1, 18, 2), torch.nan)), 128, 64)
    >>> boxes[0, 0].tolist(), bool(seen.any())
    ([0.0, 0.0, 1.0, 1.0], False)
    """
    boxes: list[Tensor] = []
    counts: list[Tensor] = []
    for part in PARTS:
        joints = pose.joints[:, part].float().trunc()
        visible = pose.visible[:, part]
        count = visible.sum(dim=1)
        margin = torch.where(count == 1, SINGLE_MARGIN_PX, MARGIN_PX)[:, None]
        first = joints.masked_fill(~visible[..., None], torch.inf).amin(dim=1) - margin
        last = joints.masked_fill(~visible[..., None], -torch.inf).amax(dim=1) + margin
        boxes.append(torch.cat([first, last], dim=1))
        counts.append(count)
    box, seen = torch.stack(boxes, dim=1), torch.stack(counts, dim=1) > 0
    # Columns and rows are limited one by one: a tensor of limits would have to reach the device.
    limits = (width - 1, height - 1, width - 1, height - 1)
    corners = [box[..., axis].clamp(0, limit) for axis, limit in enumerate(limits)]
    empty = [torch.full_like(corner, axis // 2) for axis, corner in enumerate(corners)]
    return torch.where(seen[..., None], torch.stack(corners, -1), torch.stack(empty, -1)), seen
