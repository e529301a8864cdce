"""The body mask against scikit-image, with which the published evaluators draw it."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.draw import disk, polygon
from skimage.morphology import closing

from augment.pose.pose import Pose
from augment.quality.masks import body_mask
from manifests.keypoints import LIMBS

WIDTH, HEIGHT = 64, 128


def reference(joints: np.ndarray) -> np.ndarray:
    """Return the mask of one pose, drawn limb by limb."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    points = joints[:, ::-1].astype(np.float64)
    for start, end in LIMBS:
        along = points[start] - points[end]
        if not np.isfinite(along).all() or not along.any():
            continue
        across = 4 * np.array([-along[1], along[0]]) / np.linalg.norm(along)
        corners = np.array(
            [points[start] + across, points[start] - across, points[end] - across,
             points[end] + across]
        )  # fmt: skip
        mask[polygon(corners[:, 0], corners[:, 1], mask.shape)] = True
    for point in points[np.isfinite(points).all(axis=1)]:
        mask[disk(tuple(point), 4, shape=mask.shape)] = True
    return closing(mask, np.ones((5, 5), dtype=bool))


def pose_of(seed: int, *, whole: bool = True) -> np.ndarray:
    """Return 18 joints anywhere in the image and a little outside, a fifth of them missing."""
    random = np.random.default_rng(seed)
    joints = random.uniform(-6, [WIDTH + 5, HEIGHT + 5], (18, 2))
    joints[random.random(18) < 0.2] = np.nan
    return (np.round(joints) if whole else joints).astype(np.float32)


@given(st.integers(0, 2**32), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_pixel_equals_scikit_image(seed: int, whole: bool):
    joints = pose_of(seed, whole=whole)
    ours = body_mask(Pose(torch.from_numpy(joints)[None]), (WIDTH, HEIGHT))[0]
    np.testing.assert_array_equal(ours.numpy(), reference(joints))


def test_slanted_limbs_with_pixels_exactly_on_their_edges_equal_scikit_image():
    # Directions with integer length: the long edges run through pixel centres.
    for dx, dy in ((30, 40), (-30, 40), (15, 20), (24, 7), (-12, 35), (0, 40), (40, 0), (20, 20)):
        joints = np.full((18, 2), np.nan, np.float32)
        joints[1] = (31, 40)
        joints[2] = joints[1] + (dx, dy)
        ours = body_mask(Pose(torch.from_numpy(joints)[None]), (WIDTH, HEIGHT))[0]
        np.testing.assert_array_equal(ours.numpy(), reference(joints))


def test_a_mask_does_not_depend_on_the_rest_of_the_batch():
    joints = np.stack([pose_of(seed) for seed in range(5)])
    together = body_mask(Pose(torch.from_numpy(joints)), (WIDTH, HEIGHT))
    for row, pose in enumerate(joints):
        alone = body_mask(Pose(torch.from_numpy(pose)[None]), (WIDTH, HEIGHT))[0]
        assert torch.equal(together[row], alone)


def test_a_pose_without_joints_has_an_empty_mask():
    nobody = Pose(torch.full((1, 18, 2), torch.nan))
    assert not body_mask(nobody, (WIDTH, HEIGHT)).any()


def test_two_joints_at_one_place_draw_a_disc_and_no_limb():
    joints = np.full((18, 2), np.nan, np.float32)
    joints[1] = joints[2] = (20, 30)
    mask = body_mask(Pose(torch.from_numpy(joints)[None]), (WIDTH, HEIGHT))[0]
    rows, columns = torch.nonzero(mask, as_tuple=True)
    assert int(mask.sum()) == 45
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (27, 33, 17, 23)


def test_convention_a_mask_covers_x_in_columns_and_y_in_rows():
    joints = np.full((18, 2), np.nan, np.float32)
    joints[0] = (10, 100)
    mask = body_mask(Pose(torch.from_numpy(joints)[None]), (WIDTH, HEIGHT))[0]
    assert mask[100, 10]
    assert mask[103, 10]
    assert not mask[104, 10]
    assert mask[100, 7]
    assert not mask[100, 6]
