"""Rules across rows: unique keys, known splits, synthetic images only of train people."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from manifests import pixels, rules
from manifests.io import Images
from manifests.runtime.console import UserError
from manifests.schema import IMAGES


def changed(images: Images, row: int, **values: object) -> Images:
    rows = images.table.to_pylist()
    rows[row] |= values
    return Images(pa.Table.from_pylist(rows, IMAGES), images.root, {})


def test_counts_are_those_of_the_files(tiny_images):
    counts = rules.check_images(tiny_images, "tiny")
    assert counts == rules.Counts(
        rows={"train": 6, "query": 2, "gallery": 4},
        people={"train": 3, "query": 2, "gallery": 2},
        num_test_people=2,
        num_distractors=1,
        num_junk=1,
        num_cameras=3,
        num_annotated=10,
        num_jointless=1,
    )


def test_an_unknown_camera_is_not_counted(tiny_images):
    rows = [row | {"camera_id": -1} for row in tiny_images.table.to_pylist()]
    table = pa.Table.from_pylist(rows, IMAGES)
    assert rules.count(Images(table, tiny_images.root, {})).num_cameras == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_id": "0002_c1s1_000451_03.jpg"}, "in more than one row: 0002_c1s1_000451_03.jpg"),
        ({"split": "test"}, r"split not one of train, query, gallery: .* \(test\)"),
        ({"split": "train", "person_id": "-1"}, r"outside the gallery: .* \(train\)"),
        ({"split": "query", "person_id": "0000"}, r"outside the gallery: .* \(query\)"),
    ],
)
def test_a_broken_images_table_is_refused(tiny_images, values, message):
    row = len(tiny_images) - 1
    with pytest.raises(UserError, match=f"^here: .*{message}"):
        rules.check_images(changed(tiny_images, row, **values), "here")


def test_only_the_first_offenders_are_named(tiny_images):
    rows = [row | {"split": "test"} for row in tiny_images.table.to_pylist()]
    table = pa.Table.from_pylist(rows, IMAGES)
    with pytest.raises(UserError, match=r"\(test\), .*\(test\), .*\(test\) and 9 more$"):
        rules.check_images(Images(table, tiny_images.root, {}), "here")


def test_a_good_run_passes_and_its_images_are_counted(
    tiny_images, finish, synthetic_rows, tmp_path
):
    rows = synthetic_rows(2, pixels.encode_jpeg)
    rows[0] |= {"image": None, "error": "cut off"}
    assert rules.check_synthetic(tiny_images, finish(tmp_path / "out", rows)) == 5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_id": "0010_aug00000"}, "in more than one row: 0010_aug00000"),
        ({"image_id": "0002_c1s1_000451_03.jpg"}, "image_id of a real image"),
        ({"split": "gallery"}, r"synthetic row outside train: .* \(gallery\)"),
        ({"source_id": "0001_c1s1_001051_00.jpg"}, "source_id that is no train image"),
        ({"source_id": "nobody.jpg"}, "source_id that is no train image"),
        ({"person_id": "0007"}, r"another person: .* \(0007, its source shows 0002\)"),
        ({"pose_id": "0001_c2s1_009001_01.jpg"}, "pose_id that is no train image"),
    ],
)
def test_a_broken_run_is_refused(tiny_images, finish, synthetic_rows, values, message):
    rows = synthetic_rows(1, pixels.encode_jpeg)
    rows[0] |= values
    with pytest.raises(UserError, match=message):
        rules.check_synthetic(tiny_images, finish(tiny_images.root / "out", rows))


def test_an_empty_table_has_zero_of_everything(tiny_images):
    counts = rules.check_images(tiny_images.take(np.empty(0, np.int64)), "empty")
    assert counts.rows == {"train": 0, "query": 0, "gallery": 0}
    assert counts.num_cameras == counts.num_annotated == 0
