"""Keypoints that cannot be what they are taken for, in tables, files and arrays."""

from __future__ import annotations

import re

import numpy as np
import pytest

from manifests.io import (
    keypoint_column,
    open_images,
    read_images,
    read_table,
    write_table,
)
from manifests.keypoint_check import check_keypoints, evidence
from manifests.keypoints import COCO_NAMES, JOINT_NAMES
from manifests.runtime.console import UserError
from manifests.schema import IMAGES, OPTIONAL_COLUMNS
from tests.helpers.poses import upright

SIZE = np.array([64.0, 128.0])


@pytest.fixture
def poses() -> np.ndarray:
    """Return forty poses that stand and fill their crops, some joints missing."""
    generator = np.random.default_rng(4)
    y = np.sort(generator.uniform(8, 120, (40, 18)), axis=1)
    y[:, -1], y[:, 0] = 118, 10
    x = generator.uniform(5, 60, (40, 18))
    joints = upright(np.stack([x, y], axis=-1))
    joints[generator.random((40, 18)) < 0.1] = np.nan
    return joints.astype(np.float32)


def sizes_of(joints: np.ndarray) -> np.ndarray:
    return np.broadcast_to(SIZE, (len(joints), 2))


def as_coco(joints: np.ndarray) -> np.ndarray:
    """Return joints in COCO's order, the eighteenth missing."""
    coco = np.full_like(joints, np.nan)
    for place, name in enumerate(COCO_NAMES):
        coco[:, place] = joints[:, JOINT_NAMES.index(name)]
    return coco


def as_openpose25(joints: np.ndarray) -> np.ndarray:
    """Return the first 18 of OpenPose's 25: a hip in the middle before the right one."""
    return np.concatenate([joints[:, :8], joints[:, [8, *range(8, 17)]]], axis=1)


WRONG = {
    "unit": (lambda joints: joints / SIZE, "--keypoint-scale unit"),
    "swapped": (lambda joints: joints[..., ::-1], "--keypoint-order yx"),
    "eight times": (lambda joints: joints * 8, "times as large: 'augment index --keypoint-scale"),
    "an eighth": (lambda joints: joints / 8, "smaller image: 'augment index --keypoint-scale"),
    "corner": (lambda joints: joints - 100, "another point than the image's top-left corner"),
    "zero": (np.nan_to_num, "--keypoint-missing zero"),
    "minus one": (lambda joints: np.nan_to_num(joints, nan=-1), "-1 for a missing joint"),
    "coco": (as_coco, "--keypoint-format coco17"),
    "openpose25": (as_openpose25, "--keypoint-format openpose25"),
    "upside down": (lambda joints: [0, 127] + joints * [1, -1], "another joint order"),
}


def test_upright_poses_within_their_images_pass(poses):
    assert evidence(poses, sizes_of(poses)).fits
    check_keypoints(poses, sizes_of(poses), "here")
    check_keypoints(np.full((3, 18, 2), np.nan), sizes_of(poses[:3]), "here")


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_keypoints_are_refused_with_the_cause_and_the_flag(poses, kind):
    change, flag = WRONG[kind]
    with pytest.raises(UserError, match=re.escape(flag)) as refused:
        check_keypoints(np.asarray(change(poses), np.float32), sizes_of(poses), "here")
    assert re.match(r"here: found \d+ of \d+ poses ", str(refused.value))


@pytest.mark.parametrize("kind", [kind for kind in WRONG if kind not in {"zero", "minus one"}])
def test_a_single_wrong_pose_is_refused(poses, kind):
    whole = poses[~np.isnan(poses).any(axis=(1, 2))][:1]
    assert len(whole) == 1
    with pytest.raises(UserError, match="found 1 of 1 poses"):
        check_keypoints(np.asarray(WRONG[kind][0](whole), np.float32), sizes_of(whole), "here")


def test_a_few_poses_that_fall_or_reach_out_are_no_reason_to_refuse(poses):
    poses[0] = [0, 127] + poses[0] * [1, -1]
    poses[1] = poses[1] * 3
    check_keypoints(poses, sizes_of(poses), "here")


def test_a_pose_in_an_image_of_unknown_size_has_its_order_alone_checked(poses):
    unknown = np.full((len(poses), 2), np.nan)
    check_keypoints(poses * 8, unknown, "here")
    with pytest.raises(UserError, match="head below the hips"):
        check_keypoints(poses * -8, unknown, "here")


@pytest.mark.parametrize("reader", [read_images, open_images])
def test_a_table_of_wrong_keypoints_is_refused_by_whoever_reads_it(tiny_images, reader):
    swapped = keypoint_column(tiny_images.keypoints()[..., ::-1])
    path = tiny_images.root / "images.parquet"
    table = read_table(path, IMAGES, "a table", optional=OPTIONAL_COLUMNS)
    place = table.schema.get_field_index("keypoints")
    wrong = table.set_column(place, IMAGES.field("keypoints"), swapped)
    write_table(wrong, path, {"root": str(tiny_images.root)})
    with pytest.raises(UserError, match=r"images\.parquet: found \d+ of 9 poses .* y before x"):
        reader(path)
