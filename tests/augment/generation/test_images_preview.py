"""``augment preview`` of an images table: crops, joints, masks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from augment.cli import PROGRAM
from augment.generation.images_preview import images_sheet
from augment.generation.preview import choose
from augment.quality import contact_sheets
from manifests import pixels
from manifests.datasets.mask_files import add_masks
from manifests.io import Images, write_images
from manifests.masks import mask_from_joints
from manifests.runtime.console import UserError

BLOCK_WIDTH = 3 * (128 + 6) - 6 + 24


@pytest.fixture
def table(tiny_images: Images, tmp_path: Path) -> Path:
    masked, _ = add_masks(tiny_images, None, from_joints=True)
    write_images(masked, tmp_path / "masked.parquet")
    return tmp_path / "masked.parquet"


def tiles(sheet: np.ndarray, row: int) -> list[np.ndarray]:
    block, row_in_block = divmod(row, 4)
    x, y = 6 + block * BLOCK_WIDTH, 24 + row_in_block * (256 + 16 + 6)
    return [sheet[y : y + 256, x + i * 134 : x + i * 134 + 128] for i in range(3)]


def twice_as_large(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((128, 256), Image.Resampling.BICUBIC))


def test_a_preview_of_a_table_shows_crop_joints_and_mask(
    table: Path, tiny_images: Images, tmp_path: Path
):
    out = tmp_path / "sheet.png"
    PROGRAM.run(["preview", str(table), "--rows", "8", "--seed", "1", "--out", str(out)])
    with Image.open(out) as file:
        sheet = np.asarray(file)
    # Both kinds are shown: with a mask, and without one.
    shown = choose(len(tiny_images), 8, 1).tolist()
    joints = tiny_images.keypoints()
    has_mask = [not np.isnan(joints[row, [2, 5, 8, 11]]).any() for row in shown]
    assert set(has_mask) == {True, False}
    for place, row in enumerate(shown):
        crop = pixels.read(tiny_images.file(row))
        expected = np.zeros_like(crop)
        if has_mask[place]:
            mask = mask_from_joints(joints[row], (64, 128))
            expected = contact_sheets.draw_mask(crop, mask)
        first, second, third = tiles(sheet, place)
        np.testing.assert_array_equal(first, twice_as_large(crop))
        drawing = contact_sheets.draw_pose(joints[row], (64, 128), contact_sheets.SCALE)
        np.testing.assert_array_equal(second, drawing)
        np.testing.assert_array_equal(third, twice_as_large(expected))


def test_crops_of_another_size_are_stretched_with_their_joints_and_masks(
    tiny_images: Images, tmp_path: Path
):
    smaller = tiny_images.file(1)
    smaller.write_bytes(pixels.encode_png(pixels.resize(pixels.read(smaller), (32, 64))))
    out = tmp_path / "sheet.png"
    write_images(tiny_images, tmp_path / "images.parquet")
    PROGRAM.run(["preview", str(tmp_path / "images.parquet"), "--rows", "12", "--out", str(out)])
    with Image.open(out) as file:
        sheet = np.asarray(file)
    crop, drawing, _ = tiles(sheet, 1)
    np.testing.assert_array_equal(
        crop, twice_as_large(pixels.resize(pixels.read(smaller), (64, 128)))
    )
    joints = (tiny_images.keypoints()[1] + 0.5) * 2 - 0.5
    expected = contact_sheets.draw_pose(joints.astype(np.float32), (64, 128), contact_sheets.SCALE)
    np.testing.assert_array_equal(drawing, expected)


def test_a_table_beside_a_table_is_refused(table: Path, tmp_path: Path):
    with pytest.raises(UserError, match="is a table already; expected no --images beside it"):
        PROGRAM.run(["preview", str(table), "--images", str(table), "--out", "sheet.png"])


def test_a_preview_of_no_rows_is_refused(table: Path):
    with pytest.raises(UserError, match="found no image to show"):
        PROGRAM.run(["preview", str(table), "--rows", "0"])


def test_below_the_sheet_stands_what_made_the_masks(tiny_images: Images):
    masked, _ = add_masks(tiny_images, None, from_joints=True)
    told = np.asarray(images_sheet(masked))
    untold = np.asarray(images_sheet(replace(masked, provenance={})))
    np.testing.assert_array_equal(told[: len(untold)], untold)
    below = told[len(untold) :]
    assert len(below) > 0
    assert (below.min(axis=2) < 100).sum() > 100
