"""Layouts whose file names say person and camera, built of made-up people."""

from __future__ import annotations

import json
import os
import re
import shutil
from itertools import chain
from pathlib import Path

import pytest

from augment.cli import PROGRAM
from manifests import pixels
from manifests.io import Images, read_images
from manifests.runtime.console import UserError

FILES = {
    "market1501": {
        "bounding_box_train/0002_c1s1_000451_03.jpg": ("0002", 1, "train"),
        "bounding_box_train/12345_c12s1_000451_03.JPG": ("12345", 12, "train"),
        "query/0003_c1s1_000451_00.png": ("0003", 1, "query"),
        "bounding_box_test/0000_c1s1_000451_03.jpg": ("0000", 1, "gallery"),
        "bounding_box_test/-1_c1s1_000451_03.jpg": ("-1", 1, "gallery"),
    },
    "dukemtmc": {
        "bounding_box_train/0001_c2_f0046182.jpg": ("0001", 2, "train"),
        "bounding_box_train/0001_c8_f0046183.jpg": ("0001", 8, "train"),
        "query/0005_c2_f0046985.jpg": ("0005", 2, "query"),
        "bounding_box_test/0005_c5_f0051781.jpg": ("0005", 5, "gallery"),
        "bounding_box_test/7139_c2_f0160869.jpg": ("7139", 2, "gallery"),
    },
    "cuhk03": {
        "bounding_box_train/0003_c1_21.png": ("0003", 1, "train"),
        "bounding_box_train/0000_c2_7.png": ("person 0000", 2, "train"),
        "query/0014_c1_131.png": ("0014", 1, "query"),
        "bounding_box_test/0014_c2_136.png": ("0014", 2, "gallery"),
    },
    "msmt17": {
        "train/0000/0000_000_01_0303morning_0015_0.jpg": ("train 0000", 1, "train"),
        "train/0000/0000_001_15_0303noon_0016_1.jpg": ("train 0000", 15, "train"),
        "test/0000/0000_000_03_0303morning_0008_0.jpg": ("test 0000", 3, "query"),
        "test/0000/0000_003_14_0303morning_0008_0.jpg": ("test 0000", 14, "gallery"),
    },
}
LISTS = {
    "list_train.txt": "0000/0000_000_01_0303morning_0015_0.jpg 0\n",
    "list_val.txt": "0000/0000_001_15_0303noon_0016_1.jpg 0\n",
    "list_query.txt": "0000/0000_000_03_0303morning_0008_0.jpg 0\n",
    "list_gallery.txt": "0000/0000_003_14_0303morning_0008_0.jpg 0\n",
}


@pytest.fixture
def root(tmp_path, person):
    """Return a maker of a folder of one layout."""

    def make(layout: str) -> Path:
        for number, path in enumerate(FILES[layout]):
            file = tmp_path / "root" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            encode = pixels.encode_png if path.endswith("png") else pixels.encode_jpeg
            file.write_bytes(encode(person(number)))
        for name, text in LISTS.items() if layout == "msmt17" else ():
            (tmp_path / "root" / name).write_text(text)
        return tmp_path / "root"

    return make


@pytest.fixture
def cuhk03_original(tmp_path, person) -> Path:
    """Return images_labeled of made-up people, with the file of splits beside it."""
    files = {
        "train": ["1_001_1_01.png", "1_001_2_06.png"],
        "query": ["5_002_1_01.png"],
        "gallery": ["5_002_2_10.png"],
    }
    root = tmp_path / "images_labeled"
    root.mkdir()
    for number, name in enumerate(chain(*files.values())):
        (root / name).write_bytes(pixels.encode_png(person(number)))
    rows = {
        split: [[f"/home/me/data/cuhk03/images_labeled/{name}", 0, 0] for name in names]
        for split, names in files.items()
    }
    (tmp_path / "splits_new_labeled.json").write_text(json.dumps([rows]))
    return root


