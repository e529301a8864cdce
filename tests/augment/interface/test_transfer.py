"""The call from Python: images and poses in many forms, the right ones taken, others refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image

from manifests import pixels
from manifests.runtime.console import UserError
from tests.helpers.poses import upright
from tests.helpers.trivial import Trivial

IMAGE = np.random.default_rng(0).integers(0, 256, (128, 64, 3), np.uint8)
GREY = IMAGE[..., 0]
POSE = upright(np.random.default_rng(1).uniform(5, (60, 120), (18, 2))).astype(np.float32)
ALPHA = np.dstack([IMAGE, GREY])


def made(image, pose=POSE, target_pose=POSE):
    return Trivial().transfer(image, pose, target_pose)


@pytest.mark.parametrize(
    "image",
    [
        IMAGE,
        ALPHA,
        torch.from_numpy(IMAGE),
        torch.from_numpy(IMAGE).permute(2, 0, 1),
        Image.fromarray(IMAGE),
        Image.fromarray(ALPHA),
        IMAGE[:, ::-1][:, ::-1],
    ],
)
def test_every_form_of_an_image_gives_the_same_person(image):
    assert np.array_equal(made(image), made(IMAGE))


@pytest.mark.parametrize(
    "image", [GREY, GREY[..., None], torch.from_numpy(GREY), Image.fromarray(GREY)]
)
def test_a_grey_image_is_that_of_three_equal_channels(image):
    assert np.array_equal(made(image), made(np.dstack([GREY] * 3)))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (IMAGE / 255, "found 128x64x3 of float64, expected image as height x width x 3 of uint8"),
        (torch.from_numpy(IMAGE) / 255, "float32, expected image as"),
        (IMAGE.astype(np.uint16) * 257, "found 128x64x3 of uint16"),
        (IMAGE.transpose(2, 0, 1), "found an array of 3 x 128 x 64"),
        (IMAGE[None], "found an array of 1 x 128 x 64 x 3"),
        (IMAGE[:, :0], "found an array of 128 x 0 x 3"),
        (IMAGE > 100, "of bool"),
        (Image.fromarray(GREY.astype(np.int32)), "found a PIL image of mode I"),
        ("photo.jpg", "found 'str'"),
        (None, "found 'NoneType'"),
    ],
)
def test_what_is_no_image_of_8_bits_is_refused_in_one_sentence(image, message):
    with pytest.raises(UserError, match=re.escape(message)):
        made(image)


@pytest.mark.parametrize(
    "pose",
    [
        POSE.tolist(),
        POSE.astype(np.float64),
        torch.from_numpy(POSE),
        np.concatenate([POSE, np.full((18, 1), 0.7)], axis=1),
    ],
)
def test_every_form_of_a_pose_gives_the_same_person(pose):
    assert np.array_equal(made(IMAGE, pose, pose), made(IMAGE))


def test_a_joint_of_no_confidence_is_missing():
    missing, sure = POSE.copy(), np.ones((18, 1))
    missing[4], sure[4] = np.nan, 0
    assert np.array_equal(
        made(IMAGE, target_pose=np.concatenate([POSE, sure], axis=1)),
        made(IMAGE, target_pose=missing),
    )


@pytest.mark.parametrize("place", ["pose", "target_pose"])
@pytest.mark.parametrize(
    ("pose", "message"),
    [
        (POSE / [64, 128], "with all coordinates from 0 to 1"),
        (POSE[:, ::-1], "Likely y before x"),
        (POSE * 8, "Likely made for an image"),
        (POSE - 100, "another point than the image's top-left corner"),
        (POSE[:17], "found 17 x 2, expected"),
        (np.concatenate([POSE, POSE[:7]]), "manifests.keypoints.from_openpose25 gives them"),
        (POSE[None], "found 1 x 18 x 2"),
        (np.full((18, 2), np.nan), "found no joint"),
        (np.concatenate([POSE, np.full((18, 1), 90)], axis=1), "third column that is no confid"),
        ("standing", "found no array of numbers"),
        ([[1, 2], [3]], "found no array of numbers"),
    ],
)
def test_what_is_no_pose_of_the_image_is_refused_in_one_sentence(place, pose, message):
    with pytest.raises(UserError, match=f"^{place}: .*{re.escape(message)}"):
        made(IMAGE, **{place: pose})


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_outside_its_range_is_refused(seed):
    with pytest.raises(UserError, match=f"seed: found {seed}"):
        Trivial().transfer(IMAGE, POSE, POSE, seed=seed)


@pytest.mark.parametrize("mask", [np.ones((64, 128), bool), np.ones((128, 64), np.uint8)])
def test_a_mask_of_another_form_is_refused(mask):
    with pytest.raises(UserError, match="expected 128 x 64 of bool, as its image"):
        Trivial().transfer(IMAGE, POSE, POSE, mask=mask)


def test_pixels_that_are_right_are_not_copied_into_others():
    assert np.array_equal(pixels.as_rgb(IMAGE), IMAGE)
