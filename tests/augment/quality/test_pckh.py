"""PCKh's counting rules, one by one."""

import math

import numpy as np

from augment.quality.pckh import count_joints


def target() -> np.ndarray:
    """Return one pose: a head box of 8 x 6, a shoulder, all else missing."""
    joints = np.full((1, 18, 2), np.nan, np.float32)
    joints[0, 0] = (30, 20)
    joints[0, 1] = (34, 26)
    joints[0, 16] = (26, 21)
    joints[0, 2] = (20, 40)
    return joints


def moved(joint: int, dx: float, dy: float) -> np.ndarray:
    found = target()
    found[0, joint] += (dx, dy)
    return found


def right(found: np.ndarray) -> int:
    return int(count_joints(found, target()).right[0])


def test_a_joint_just_inside_half_the_head_box_is_right():
    assert right(moved(2, 3.99, -2.99)) == 4


def test_a_joint_at_exactly_half_the_head_box_is_wrong():
    assert right(moved(2, 4.0, 0)) == 3
    assert right(moved(2, 0, -3.0)) == 3


def test_the_box_is_tested_per_axis_and_not_by_distance():
    far_along_both = moved(2, 3.9, 2.9)
    assert math.hypot(3.9, 2.9) > 4
    assert right(far_along_both) == 4


def test_a_joint_missing_in_the_found_pose_is_wrong_and_still_counted():
    found = target()
    found[0, 2] = np.nan
    counts = count_joints(found, target())
    assert (counts.right[0], counts.visible[0], bool(counts.scored[0])) == (3, 4, True)


def test_a_joint_found_but_not_wanted_is_not_counted():
    found = target()
    found[0, 10] = (1, 1)
    counts = count_joints(found, target())
    assert (counts.right[0], counts.visible[0]) == (4, 4)


def test_a_pair_with_one_joint_of_the_head_is_left_out():
    wanted = target()
    wanted[0, [0, 16]] = np.nan
    counts = count_joints(wanted, wanted)
    assert not counts.scored[0]
    assert math.isnan(counts.pckh())


def test_a_flat_head_box_makes_every_joint_wrong():
    wanted = target()
    wanted[0, [0, 1, 16], 1] = 20
    counts = count_joints(wanted, wanted)
    assert (counts.right[0], counts.visible[0], bool(counts.scored[0])) == (0, 4, True)


def test_the_rate_pools_the_joints_of_all_scored_pairs():
    few, many = target(), target()
    many[0, 3:13] = (20, 50)
    missed = many.copy()
    missed[0, 3:13] = np.nan
    counts = count_joints(np.concatenate([few, missed]), np.concatenate([few, many]))
    assert counts.pckh() == (4 + 4) / (4 + 14)
