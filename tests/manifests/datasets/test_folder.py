"""Any folder of crops, through a CSV or a pattern of its paths."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from augment.cli import PROGRAM
from manifests import pixels
from manifests.datasets.csv_table import read_csv
from manifests.datasets.folder import index_pattern, index_table
from manifests.datasets.layouts import LayoutOptions
from manifests.io import read_images, write_images
from manifests.runtime.console import UserError
from manifests.schema import SPLITS

HEADER = "path,person_id,camera_id,split\n"
PATTERN = r"(?P<split>\w+)/(?P<person_id>\w+)/cam(?P<camera_id>\d+)_\d+\.(jpg|png)"


@pytest.fixture
def crops(tmp_path, person) -> Path:
    root = tmp_path / "crops"
    for path in ("train/anna/cam1_0.jpg", "train/ben/cam2_0.jpg", "query/cleo/cam1_0.png"):
        (root / path).parent.mkdir(parents=True)
        encode = pixels.encode_png if path.endswith("png") else pixels.encode_jpeg
        (root / path).write_bytes(encode(person(len(path), (48, 96))))
    (root / "readme.txt").write_text("mine")
    return root


def listed(crops: Path, text: str) -> Path:
    (crops / "list.csv").write_text(text, encoding="utf-8")
    return crops / "list.csv"


def test_a_pattern_reads_person_camera_and_split_from_nested_paths(crops):
    images, report = index_pattern(crops, PATTERN)
    assert images.strings("image_id") == [
        "query/cleo/cam1_0.png",
        "train/anna/cam1_0.jpg",
        "train/ben/cam2_0.jpg",
    ]
    assert images.strings("person_id") == ["cleo", "anna", "ben"]
    assert images.strings("split") == ["query", "train", "train"]
    assert images.table["camera_id"].to_pylist() == [1, 1, 2]
    assert images.table["width"].to_pylist() == [48] * 3
    assert images.table["height"].to_pylist() == [96] * 3
    assert images.table["keypoints"].null_count == 3
    assert report.skipped.counts == {"*.txt": 1}


def test_without_groups_the_split_is_train_and_the_camera_unknown(crops):
    options = LayoutOptions(allow_skipped=True)
    images, report = index_pattern(crops, r"train/(?P<person_id>\w+)/.*", options)
    assert images.strings("split") == ["train", "train"]
    assert images.table["camera_id"].to_pylist() == [-1, -1]
    assert report.counts.num_cameras == 0
    assert report.skipped.counts == {"*.png of another name": 1, "*.txt": 1}


def test_a_table_reads_what_it_lists_below_the_root_wherever_it_lies(crops, tmp_path):
    rows = "train/anna/cam1_0.jpg,0002,3,train\nquery/cleo/cam1_0.png,9,,query\n"
    csv, out = listed(tmp_path, HEADER + rows), tmp_path / "images.parquet"
    PROGRAM.run(["index", str(crops), "--table", str(csv), "--out", str(out), "--quiet"])
    images = read_images(out)
    assert images.strings("person_id") == ["9", "0002"]
    assert images.table["camera_id"].to_pylist() == [-1, 3]
    assert images.root == crops
    assert images.file(1).is_file()


def test_cameras_that_have_names_are_numbered_in_their_natural_order_and_told(crops):
    files = ("train/anna/cam1_0.jpg", "train/ben/cam2_0.jpg", "query/cleo/cam1_0.png")
    cameras = ("gate-10", "gate-9", "")
    rows = "".join(
        f"{path},{number},{camera},train\n"
        for number, (path, camera) in enumerate(zip(files, cameras, strict=True))
    )
    images, report = index_table(crops, listed(crops, HEADER + rows))
    found = dict(zip(images.strings("person_id"), images.table["camera_id"], strict=True))
    assert {name: number.as_py() for name, number in found.items()} == {"0": 2, "1": 1, "2": -1}
    assert "cameras by their names: gate-9 = 1, gate-10 = 2" in report.text()


def test_names_of_very_many_cameras_are_names_of_something_else(crops):
    rows = "".join(f"{number}.jpg,{number},crop{number},train\n" for number in range(201))
    with pytest.raises(UserError, match="found 201 names of cameras, 'crop0' among them"):
        index_table(crops, listed(crops, HEADER + rows))


def test_the_columns_of_a_table_may_have_any_order(crops):
    images, _ = index_table(
        crops, listed(crops, "split,person_id,path,camera_id\ntrain,x,train/anna/cam1_0.jpg,1\n")
    )
    assert images.strings("person_id") == ["x"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER.replace(",", ";"), ":1: found the columns 'path;person_id;camera_id;split', no p"),
        (
            "path,person_id,split\n",
            ":1: found the columns 'path', 'person_id', 'split', no camera_id; expected",
        ),
        (HEADER + "a.jpg,1,1,train\n\nb.jpg,1,1,test\n", ":4: found split 'test', expected one of"),
        (
            HEADER + "b.jpg,1,2,train\na.jpg,1,2nd,train\n",
            ":3: found camera_id '2nd', expected a number from 0 to 9999, or a name",
        ),
        (HEADER + "a.jpg,1,3.5,train\n", ":2: found camera_id '3.5', expected a number"),
        (HEADER + ",1,1,train\n", ":2: found an empty path or person_id"),
        (HEADER + "a.jpg,,1,train\n", ":2: found an empty path or person_id"),
        (HEADER + "a.jpg,1\n", ":2: found split '', expected one of"),
        (HEADER + "a.jpg,1,1,train,5\n", ":2: the line has more fields"),
    ],
)
def test_a_wrong_table_is_refused_with_file_and_line(crops, text, message):
    csv = listed(crops, text)
    with pytest.raises(UserError, match=re.escape(f"{csv}{message}")):
        index_table(crops, csv)


def test_a_path_in_two_rows_is_refused(crops):
    row = "train/anna/cam1_0.jpg,1,1,train\n"
    with pytest.raises(UserError, match=r"found 'train/anna/cam1_0.jpg' in train and in train"):
        index_table(crops, listed(crops, HEADER + row + row))


@pytest.mark.parametrize(
    ("root", "csv", "message"),
    [
        ("crops", "gone.csv", "gone.csv: found nothing of this name, expected a CSV"),
        ("gone", "crops/list.csv", "gone: found nothing of this name, expected a folder"),
    ],
)
def test_a_missing_table_or_root_is_named(crops, tmp_path, root, csv, message):
    listed(crops, HEADER)
    with pytest.raises(UserError, match=re.escape(message)):
        index_table(tmp_path / root, tmp_path / csv)


def test_a_listed_image_that_is_missing_is_named(crops):
    with pytest.raises(UserError, match=r"crops/gone\.jpg: found nothing of this name"):
        index_table(crops, listed(crops, HEADER + "gone.jpg,1,1,train\n"))


@pytest.mark.parametrize("within", ["", "crops/"])
def test_paths_that_begin_with_the_folders_own_name_are_told_from_missing_ones(crops, within):
    rows = f"crops/{within}train/anna/cam1_0.jpg,1,1,train\n"
    expected = (
        "found paths that begin with 'crops/'.*, or .* in its place"
        if not within
        else "train/anna/cam1_0.jpg: found nothing of this name"
    )
    with pytest.raises(UserError, match=expected):
        index_table(crops, listed(crops, HEADER + rows))


def test_names_that_are_not_utf8_are_counted(crops):
    odd = os.fsencode(crops) + b"/train/anna/\xff.jpg"
    shutil.copy(crops / "train" / "anna" / "cam1_0.jpg", odd)
    pattern = r"\w+/(?P<person_id>\w+)/.*"
    with pytest.raises(UserError, match=r"1 names that are not UTF-8 \(like train/anna/.xff\.jpg"):
        index_pattern(crops, pattern)
    _, report = index_pattern(crops, pattern, LayoutOptions(allow_skipped=True))
    assert report.skipped.counts["names that are not UTF-8"] == 1


def test_a_root_whose_name_is_not_utf8_is_found_again(crops, tmp_path):
    odd = Path(os.fsdecode(os.fsencode(crops) + b"\xff"))
    crops.rename(odd)
    write_images(index_pattern(odd, r"\w+/(?P<person_id>\w+)/.*")[0], tmp_path / "i.parquet")
    assert read_images(tmp_path / "i.parquet").root == odd


@pytest.mark.parametrize(
    ("regex", "message"),
    [
        (r"(?P<person_id>", "pattern "),
        (r"(?P<person_id>x{99999999999})", "': the repetition number is too large"),
        (rf"(?P<person_id>x{{{'9' * 5000}}})", "': Exceeds the limit (4300 digits)"),
        (r"(?P<split>\w+)/.*", "found the named groups split; expected"),
        (r".*", "found the named groups none; expected"),
        (r"(?P<person_id>\w+)/(?P<camera>.*)", "found the named groups camera, person_id"),
        (r"(?P<person_id>\w+)\.gif", "found 5 files, none of which matches"),
        (r"(?P<split>readme)\.(?P<person_id>txt)", "found split 'readme', expected one of"),
        (r"readme\.(?P<person_id>txt)", "expected a JPEG or PNG image"),
        (r"readme(?P<person_id>x?)\.txt", "found an empty person_id"),
    ],
)
def test_a_wrong_pattern_is_refused(crops, regex, message):
    (crops / "other.bin").write_bytes(b"")
    with pytest.raises(UserError, match=re.escape(message)):
        index_pattern(crops, regex, LayoutOptions(allow_skipped=True))


def test_spaces_around_a_name_make_no_other_person(crops):
    rows = "train/anna/cam1_0.jpg, Anna B ,1 ,train\ntrain/ben/cam2_0.jpg,Anna B,2, train \n"
    images, _ = index_table(crops, listed(crops, HEADER + rows))
    assert images.strings("person_id") == ["Anna B", "Anna B"]
    assert images.table["camera_id"].to_pylist() == [1, 2]


def test_a_csv_keeps_its_text_and_its_line_numbers(tmp_path):
    (tmp_path / "t.csv").write_text("\ufeffa,b\n0002,NA\n\n-1,\n", encoding="utf-8")
    frame = read_csv(tmp_path / "t.csv", ",")
    assert list(frame.index) == [2, 4]
    assert frame.to_numpy().tolist() == [["0002", "NA"], ["-1", ""]]


@pytest.fixture
def unsplit(tmp_path, person) -> Path:
    """Crops of eight people without a split: p0 is seen by one camera, the others by two."""
    root = tmp_path / "unsplit"
    root.mkdir()
    for number in range(8):
        for camera, count in ((1, 3), (2, 1 if number % 2 else 2))[: 1 if number == 0 else 2]:
            for image in range(count):
                data = pixels.encode_jpeg(person(number, (48, 96)))
                (root / f"p{number}_c{camera}_{image}.jpg").write_bytes(data)
    return root


UNSPLIT = r"(?P<person_id>p\d)_c(?P<camera_id>\d)_\d.jpg"


def test_test_people_are_drawn_with_queries_that_can_be_found(unsplit):
    images, report = index_pattern(unsplit, UNSPLIT, LayoutOptions(test_people=0.5))
    rows = images.table.select(["person_id", "split", "camera_id"]).to_pylist()
    people = {split: {r["person_id"] for r in rows if r["split"] == split} for split in SPLITS}
    assert len(people["train"]) == len(people["query"]) == len(people["gallery"]) == 4
    assert people["query"] == people["gallery"]
    assert people["train"].isdisjoint(people["query"])
    assert "p0" in people["train"]
    queries = [row for row in rows if row["split"] == "query"]
    for query in queries:
        assert any(
            row["person_id"] == query["person_id"] and row["camera_id"] != query["camera_id"]
            for row in rows
            if row["split"] == "gallery"
        )
    seen = [(row["person_id"], row["camera_id"]) for row in queries]
    assert len(set(seen)) == len(seen)
    assert f"drawn: 4 of 8 people for tests, with {len(queries)} queries" in report.text()
    again, _ = index_pattern(unsplit, UNSPLIT, LayoutOptions(test_people=0.5))
    assert again.table.equals(images.table)


def test_a_table_with_other_columns_and_no_split(unsplit):
    names = sorted(path.name for path in unsplit.glob("*.jpg"))
    lines = [f"{name},{name[:2]},{name[4]}" for name in names]
    (unsplit / "labels.csv").write_text("\n".join(["file,who,cam", *lines]), encoding="utf-8")
    columns = ("path=file", "person_id=who", "camera_id=cam")
    options = LayoutOptions(columns=columns, test_people=0.5)
    images, _ = index_table(unsplit, unsplit / "labels.csv", options)
    by_pattern, _ = index_pattern(
        unsplit, UNSPLIT, LayoutOptions(test_people=0.5, allow_skipped=True)
    )
    assert images.table.equals(by_pattern.table)
    with pytest.raises(UserError, match=r"'who', 'cam', no path, .* \(--columns path=NAME"):
        index_table(unsplit, unsplit / "labels.csv")


def test_further_columns_of_a_table_are_told_and_two_of_one_name_refused(unsplit):
    names = sorted(path.name for path in unsplit.glob("*.jpg"))
    lines = [f"{name},{name[:2]},{name[4]},1 2 3 4" for name in names]
    table = unsplit / "labels.csv"
    table.write_text("\n".join(["path,person_id,camera_id,box", *lines]), encoding="utf-8")
    images, report = index_table(unsplit, table, LayoutOptions(test_people=0.5))
    assert len(images) == len(names)
    assert "columns that are not used: 'box'" in report.text()
    twice = LayoutOptions(columns=("path=box",), test_people=0.5)
    with pytest.raises(UserError, match="'split', two of path; expected"):
        index_table(unsplit, table, twice)


def test_test_people_are_drawn_among_the_crops_that_can_be_read(unsplit):
    for path in unsplit.glob("p[1-7]_c1_*.jpg"):
        if not path.name.startswith(("p1", "p2", "p3", "p4")):
            path.write_bytes(b"broken")
    options = LayoutOptions(test_people=0.5, skip_broken=True)
    images, report = index_pattern(unsplit, UNSPLIT, options)
    rows = images.table.select(["person_id", "split", "camera_id"]).to_pylist()
    tested = {row["person_id"] for row in rows if row["split"] == "query"}
    assert tested == {"p1", "p2", "p3", "p4"}
    assert report.counts.num_test_people == 4
    assert report.counts.rows["query"] == sum(row["split"] == "query" for row in rows)
    assert images.provenance["test_people"] == "0.5"


def test_columns_without_a_table_and_an_output_over_an_input_are_refused(unsplit):
    table, out = unsplit / "labels.csv", str(unsplit / "images.parquet")
    table.write_text("path,person_id,camera_id,split\n", encoding="utf-8")
    begin = ["index", str(unsplit), "--quiet"]
    with pytest.raises(UserError, match=r"^--columns: found no --table"):
        PROGRAM.run([*begin, "--out", out, "--pattern", UNSPLIT, "--columns", "path=file"])
    for flags in (["--table", str(table)], ["--pattern", UNSPLIT, "--keypoints", str(table)]):
        with pytest.raises(UserError, match=r"labels\.csv: found a file that the command reads"):
            PROGRAM.run([*begin, "--out", str(unsplit / "." / "labels.csv"), *flags])
    assert table.read_text(encoding="utf-8").startswith("path,")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_people": 1.0}, "--test-people 1: expected a share"),
        ({"test_people": -0.5}, "--test-people -0.5: expected a share"),
        ({"test_people": 0.95}, "wants 8 of 8 people, found 7 whom two cameras saw"),
        ({"columns": ("who=file",)}, "--columns: found 'who=file', expected NAME=COLUMN"),
        ({"columns": ("path",)}, "--columns: found 'path', expected NAME=COLUMN"),
    ],
)
def test_splits_that_cannot_be_drawn_are_refused(unsplit, options, message):
    (unsplit / "labels.csv").write_text("path,person_id,camera_id,split\n", encoding="utf-8")
    chosen = LayoutOptions(**options, allow_skipped=True)
    how = (index_table, unsplit / "labels.csv") if chosen.columns else (index_pattern, UNSPLIT)
    with pytest.raises(UserError, match=message):
        how[0](unsplit, how[1], chosen)


def test_a_split_of_ones_own_is_not_drawn_over_and_none_is_told(crops, unsplit):
    with pytest.raises(UserError, match="is in the split 'query' already"):
        index_pattern(crops, PATTERN, LayoutOptions(test_people=0.5))
    assert "--test-people 0.5 draws some" in index_pattern(unsplit, UNSPLIT)[1].text()
    assert "--test-people" not in index_pattern(crops, PATTERN)[1].text()
