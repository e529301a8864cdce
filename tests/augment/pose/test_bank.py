"""The pose bank."""

import numpy as np
import pytest

from augment.pose.bank import joints_in, pose_bank
from manifests.keypoints import JOINT_NAMES
from manifests.runtime.console import UserError
from tests.helpers import trivial

SIZE = (64, 128)


def test_poses_come_sorted_by_image_from_train_rows_with_shoulders_and_hips():
    images = trivial.made_up(num_people=2, images_per_person=2)
    joints = images.keypoints()
    joints[1, JOINT_NAMES.index("left_hip")] = np.nan
    joints[3, JOINT_NAMES.index("nose")] = np.nan
    rows = images.table.to_pylist()

    bank = pose_bank(trivial.table_of(rows[::-1], joints[::-1], "."), SIZE)

    assert bank.pose_ids.to_pylist() == [rows[i]["image_id"] for i in (0, 2, 3)]
    np.testing.assert_array_equal(bank.joints, joints[[0, 2, 3]])
    assert bank.joints.dtype == np.float32


@pytest.mark.parametrize("split", ["query", "gallery"])
def test_test_images_never_give_a_pose(split):
    train, test = trivial.made_up(), trivial.made_up(first=50, split=split)
    both = trivial.table_of(
        train.table.to_pylist() + test.table.to_pylist(),
        np.concatenate([train.keypoints(), test.keypoints()]),
        ".",
    )

    assert pose_bank(both, SIZE).pose_ids == pose_bank(train, SIZE).pose_ids


def test_a_table_without_usable_poses_is_refused():
    images = trivial.made_up(num_people=1, images_per_person=2)
    nobody = trivial.table_of(images.table.to_pylist(), np.full((2, 18, 2), np.nan), ".")

    with pytest.raises(UserError, match="no pose with both shoulders and both hips in 2 train"):
        pose_bank(nobody, SIZE)


def test_the_digest_depends_on_the_poses_and_not_on_row_order():
    images = trivial.made_up()
    rows, joints = images.table.to_pylist(), images.keypoints()
    moved = joints.copy()
    moved[5, 3, 0] += 1

    digest = pose_bank(images, SIZE).digest
    assert pose_bank(trivial.table_of(rows[::-1], joints[::-1], "."), SIZE).digest == digest
    assert pose_bank(trivial.table_of(rows, moved, "."), SIZE).digest != digest


def test_convention_poses_are_stretched_with_their_image():
    images = trivial.made_up(num_people=1, images_per_person=1)
    row = {**images.table.to_pylist()[0], "width": 128, "height": 256}
    joints = np.zeros((1, 18, 2))
    joints[0, :, 0], joints[0, :, 1] = 127.5, 255.5

    stretched = joints_in(trivial.table_of([row], joints, "."), SIZE)

    # The far edge of an image lies half a pixel behind its last centre.
    np.testing.assert_array_equal(stretched[0, 0], [63.5, 127.5])


def test_a_row_without_a_size_is_refused():
    images = trivial.made_up(num_people=1, images_per_person=1)
    row = {**images.table.to_pylist()[0], "height": None}

    with pytest.raises(UserError, match=r"'0002_c1s1_000000_01.jpg'.*found no height"):
        pose_bank(trivial.table_of([row], np.zeros((1, 18, 2)), "."), SIZE)
