"""``augment preview``."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from augment.generation.preview import PreviewSettings, choose, preview
from augment.quality.contact_sheets import draw_pose
from manifests import io, pixels
from manifests.runtime.console import Exit, UserError
from manifests.schema import MANIFEST
from manifests.synthetic import SCREENED_OUT, read_synthetic
from tests.helpers.generation import QUIET


def twice_as_large(image):
    return np.asarray(Image.fromarray(image).resize((128, 256), Image.Resampling.BICUBIC))


def test_a_preview_shows_source_pose_and_result(people, out, tmp_path):
    settings = PreviewSettings(run=out, out=tmp_path / "sheet.png", rows=3)

    assert preview(settings, QUIET) == Exit.DONE

    with Image.open(tmp_path / "sheet.png") as file:
        sheet = np.asarray(file)
    assert sheet.shape == (24 + 3 * (256 + 16 + 6) + 6, 3 * 128 + 2 * 6 + 12, 3)
    synthetic = read_synthetic(out)
    row = choose(20, 3, 0)[1:2]
    (shown,), (data,) = synthetic.take(row).table.to_pylist(), synthetic.read_bytes(row)
    images = io.read_images(people)
    joints = dict(zip(images.strings("image_id"), images.keypoints(), strict=True))
    tiles = [
        twice_as_large(pixels.read(people.parent / shown["source_id"])),
        draw_pose(joints[shown["pose_id"]], (64, 128), scale=2),
        twice_as_large(pixels.decode(data, "result")),
    ]
    for column, tile in enumerate(tiles):
        y, x = 24 + 256 + 16 + 6, 6 + column * (128 + 6)
        assert np.array_equal(sheet[y : y + 256, x : x + 128], tile), column


def test_a_preview_is_a_png(out, tmp_path):
    with pytest.raises(UserError, match=r"sheet\.jpg: found '\.jpg', expected \.png"):
        preview(PreviewSettings(run=out, out=tmp_path / "sheet.jpg"), QUIET)


def test_a_record_that_names_no_table_asks_for_it(out, tmp_path):
    record = json.loads((out / "run.json").read_text())
    del record["settings"]
    (out / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"run.json: does not say which table the images are from"):
        preview(PreviewSettings(run=out, out=tmp_path / "sheet.png"), QUIET)


def test_a_preview_finds_images_that_moved_by_its_flag(people, out, tmp_path):
    people.parent.rename(tmp_path / "moved")
    settings = {"run": out, "out": tmp_path / "sheet.png"}

    with pytest.raises(
        UserError, match=r"out: was made from the table .*images\.parquet, which is not there"
    ):
        preview(PreviewSettings(**settings), QUIET)
    moved = {"images": tmp_path / "moved/images.parquet", "root": tmp_path / "moved"}
    assert preview(PreviewSettings(**settings, **moved), QUIET) == Exit.DONE


def test_of_a_screened_set_kept_images_stand_on_the_left_and_dropped_ones_on_the_right(
    people, out, tmp_path
):
    screened = tmp_path / "screened"
    shutil.copytree(out, screened)
    (screened / "run.json").write_text('{"config": {}}')
    table = read_synthetic(out).table
    lost = {4, 11, 17}
    errors = [f"{SCREENED_OUT}: number 9" if row in lost else None for row in range(len(table))]
    errors[0] = "no image"
    place = MANIFEST.get_field_index("error")
    table = table.set_column(place, MANIFEST.field("error"), pa.array(errors, pa.string()))
    io.write_table(table, screened / "manifest.parquet", {})
    plan = {"run": screened, "out": tmp_path / "sheet.png", "rows": 8}
    with pytest.raises(UserError, match="what 'reid screen' left of one, say; expected --images"):
        preview(PreviewSettings(**plan), QUIET)

    assert preview(PreviewSettings(**plan, images=people), QUIET) == Exit.DONE

    with Image.open(tmp_path / "sheet.png") as file:
        sheet = np.asarray(file)
    made = read_synthetic(screened)
    width = 3 * (128 + 6) - 6 + 24
    kept = np.setdiff1d(np.arange(1, 20), sorted(lost))
    for block, rows in enumerate((kept[choose(len(kept), 3, 0)], sorted(lost))):
        for place, data in enumerate(made.read_bytes(np.array(rows))):
            y, x = 24 + place * (256 + 16 + 6), 6 + block * width + 2 * (128 + 6)
            tile = twice_as_large(pixels.decode(data, "result"))
            assert np.array_equal(sheet[y : y + 256, x : x + 128], tile), (block, place)
