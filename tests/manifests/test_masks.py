from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests import masks
from manifests.io import Images, read_images, write_images
from manifests.runtime.console import UserError
from manifests.schema import MASK_COLUMNS

SIZE = (64, 128)


def box(width: int = 64, height: int = 128) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[height // 8 : -height // 8, width // 4 : -width // 4] = True
    return mask


def with_masks(images: Images, stored: list[bytes | None]) -> Images:
    place = images.table.schema.get_field_index("mask")
    column = pa.array(stored, pa.binary())
    return replace(
        images, table=images.table.set_column(place, images.table.schema.field(place), column)
    )


@pytest.mark.parametrize("size", [(64, 128), (61, 127), (1, 1), (8, 3)])
def test_a_mask_is_read_as_it_was_written_whatever_its_size(size: tuple[int, int]):
    mask = np.random.default_rng(0).random(size[::-1]) < 0.5
    assert np.array_equal(masks.decode_mask(masks.encode_mask(mask), size, "here"), mask)


def test_bits_go_row_by_row_the_highest_first():
    mask = np.zeros((2, 8), bool)
    mask[0, 0] = mask[1, 7] = True
    assert masks.encode_mask(mask) == bytes([0b10000000, 0b00000001])


def test_a_mask_of_another_size_is_refused_with_both_sizes():
    with pytest.raises(UserError, match=r"here: found a mask of 1,024 bytes, expected 4,096 for"):
        masks.decode_mask(masks.encode_mask(box()), (128, 256), "here")


def test_a_table_keeps_its_masks_and_reads_them_at_the_size_of_a_network(
    tiny_images: Images, tmp_path: Path
):
    stored = [masks.encode_mask(box()) if row % 2 else None for row in range(len(tiny_images))]
    write_images(with_masks(tiny_images, stored), tmp_path / "masked.parquet")
    images = read_images(tmp_path / "masked.parquet")
    assert images.table["mask"].to_pylist() == stored
    read, known = masks.read_masks(images, (32, 64))
    assert known.tolist() == [row % 2 == 1 for row in range(len(images))]
    assert np.array_equal(read[1], box(32, 64))
    assert not read[0].any()


def test_a_mask_of_another_size_in_a_table_names_its_row(tiny_images: Images):
    stored: list[bytes | None] = [None] * len(tiny_images)
    stored[3] = masks.encode_mask(box(32, 64))
    name = tiny_images.strings("image_id")[3]
    with pytest.raises(UserError, match=f"row '{name}' of the images: found a mask of 256 bytes"):
        masks.read_masks(with_masks(tiny_images, stored), SIZE)


def test_a_table_without_masks_has_no_columns_for_them_and_reads_as_one_with_none(
    tiny_images: Images, tmp_path: Path
):
    write_images(tiny_images, tmp_path / "plain.parquet")
    assert not set(MASK_COLUMNS) & set(pq.read_schema(tmp_path / "plain.parquet").names)
    images = read_images(tmp_path / "plain.parquet")
    assert images.table.schema.equals(tiny_images.table.schema)
    assert images.table["sha256"].equals(tiny_images.table["sha256"])
    assert all(images.table[name].null_count == len(images) for name in MASK_COLUMNS)


def test_a_table_with_some_of_the_columns_is_refused(tiny_images: Images, tmp_path: Path):
    stored = [masks.encode_mask(box())] * len(tiny_images)
    table = with_masks(tiny_images, stored).table.drop_columns(["mask_source"])
    pq.write_table(table, tmp_path / "images.parquet")
    with pytest.raises(UserError, match="column 'mask_source' is missing"):
        read_images(tmp_path / "images.parquet", tmp_path)


def test_capsules_cover_the_limbs_and_nothing_far_from_them():
    joints = np.full((18, 2), np.nan)
    joints[[8, 9]] = (32, 70), (32, 100)
    mask = masks.mask_from_joints(joints, SIZE)
    rows, columns = np.nonzero(mask)
    assert mask[70:101, 32].all()
    # 9.5 px on either side, as OpenCV draws thick lines.
    assert (columns.min(), columns.max()) == (32 - 10, 32 + 10)
    assert rows.min() >= 70 - 11
    assert rows.max() <= 100 + 11


def test_without_joints_the_mask_is_empty_and_not_sound():
    mask = masks.mask_from_joints(np.full((18, 2), np.nan), SIZE)
    assert not mask.any()
    assert not masks.is_sound(mask)
    assert masks.is_sound(box())
    assert not masks.is_sound(np.ones((128, 64), bool))


def parts(first_width: int, second_width: int, gap: int = 4) -> np.ndarray:
    mask = np.zeros((128, 64), bool)
    mask[10:110, :first_width] = True
    mask[10:110, first_width + gap : first_width + gap + second_width] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "is_doubtful"),
    [
        (parts(20, 20), True),
        (parts(20, 5), True),
        (parts(20, 4), False),
        (parts(4, 20), False),
        (parts(20, 20, gap=0), False),
        (np.zeros((128, 64), bool), False),
        (np.ones((128, 64), bool), False),
    ],
    ids=["two", "a quarter", "a fifth", "the small one first", "touching", "empty", "full"],
)
def test_a_second_part_of_a_quarter_of_the_first_makes_a_mask_doubtful(
    mask: np.ndarray, is_doubtful: bool
):
    assert masks.has_two_large_parts(mask) == is_doubtful


def test_makers_of_masks_are_kept_in_order_and_none_twice():
    first = masks.with_mask_maker({"layout": "table"}, "files", {"tool": "a"})
    both = masks.with_mask_maker(first, "joints", {})
    again = masks.with_mask_maker(both, "files", {"tool": "a"})
    found = [(one["source"], one.get("tool")) for one in masks.mask_makers(again)]
    assert found == [("joints", None), ("files", "a")]
    assert again["layout"] == "table"
    assert masks.mask_makers({}) == []


@pytest.mark.parametrize("text", ["SAM", "{}", "[1]"])
def test_makers_that_another_program_wrote_in_its_own_way_are_refused(text: str):
    with pytest.raises(UserError, match=r"found mask_makers '.*', expected a list in JSON"):
        masks.mask_makers({"mask_makers": text})
