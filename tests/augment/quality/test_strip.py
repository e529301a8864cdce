"""The JPEG detour: crops as from the whole five-panel strip."""

import io
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from augment.quality.strip import draw_pose_panels, through_jpeg, through_strip


@pytest.fixture
def pool() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


def crops(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (3, 16, 8, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2) // 2 + random.integers(
        0, 128, (3, 128, 64, 3), dtype=np.uint8
    )


def joints(seed: int) -> np.ndarray:
    """Return poses with joints at the panels' borders, where colours reach the neighbours."""
    random = np.random.default_rng(seed)
    found = random.integers(0, (64, 128), (3, 18, 2)).astype(np.float32)
    found[:, :4, 0], found[:, 4:8, 0] = 0, 63
    found[:, 8] = np.nan
    return found


def whole_strip(panels: list[np.ndarray]) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(panels, axis=1)).save(buffer, "JPEG", quality=75)
    return np.asarray(Image.open(buffer))


def test_crops_equal_those_of_the_whole_strip(pool: Executor):
    source, target, generated = crops(0), crops(1), crops(2)
    poses = joints(3), joints(4)
    ours = through_strip(generated, target, poses, pool)
    source_pose, target_pose = (draw_pose_panels(pose, (64, 128)) for pose in poses)
    panels = [source, source_pose, target, target_pose, generated]
    for row in range(3):
        strip = whole_strip([panel[row] for panel in panels])
        np.testing.assert_array_equal(ours[0][row], strip[:, 256:320])
        np.testing.assert_array_equal(ours[1][row], strip[:, 128:192])


def test_limbs_in_white_would_change_no_pixel_of_a_crop(pool: Executor):
    target, generated = crops(1), crops(2)
    poses = joints(3), joints(4)
    ours = through_strip(generated, target, poses, pool)
    source_pose, target_pose = (draw_pose_panels(pose, (64, 128)) for pose in poses)
    for row in range(3):
        for panel in (source_pose[row], target_pose[row]):
            panel[60, (panel[60] == 0).all(axis=1)] = 200
        strip = whole_strip([source_pose[row], target[row], target_pose[row], generated[row]])
        # Less than one step of 255: a grey line has no colour, but rounding of colours may shift.
        assert np.abs(strip[:, 192:].astype(int) - ours[0][row]).max() <= 1
        assert np.abs(strip[:, 64:128].astype(int) - ours[1][row]).max() <= 1


def test_a_panel_coded_alone_differs_at_its_border(pool: Executor):
    target, generated = crops(1), crops(2)
    ours = through_strip(generated, target, (joints(3), joints(4)), pool)
    alone = through_jpeg(generated, pool)
    columns = np.flatnonzero((ours[0] != alone).any(axis=(0, 1, 3)))
    assert columns.tolist() == [0]


def test_one_file_per_image_equals_pillow(pool: Executor):
    images = crops(5)
    ours = through_jpeg(images, pool)
    for image, decoded in zip(images, ours, strict=True):
        np.testing.assert_array_equal(decoded, whole_strip([image]))


def test_convention_a_pose_is_drawn_at_x_in_columns_and_y_in_rows():
    pose = np.full((1, 18, 2), np.nan, np.float32)
    pose[0, 0] = (10, 100)
    rows, columns = np.nonzero(draw_pose_panels(pose, (64, 128))[0].any(axis=2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (99, 101, 9, 11)
