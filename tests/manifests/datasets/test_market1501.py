"""Market-1501 folders and keypoint files, read and written."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from manifests import io, pixels
from manifests.datasets import market1501
from manifests.datasets.keypoint_files import keypoint_text, read_keypoints
from manifests.datasets.layouts import LayoutOptions
from manifests.datasets.market1501_export import export
from manifests.runtime.console import UserError
from manifests.schema import OPTIONAL_COLUMNS

EIGHTEEN = json.dumps([5] * 18)
HEADER = "name:keypoints_y:keypoints_x\n"
ROW = f"a.jpg: {EIGHTEEN}: {EIGHTEEN}\n"


def keypoint_file(folder: Path, text: str) -> Path:
    path = folder / "joints.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.market1501
def test_the_real_data_have_exactly_the_published_counts(market1501, market1501_keypoints):
    files = [market1501_keypoints / f"market-annotation-{part}.csv" for part in ("train", "test")]
    began = time.process_time()
    images, report = index(market1501, files)
    # Seconds, not minutes; processor time, since other work may run beside.
    assert time.process_time() - began < 30

    counts = report.counts
    assert counts.rows == {"train": 12_936, "query": 3_368, "gallery": 19_732}
    assert counts.people == {"train": 751, "query": 750, "gallery": 750}
    assert counts.num_test_people == 750
    assert counts.num_distractors == 2_798
    assert counts.num_junk == 3_819
    assert counts.num_cameras == 6
    assert report.num_double_endings == 24
    assert report.num_unknown_names == 0
    assert images.only("query").table["keypoints"].null_count == 3_368
    assert images.table["keypoints"].null_count == 3_368
    train = images.only("train").keypoints()
    assert int(np.isnan(train).all(axis=(1, 2)).sum()) == 419
    assert set(images.table["width"].to_pylist()) == {64}
    assert set(images.table["height"].to_pylist()) == {128}


def test_a_row_says_what_the_file_and_its_name_say(tiny_images):
    ids = tiny_images.strings("image_id")
    assert ids == sorted(ids)
    row = ids.index("0007_c3s2_000201_01.jpg")
    found = tiny_images.table.slice(row, 1).to_pylist()[0]
    del found["keypoints"]
    later = [name for group in OPTIONAL_COLUMNS for name in group]
    assert {found.pop(name) for name in later} == {None}
    assert found == {
        "image_id": "0007_c3s2_000201_01.jpg",
        "path": "bounding_box_train/0007_c3s2_000201_01.jpg",
        "split": "train",
        "person_id": "0007",
        "camera_id": 3,
        "sequence": 2,
        "frame": 201,
        "width": 64,
        "height": 128,
        "sha256": io.sha256_file(tiny_images.file(row)),
    }


def test_a_name_that_ends_twice_is_kept_as_it_stands(tiny_images):
    row = tiny_images.strings("image_id").index("0000_c2s1_000001_02.jpg.jpg")
    assert tiny_images.file(row).is_file()
    assert tiny_images.strings("split")[row] == "gallery"


def test_query_images_have_no_annotation_and_others_do(tiny_images):
    assert tiny_images.only("query").table["keypoints"].null_count == 2
    assert tiny_images.table["keypoints"].null_count == 2
    assert np.isnan(tiny_images.only("train").keypoints()[:, 4]).all()


def test_convention_keypoint_files_have_y_first_and_tables_x_first(tmp_path):
    y, x = list(range(20, 38)), list(range(40, 58))
    y[3], x[7] = -1, -1
    found = read_keypoints(keypoint_file(tmp_path, f"{HEADER}a.jpg: {y}: {x}\n"))["a.jpg"]
    assert found[0].tolist() == [40, 20]
    assert found[17].tolist() == [57, 37]
    assert np.flatnonzero(np.isnan(found).any(axis=1)).tolist() == [3, 7]
    assert np.isnan(found[[3, 7]]).all()


@settings(max_examples=40, deadline=None)
@given(
    joints=hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 5), st.just(18), st.just(2)),
        elements=st.floats(0, 500, width=32),
    ),
    missing=st.sets(st.integers(0, 17)),
)
def test_joints_survive_a_keypoint_file(joints, missing, tmp_path_factory):
    joints[:, sorted(missing)] = np.nan
    names = [f"{row}.jpg" for row in range(len(joints))]
    folder = tmp_path_factory.mktemp("joints")
    found = read_keypoints(keypoint_file(folder, keypoint_text(names, joints)))
    assert list(found) == names
    for name, pose in zip(names, joints, strict=True):
        assert np.array_equal(found[name], pose, equal_nan=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEADER}{ROW}".replace(":", ","), ":1: found the header 'name,keypoints_y,keypoints_x'"),
        (f"{HEADER}{ROW}".replace(":", ";"), ":1: found the header 'name;keypoints_y;keypoints_x'"),
        ("name:keypoints_x:keypoints_y\n", ":1: found the header 'name:keypoints_x:keypoints_y'"),
        (f"{HEADER}{ROW}\nb:{EIGHTEEN}:{[5] * 17}\n", ":4: keypoints_x has 17 joints, expected 18"),
        (f"{HEADER}a:{[5] * 19}:{EIGHTEEN}\n", ":2: keypoints_y has 19 joints, expected 18"),
        (f"{HEADER}a:{EIGHTEEN}\n", ":2: keypoints_x is '', expected a list of numbers"),
        (f"{HEADER}a:{EIGHTEEN}:[5, NaN]\n", ":2: keypoints_x is '[5, NaN]', expected a list"),
        (f"{HEADER}a:{EIGHTEEN}:five\n", ":2: keypoints_x is 'five', expected a list"),
        (f"{HEADER}a:{EIGHTEEN}:{EIGHTEEN}:0\n", ":2: the line has more fields than the header"),
        (f"{HEADER}a:1:2\nb:1:2:3\n", ": Expected 3 fields in line 3, saw 4"),
        (f"{HEADER}{ROW}{ROW}", ":3: found a second row for 'a.jpg', expected one"),
        ("", ": the file is empty"),
    ],
)
def test_a_wrong_keypoint_file_is_refused_with_file_and_line(tmp_path, text, message):
    path = keypoint_file(tmp_path, text)
    with pytest.raises(UserError, match=re.escape(f"{path}{message}")):
        read_keypoints(path)


def test_a_missing_keypoint_file_and_one_of_other_text_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv: found nothing of this name"):
        read_keypoints(tmp_path / "none.csv")
    (tmp_path / "photo.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"photo\.csv: cannot be read"):
        read_keypoints(tmp_path / "photo.csv")


def test_keypoints_of_no_image_are_counted(tiny_root):
    text = keypoint_text(["gone_1.jpg", "gone_2.jpg"], np.ones((2, 18, 2)))
    _, report = index(tiny_root, [tiny_root / "keypoints.csv", keypoint_file(tiny_root, text)])
    assert report.num_unknown_names == 2
    assert "2 keypoint rows name no image" in report.text()


def test_an_image_in_two_keypoint_files_is_refused(tiny_root):
    with pytest.raises(UserError, match="which an earlier keypoint file has too"):
        index(tiny_root, [tiny_root / "keypoints.csv"] * 2)


def test_other_files_are_skipped_and_counted_by_kind(tiny_root):
    for name in (
        "bounding_box_train/Thumbs.db",
        "bounding_box_test/Thumbs.db",
        "query/notes.txt",
        "query/0002_c1_000451_03.jpg",
        "bounding_box_train/0002_c1s1_000451_03_aug00007.jpg",
    ):
        (tiny_root / name).write_bytes(b"")
    (tiny_root / "query" / "more").mkdir()
    images, report = market1501.LAYOUT.read(tiny_root, LayoutOptions(allow_skipped=True))
    assert len(images) == 12
    assert report.skipped.counts == {
        "Thumbs.db": 2,
        "*.txt": 1,
        "*.jpg of another name": 1,
        "synthetic images": 1,
        "folders": 1,
    }
    assert (
        "ignored: 1 *.jpg of another name (like query/0002_c1_000451_03.jpg), 1 *.txt (like "
        "query/notes.txt), 2 Thumbs.db (like bounding_box_train/Thumbs.db), 1 folders (like "
        "query/more)"
    ) in report.text()


def test_the_report_reads_like_a_table(tiny_root):
    _, report = index(tiny_root, [tiny_root / "keypoints.csv"])
    assert report.text().splitlines() == [
        "train         6 images      3 people",
        "query         2 images      2 people",
        "gallery       4 images      2 people",
        "3 cameras, 2 test people",
        "1 distractor and 1 junk images",
        "10 with keypoints, 1 of them without any joint",
        "1 file names end in .jpg.jpg, kept as they stand",
    ]


def test_query_and_gallery_may_be_empty(tiny_root):
    for folder in ("query", "bounding_box_test"):
        for file in (tiny_root / folder).iterdir():
            file.unlink()
    _, report = index(tiny_root)
    assert report.counts.rows == {"train": 6, "query": 0, "gallery": 0}


@pytest.mark.parametrize("folder", ["bounding_box_train", "query", "bounding_box_test"])
def test_a_missing_folder_is_refused(tiny_root, folder):
    (tiny_root / folder).rename(tiny_root / "elsewhere")
    with pytest.raises(UserError, match=f"{folder}: found nothing of this name, expected a folder"):
        index(tiny_root)


def test_a_missing_root_is_refused(tmp_path):
    with pytest.raises(UserError, match="none: found nothing of this name"):
        index(tmp_path / "none")


def test_a_folder_without_market_names_is_refused(tmp_path):
    for folder in market1501.FOLDERS.values():
        (tmp_path / folder).mkdir()
    (tmp_path / "query" / "holiday.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="no file named like 0002_c1s1"):
        index(tmp_path)


def test_truncated_images_are_named_and_counted(tiny_images):
    for row in (2, 7):
        file = tiny_images.file(row)
        file.write_bytes(file.read_bytes()[:-30])
    first, second = (re.escape(str(tiny_images.file(row))) for row in (2, 7))
    told = rf"^2 images cannot be used: {first}: the JPEG file is cut off.*; {second}: the JPEG"
    with pytest.raises(UserError, match=told):
        index(tiny_images.root)


def test_a_name_in_two_folders_is_refused(tiny_root):
    train = tiny_root / "bounding_box_train" / "0002_c1s1_000451_03.jpg"
    (tiny_root / "bounding_box_test" / train.name).write_bytes(train.read_bytes())
    with pytest.raises(UserError, match=rf"'{train.name}' in train and in gallery"):
        index(tiny_root)


def test_an_export_indexes_to_the_same_table(tiny_images, tmp_path):
    assert export(tiny_images, None, tmp_path / "out") == 12
    images, _ = index(tmp_path / "out", [tmp_path / "out" / "keypoints.csv"])
    assert images.table.drop_columns(["keypoints"]).equals(
        tiny_images.table.drop_columns(["keypoints"])
    )
    assert np.array_equal(images.keypoints(), tiny_images.keypoints(), equal_nan=True)
    assert images.table["keypoints"].is_valid().equals(tiny_images.table["keypoints"].is_valid())


def test_synthetic_images_are_exported_to_train_under_their_source(
    tiny_images, finish, synthetic_rows, tmp_path
):
    rows = synthetic_rows(2, pixels.encode_jpeg)
    rows[1] |= {"image": None, "error": "cut off"}
    synthetic = finish(tmp_path / "made", rows)
    assert export(tiny_images, synthetic, tmp_path / "out") == 12 + 5
    train = tmp_path / "out" / "bounding_box_train"
    names = sorted(path.name for path in train.iterdir() if "_aug" in path.name)
    assert names == [
        "0002_c1s1_000451_03_aug00000.jpg",
        "0007_c1s2_000101_01_aug00000.jpg",
        "0007_c1s2_000101_01_aug00001.jpg",
        "0010_c2s1_000301_01_aug00000.jpg",
        "0010_c2s1_000301_01_aug00001.jpg",
    ]
    assert (train / names[0]).read_bytes() == rows[0]["image"]["bytes"]
    assert list(read_keypoints(tmp_path / "out" / "keypoints_synthetic.csv")) == names
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "out", "tiny"]


def test_png_cannot_be_exported_and_nothing_is_left(tiny_images, finish, synthetic_rows, tmp_path):
    synthetic = finish(tmp_path / "made", synthetic_rows(1, pixels.encode_png))
    with pytest.raises(UserError, match="is no JPEG"):
        export(tiny_images, synthetic, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "tiny"]


def test_an_export_with_a_missing_image_leaves_nothing(tiny_images, tmp_path):
    tiny_images.file(4).unlink()
    with pytest.raises(UserError, match="found nothing of this name"):
        export(tiny_images, None, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_an_export_into_a_folder_in_use_is_refused(tiny_images):
    with pytest.raises(UserError, match="exists already, expected a new or an empty folder"):
        export(tiny_images, None, tiny_images.root)


# The fixture of the real folder has the name of the module.
index = market1501.index
