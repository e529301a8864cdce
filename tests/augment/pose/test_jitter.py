"""Images and poses moved together."""

from __future__ import annotations

import torch

from augment.pose.jitter import GREY, Jitter, moved
from augment.pose.pose import Pose

PIXEL_NOISE = 1e-4
"""Positions in float32 over 32 pixels."""


def _image() -> torch.Tensor:
    return 2 * torch.rand(2, 3, 32, 16, generator=torch.Generator().manual_seed(0)) - 1


def _pose() -> Pose:
    joints = torch.tensor([[4.0, 8.0], [10.0, 20.0]]).repeat(2, 9, 1)
    joints[0, 5] = torch.nan
    return Pose(joints)


def test_convention_a_shift_to_the_right_and_down_moves_pixels_and_joints_alike() -> None:
    matrix = torch.tensor([[1.0, 0.0, 3.0], [0.0, 1.0, 2.0]]).repeat(2, 1, 1)
    image, pose = moved(_image(), _pose(), matrix)
    assert (image[:, :, 2:, 3:] - _image()[:, :, :-2, :-3]).abs().max() < PIXEL_NOISE
    assert (image[:, :, :2] - GREY).abs().max() < PIXEL_NOISE
    assert pose.joints[1, 0].tolist() == [7.0, 10.0]
    assert torch.isnan(pose.joints[0, 5]).all()


def test_a_bright_pixel_and_its_joint_stay_together() -> None:
    torch.manual_seed(0)
    image = torch.full((8, 3, 64, 48), -1.0)
    image[:, :, 30:33, 20:23] = 1.0
    joints = torch.tensor([21.0, 31.0]).repeat(8, 18, 1)
    found, pose = Jitter(20.0, 5.0, 0.1).move(image, Pose(joints))
    mass = (found[:, 0] - GREY).clamp(min=0)
    x = (mass * torch.arange(48)).sum((1, 2)) / mass.sum((1, 2))
    y = (mass * torch.arange(64)[:, None]).sum((1, 2)) / mass.sum((1, 2))
    # The bright patch is sampled; its centre of mass lies within a fifth of a pixel.
    assert (torch.stack([x, y], dim=1) - pose.joints[:, 0]).abs().max() < 0.2
    assert (pose.joints[:, 0] - joints[:, 0]).abs().amax() > 1


def test_maps_stay_within_their_limits_and_reach_most_of_them() -> None:
    torch.manual_seed(0)
    turn = Jitter(5.0, 0.0, 0.05).draw(2000, 32, 16)[:, :, :2]
    angle = torch.rad2deg(torch.atan2(turn[:, 1, 0], turn[:, 0, 0]))
    scale = torch.linalg.det(turn).sqrt()
    assert 4.9 < angle.abs().max() <= 5.0 + PIXEL_NOISE
    assert 0.045 < (scale - 1).abs().max() <= 0.05 + PIXEL_NOISE
    shift = Jitter(0.0, 5.0, 0.0).draw(2000, 32, 16)[:, :, 2]
    assert 4.9 < shift.abs().max() <= 5.0
    assert abs(float(shift.mean())) < 0.2


def test_no_limits_leave_everything_in_place() -> None:
    image, pose = Jitter(0.0, 0.0, 0.0).move(_image(), _pose())
    assert (image - _image()).abs().max() < PIXEL_NOISE
    assert torch.equal(pose.joints.nan_to_num(), _pose().joints.nan_to_num())


def test_the_same_seed_moves_the_same_way() -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(7)
        found.append(Jitter(5.0, 5.0, 0.05).draw(3, 32, 16))
    assert torch.equal(found[0], found[1])
