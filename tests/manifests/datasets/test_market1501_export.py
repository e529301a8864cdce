"""Any data set as a Market-1501 folder, as torchreid reads it."""

from __future__ import annotations

import contextlib
import csv
import io
import re
import warnings
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from manifests import pixels
from manifests.datasets import market1501
from manifests.datasets.folder import index_pattern
from manifests.datasets.market1501_export import export
from manifests.io import Images
from manifests.runtime.console import UserError
from manifests.schema import IMAGES

PATTERN = r"(?P<split>\w+)/(?P<person_id>\w+)/cam(?P<camera_id>\d+)_\d+\.(jpg|png)"
FILES = (
    "train/anna/cam3_0.jpg",
    "train/anna/cam7_1.png",
    "train/ben/cam7_0.jpg",
    "query/cleo/cam3_0.jpg",
    "gallery/cleo/cam12_0.jpg",
    "gallery/0000/cam3_0.jpg",
)


@pytest.fixture
def images(tmp_path, person) -> Images:
    """Return a table of crops of other names, PNG among them."""
    for number, name in enumerate(FILES):
        path = tmp_path / "crops" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        encode = pixels.encode_png if name.endswith("png") else pixels.encode_jpeg
        path.write_bytes(encode(person(number)))
    return index_pattern(tmp_path / "crops", PATTERN)[0]


def mapping(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "names.csv").open() as file:
        return {row["image_id"]: row for row in csv.DictReader(file)}


def test_other_names_become_market1501_names_and_the_table_maps_back(images, tmp_path):
    assert export(images, None, tmp_path / "market") == 6
    found = mapping(tmp_path / "market")
    assert set(found) == set(FILES)
    for name, row in found.items():
        match = market1501.NAME.fullmatch(row["name"])
        assert match is not None
        file = tmp_path / "market" / market1501.FOLDERS[row["split"]] / row["name"]
        assert row["person_id"] == ("person 0000" if "0000" in name else name.split("/")[1])
        if name.endswith("jpg"):
            assert file.read_bytes() == (tmp_path / "crops" / name).read_bytes()
        else:
            assert np.abs(pixels.read(file).astype(int) - pixels.read(images.file(4))).max() < 100
    people = {(row["person_id"], row["name"][:4]) for row in found.values()}
    assert sorted(people) == [
        ("anna", "0001"), ("ben", "0002"), ("cleo", "0003"), ("person 0000", "0004")
    ]  # fmt: skip
    cameras = {(row["camera_id"], row["name"][6]) for row in found.values()}
    assert sorted(cameras) == [("12", "3"), ("3", "1"), ("7", "2")]


def test_torchreid_reads_the_export_of_other_names(images, tmp_path):
    export(images, None, tmp_path / "market1501" / "Market-1501-v15.09.15")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        datasets = import_module("torchreid.reid.data.datasets.image")
        read = datasets.Market1501(root=str(tmp_path))
    assert (len(read.train), len(read.query), len(read.gallery)) == (3, 1, 2)
    assert {(person, camera) for _, person, camera, *_ in read.query} == {(3, 0)}
    assert sorted((person, camera) for _, person, camera, *_ in read.gallery) == [(3, 2), (4, 0)]


@pytest.mark.parametrize(("number", "camera"), [("9998", 1), ("0002", 7)])
def test_numbers_that_readers_refuse_are_counted_anew(tiny_images, tmp_path, number, camera):
    names = [
        re.sub(r"^0002_c\d", f"{number}_c{camera}", name)
        for name in tiny_images.strings("image_id")
    ]
    labels = {
        "image_id": names,
        "person_id": [number if p == "0002" else p for p in tiny_images.strings("person_id")],
        "camera_id": [int(name.split("_c")[1][0]) for name in names],
    }
    table = tiny_images.table
    for column, values in labels.items():
        field = IMAGES.field(column)
        place = IMAGES.get_field_index(column)
        table = table.set_column(place, field, pa.array(values, field.type))
    export(replace(tiny_images, table=table), None, tmp_path / "market")
    found = [row["name"] for row in mapping(tmp_path / "market").values()]
    matches = [market1501.NAME.fullmatch(name) for name in found]
    assert all(match and match[1] <= "1501" and "1" <= match[2] <= "6" for match in matches)


def test_a_name_that_says_another_person_than_the_table_is_changed(tiny_images, tmp_path):
    people = pa.array(["anna" if p == "0002" else p for p in tiny_images.strings("person_id")])
    place = IMAGES.get_field_index("person_id")
    table = tiny_images.table.set_column(place, IMAGES.field("person_id"), people)
    export(replace(tiny_images, table=table), None, tmp_path / "market")
    found = mapping(tmp_path / "market")
    assert {row["name"][:4] for row in found.values() if row["person_id"] == "anna"} == {"0005"}
    junk = next(row for row in found.values() if row["person_id"] == "-1")
    assert junk["name"].startswith("-1_c1s1_")


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("camera_id", list(range(7)), "found 7 cameras, expected at most 6"),
        ("person_id", [f"p{n}" for n in range(1502)], "found 1,502 people, expected at most 1,501"),
    ],
)
def test_more_than_readers_of_the_layout_take_is_refused(
    tiny_images, tmp_path, column, values, message
):
    train = tiny_images.only("train")
    many = train.take(np.arange(len(values)) % len(train))
    place, field = IMAGES.get_field_index(column), IMAGES.field(column)
    table = many.table.set_column(place, field, pa.array(values, field.type))
    with pytest.raises(UserError, match=re.escape(message)):
        export(replace(many, table=table), None, tmp_path / "market")
    assert not (tmp_path / "market").exists()


def test_all_broken_images_are_named_at_once_and_nothing_is_written(images, tmp_path):
    files = [images.file(row) for row in (0, 2)]
    files[0].write_bytes(files[0].read_bytes()[:-40])
    files[1].unlink()
    with pytest.raises(UserError) as refused:
        export(images, None, tmp_path / "market")
    told = str(refused.value)
    assert told.startswith("2 images cannot be used: ")
    assert all(str(file) in told for file in files)
    assert not (tmp_path / "market").exists()