def test_original_cuhk03_is_read_by_its_file_of_splits(cuhk03_original):
    images = indexed(cuhk03_original, "cuhk03")
    found = {
        row["path"]: (row["person_id"], row["camera_id"], row["split"])
        for row in images.table.to_pylist()
    }
    assert found == {
        "1_001_1_01.png": ("1_001", 1, "train"),
        "1_001_2_06.png": ("1_001", 2, "train"),
        "5_002_1_01.png": ("5_002", 1, "query"),
        "5_002_2_10.png": ("5_002", 2, "gallery"),
    }


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (None, "splits_new_labeled.json: found nothing of this name, expected the splits"),
        ([], "found no list 'train', expected the splits"),
        ([{"train": [], "query": []}], "found no list 'gallery', expected the splits"),
        ([{"train": [["/a/0002_c1.png", 0, 0]]}], "found '0002_c1.png', expected a name like 1_"),
        ([{"train": [7], "query": [], "gallery": []}], "found '7', expected a name like 1_001_1"),
    ],
)
def test_another_file_of_splits_is_refused(splits, message, cuhk03_original):
    path = cuhk03_original.parent / "splits_new_labeled.json"
    path.unlink()
    if splits is not None:
        path.write_text(json.dumps(splits))
    with pytest.raises(UserError, match=re.escape(message)):
        indexed(cuhk03_original, "cuhk03")


def test_the_folder_above_labeled_and_detected_is_told_them(root):
    folder = root("cuhk03")
    for kind in ("detected", "labeled"):
        shutil.copytree(folder, folder.parent / "np" / kind)
    told = r"np: found bounding_box_train in detected, labeled, expected ROOT like .*np/detected"
    with pytest.raises(UserError, match=told):
        indexed(folder.parent / "np", "cuhk03")


def test_all_broken_images_are_named_at_once_and_left_out_on_demand(root, capsys):
    folder = root("market1501")
    broken = [folder / name for name in list(FILES["market1501"])[1::2]]
    for file in broken:
        file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(UserError) as refused:
        indexed(folder, "market1501")
    told = str(refused.value)
    assert told.startswith("2 images cannot be used: ")
    assert all(f"{file}: the JPEG file is cut off" in told for file in broken)
    assert told.endswith("--skip-broken leaves such images out")

    images = indexed(folder, "market1501", "--skip-broken")

    assert set(images.strings("path")) == set(list(FILES["market1501"])[::2])
    assert f"ignored: 2 images that cannot be used (like {broken[1]}" in capsys.readouterr().err


def test_a_folder_without_a_sound_image_is_refused_all_the_same(root):
    folder = root("dukemtmc")
    for name in FILES["dukemtmc"]:
        (folder / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"5 images cannot be used: .* found an empty file"):
        indexed(folder, "dukemtmc", "--skip-broken")


def indexed(root: Path, layout: str, *flags: str) -> Images:
    out = root.parent / "images.parquet"
    PROGRAM.run(["index", str(root), "--layout", layout, "--out", str(out), *flags])
    return read_images(out)


@pytest.mark.parametrize("layout", FILES)
def test_a_layout_reads_person_camera_and_split_of_every_file(root, layout):
    images = indexed(root(layout), layout)
    found = {
        row["path"]: (row["person_id"], row["camera_id"], row["split"])
        for row in images.table.to_pylist()
    }
    assert found == FILES[layout]


def test_person_0000_is_said_to_be_a_person_outside_market1501(root, capsys):
    indexed(root("cuhk03"), "cuhk03")
    told = capsys.readouterr().err
    assert "'person 0000': people; junk and distractors are known to --layout market1501" in told
    assert "0 distractor and 0 junk images" in told


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("list_query.txt", "0000/0000_000_03.jpg 0", "list_query.txt:1: found '0000/0000_000_03"),
        ("list_val.txt", "0000/0000_001_15_a_0016_1.jpg 1", "list_val.txt:1: found '0000/0000_001"),
        ("list_train.txt", None, "list_train.txt: found nothing of this name"),
        ("list_train.txt", f"0000/0000_000_01_a.jpg {'9' * 5000}\n", "expected a line like"),
    ],
)
def test_a_wrong_list_of_msmt17_is_named_with_its_line(root, file, text, message):
    folder = root("msmt17")
    (folder / file).unlink()
    if text is not None:
        (folder / file).write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        indexed(folder, "msmt17")


def test_a_file_in_no_list_of_msmt17_is_counted(root, person):
    folder = root("msmt17")
    (folder / "test/0000/0000_009_02_x_0.jpg").write_bytes(pixels.encode_jpeg(person(1)))
    with pytest.raises(UserError, match=r"left out 1 \*.jpg of another name .*--allow-skipped"):
        indexed(folder, "msmt17")
    assert len(indexed(folder, "msmt17", "--allow-skipped")) == 4


@pytest.mark.parametrize("name", ["holiday.jpg", "0002_c1_x.PNG", "a.webp"])
def test_images_of_another_name_are_refused_with_an_example(root, person, name):
    folder = root("market1501")
    (folder / "query" / name).write_bytes(pixels.encode_jpeg(person(1)))
    with pytest.raises(UserError, match=rf"took 5 images and left out .*\(like query/{name}\)"):
        indexed(folder, "market1501")
    assert len(indexed(folder, "market1501", "--allow-skipped")) == 5


