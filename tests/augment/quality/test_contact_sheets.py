"""Contact sheets."""

import io

import numpy as np
import pytest
from PIL import Image

from augment.quality import contact_sheets
from manifests.keypoints import JOINT_NAMES

SIZE = (64, 128)
NIGHT = (24, 24, 28)


@pytest.fixture
def standing():
    joints = np.full((18, 2), np.nan, np.float32)
    at = {"neck": (32, 20), "right_shoulder": (20, 24), "left_shoulder": (44, 24)}
    for name, place in at.items():
        joints[JOINT_NAMES.index(name)] = place
    return joints


def test_a_tile_shows_its_image_at_twice_the_size_in_its_place():
    images = np.full((2, 128, 64, 3), 9, np.uint8)
    other = np.full((2, 128, 64, 3), 200, np.uint8)

    pixels = np.asarray(contact_sheets.contact_sheet([("source", images), ("result", other)]))

    second_row = 24 + 256 + 6
    assert pixels.shape == (24 + 2 * (256 + 6) + 6, 2 * (128 + 6) + 6, 3)
    assert (pixels[24:280, 6:134] == 9).all()
    assert (pixels[second_row : second_row + 256, 140:268] == 200).all()
    assert (pixels[:, 134:140] == 250).all()


def test_rows_flow_into_blocks_side_by_side():
    images = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 4, 3), np.uint8)

    pixels = np.asarray(contact_sheets.contact_sheet([("a", images)], blocks=2))

    first, second = 6, 6 + 8 + 24
    corners = [(24, first), (24 + 22, first), (24, second), (24 + 22, second)]
    assert [int(pixels[y, x, 0]) for y, x in corners] == [0, 1, 2, 3]


def test_labels_stand_under_their_row():
    images = np.zeros((1, 128, 64, 3), np.uint8)

    pixels = np.asarray(contact_sheets.contact_sheet([("a", images)], labels=["0002"]))

    assert (pixels[280:296].min(axis=(1, 2)) < 100).any()


def test_a_sheet_becomes_a_png_of_the_same_pixels():
    image = contact_sheets.contact_sheet([("a", np.full((1, 128, 64, 3), 77, np.uint8))])

    with Image.open(io.BytesIO(contact_sheets.as_png(image))) as read:
        assert read.format == "PNG"
        assert (np.asarray(read) == np.asarray(image)).all()


def test_convention_a_joint_is_drawn_around_the_centre_of_its_pixel():
    joints = np.full((18, 2), np.nan, np.float32)
    joints[0] = (40, 70)

    brightness = contact_sheets.draw_pose(joints, SIZE).astype(float).sum(axis=2) - sum(NIGHT)

    ys, xs = np.mgrid[:128, :64]
    assert (brightness * xs).sum() / brightness.sum() == pytest.approx(40, abs=0.2)
    assert (brightness * ys).sum() / brightness.sum() == pytest.approx(70, abs=0.2)


def test_limbs_have_colours_of_their_own(standing):
    drawing = contact_sheets.draw_pose(standing, SIZE)

    right, left = drawing[22, 26].astype(int), drawing[22, 38].astype(int)
    assert right.sum() > 2 * sum(NIGHT)
    assert left.sum() > 2 * sum(NIGHT)
    assert np.abs(right - left).max() > 50


def test_a_missing_joint_takes_its_limbs_along(standing):
    standing[JOINT_NAMES.index("neck")] = np.nan

    drawing = contact_sheets.draw_pose(standing, SIZE)

    assert (drawing[22, 26:39] == NIGHT).all()


def test_a_pose_without_joints_is_an_empty_drawing():
    drawing = contact_sheets.draw_pose(np.full((18, 2), np.nan), SIZE, scale=2)

    assert drawing.shape == (256, 128, 3)
    assert (drawing == NIGHT).all()
