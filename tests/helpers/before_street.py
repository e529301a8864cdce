"""A made-up condition with all that a system may ask for."""

import torch

from augment.interface.condition import Background, Condition
from augment.pose.pose import Pose

HEIGHT, WIDTH = 64, 32


def condition(count=2):
    """A whole figure in two poses, before a street with a box-shaped hole."""
    numbers = torch.Generator().manual_seed(3)
    figure = torch.tensor(
        [(16, 6), (16, 12), (10, 13), (8, 22), (7, 30), (22, 13), (24, 22), (25, 30), (12, 32),
         (11, 44), (11, 56), (20, 32), (21, 44), (21, 56), (15, 5), (17, 5), (14, 6), (18, 6)]
    )  # fmt: skip
    joints = figure + torch.randn(2, count, 18, 2, generator=numbers)
    images = 2 * torch.rand(2, count, 3, HEIGHT, WIDTH, generator=numbers) - 1
    mask, hole = torch.zeros(2, count, 1, HEIGHT, WIDTH)
    mask[..., 2:62, 4:28] = 1
    hole[..., 1:63, 3:29] = 1
    poses = Pose(joints[0]), Pose(joints[1])
    return Condition(images[0], *poses, mask=mask, background=Background(images[1], hole))