def test_other_files_are_no_reason_to_refuse(root, capsys):
    folder = root("market1501")
    for number in range(9):
        (folder / "query" / f"notes{number}.txt").write_text("mine")
    assert len(indexed(folder, "market1501")) == 5
    assert "ignored: 9 *.txt (like query/notes0.txt)" in capsys.readouterr().err


def test_a_link_to_nothing_is_called_that(root, capsys):
    folder = root("market1501")
    (folder / "query/0003_c2s1_000451_00.jpg").symlink_to("gone.jpg")
    with pytest.raises(UserError, match=r"1 links to nothing \(like query/0003_c2s1_000451_00.jpg"):
        indexed(folder, "market1501")


PATTERN = ["--pattern", r"(?P<person_id>\w+)/cam(?P<camera_id>\d+)\.jpg"]


@pytest.fixture
def crops(tmp_path, person) -> Path:
    """Return a folder whose person ben is a linked folder."""
    for folder in ("crops/anna", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
        for camera in (1, 2):
            image = pixels.encode_jpeg(person(camera))
            (tmp_path / folder / f"cam{camera}.jpg").write_bytes(image)
    (tmp_path / "crops/ben").symlink_to(tmp_path / "elsewhere")
    return tmp_path / "crops"


def test_a_pattern_reads_linked_folders_too_each_once(crops, capsys):
    (crops / "ben" / "loop").symlink_to(crops)
    (crops / "zoe").symlink_to(crops / "anna")
    images = indexed(crops, "folder", *PATTERN)
    assert images.strings("person_id") == ["anna", "anna", "ben", "ben"]
    told = capsys.readouterr().err
    assert "2 links to folders that were read already (like ben/loop)" in told


def test_a_long_expression_that_is_none_is_told_shortly(crops):
    with pytest.raises(UserError) as refused:
        indexed(crops, "folder", "--pattern", "(?P<a" + "+" * 20_000 + ">x)")
    assert len(str(refused.value)) < 2_000


def test_a_link_that_comes_before_its_folder_gives_no_image_twice(crops, capsys):
    (crops / "adam").symlink_to(crops / "anna")
    images = indexed(crops, "folder", *PATTERN)
    assert images.strings("person_id") == ["anna", "anna", "ben", "ben"]
    assert "1 links to folders that were read already (like adam)" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_refused(crops):
    (crops / "carl").mkdir(mode=0)
    with pytest.raises(UserError, match=r"1 folders that cannot be read \(like carl\)"):
        indexed(crops, "folder", *PATTERN)


def test_an_unreadable_folder_is_counted_and_refused_unless_allowed(crops, monkeypatch):
    (crops / "carl").mkdir()
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "carl":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"1 folders that cannot be read \(like carl\)"):
        indexed(crops, "folder", *PATTERN)
    assert len(indexed(crops, "folder", *PATTERN, "--allow-skipped")) == 4


def test_spellings_of_one_person_are_refused_and_other_names_are_people(crops, capsys):
    (crops / "anna").rename(crops / "0001")
    (crops / "ben").unlink()
    (crops.parent / "elsewhere").rename(crops / "1")
    with pytest.raises(UserError, match="the people '0001' and '1', which differ in zeros"):
        indexed(crops, "folder", *PATTERN)
    (crops / "1").rename(crops / "0000")
    assert set(indexed(crops, "folder", *PATTERN).strings("person_id")) == {"0001", "person 0000"}
    (crops / "0000").rename(crops / "-1.0")
    pattern = ["--pattern", r"(?P<person_id>[^/]+)/cam(?P<camera_id>\d+)\.jpg"]
    found = indexed(crops, "folder", *pattern)
    assert set(found.strings("person_id")) == {"0001", "person -1.0"}
    assert "'person -1.0': people; junk and distractors" in capsys.readouterr().err


@pytest.mark.parametrize(("one", "other"), [("p7", "p007"), ("e\u0301", "\xe9"), ("+1", "1")])
def test_names_of_any_form_in_two_spellings_are_refused(crops, one, other):
    (crops / "anna").rename(crops / one)
    (crops / "ben").rename(crops / other)
    with pytest.raises(UserError, match=r"which differ in zeros, a decimal point, case or spaces"):
        indexed(crops, "folder", "--pattern", r"(?P<person_id>[^/]+)/cam(?P<camera_id>\d+)\.jpg")
