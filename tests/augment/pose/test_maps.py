"""Solid discs of joints and limbs, against loops over pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.morphology import dilation, erosion

from augment.pose.maps import discs, limb_discs
from augment.pose.pose import Pose
from manifests.keypoints import LIMBS

HEIGHT, WIDTH = 72, 56


def _joints(seed: int) -> np.ndarray:
    """Return a pose in and about the image, some joints missing."""
    numbers = np.random.default_rng(seed)
    joints = numbers.uniform(-6, 1, (18, 2)) + numbers.uniform(0, 1, (18, 2)) * (WIDTH + 6, HEIGHT)
    joints[numbers.random(18) < 0.4] = np.nan
    return joints.astype(np.float32)


def _disc(image: np.ndarray, x: float, y: float, radius: int) -> None:
    for row in range(HEIGHT):
        for column in range(WIDTH):
            if (row - math.trunc(y)) ** 2 + (column - math.trunc(x)) ** 2 <= radius**2:
                image[row, column] = 1


def _limbs(joints: np.ndarray, radius: int) -> np.ndarray:
    image = np.zeros((HEIGHT, WIDTH), np.uint8)
    for start, end in LIMBS:
        (x0, y0), (x1, y1) = joints[start].astype(float), joints[end].astype(float)
        if math.isnan(x0 + x1):
            continue
        parts = int(math.hypot(x1 - x0, y1 - y0) / radius)
        shares = [0.0, *(part / parts for part in range(1, parts)), 1.0]
        for share in shares:
            _disc(image, x0 + (x1 - x0) * share, y0 + (y1 - y0) * share, radius)
    square = np.ones((5, 5))
    return erosion(dilation(image, square), square)


@pytest.mark.parametrize("radius", [4, 7])
def test_limbs_equal_a_loop_over_every_disc_and_pixel(radius):
    joints = np.stack([_joints(seed) for seed in range(6)])
    found = limb_discs(Pose(torch.from_numpy(joints)), HEIGHT, WIDTH, radius)
    assert found.shape == (6, 1, HEIGHT, WIDTH)
    for mask, pose in zip(found[:, 0], joints, strict=True):
        assert 0.1 < mask.mean() < 0.9
        assert np.array_equal(mask.numpy(), _limbs(pose, radius))


def test_a_pose_without_joints_is_nowhere():
    pose = Pose(torch.full((1, 18, 2), torch.nan))
    assert not limb_discs(pose, HEIGHT, WIDTH, 4).any()
    assert torch.equal(discs(pose, HEIGHT, WIDTH), -torch.ones(1, 18, HEIGHT, WIDTH))


def test_a_joint_of_no_complete_limb_is_not_drawn():
    joints = torch.full((1, 18, 2), torch.nan)
    joints[0, [1, 4]] = torch.tensor([10.0, 20.0])  # neck and wrist, which no limb joins
    assert not limb_discs(Pose(joints), HEIGHT, WIDTH, 4).any()


def test_convention_a_disc_is_around_column_x_and_row_y_truncated():
    joints = torch.full((1, 18, 2), torch.nan)
    joints[0, 5] = torch.tensor([7.9, 30.2])
    maps = discs(Pose(joints), HEIGHT, WIDTH)
    expected = np.zeros((HEIGHT, WIDTH))
    _disc(expected, 7, 30, 4)
    assert np.array_equal(maps[0, 5].numpy(), 2 * expected - 1)
    assert (maps[0, :5] == -1).all()


def test_discs_lie_with_their_channels_innermost():
    maps = discs(Pose(torch.rand(2, 18, 2)), HEIGHT, WIDTH)
    assert maps.is_contiguous(memory_format=torch.channels_last)
