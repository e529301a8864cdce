"""``augment export``."""

import csv
import fcntl
import json
import tarfile

import numpy as np
import pyarrow as pa
import pytest

from augment.cli import PROGRAM
from augment.generation.export import ExportSettings, export
from augment.generation.status import look
from manifests import io, pixels
from manifests.datasets.folder import index_table
from manifests.datasets.keypoint_files import read_keypoints
from manifests.runtime.console import Console, Exit, UserError
from manifests.synthetic import read_synthetic
from tests.helpers.generation import QUIET, run, take_a_source_away


def test_the_market1501_export_is_read_back_as_train_images(people, out, tmp_path):
    code = export(ExportSettings(run=out, to="market1501", out=tmp_path / "market"), QUIET)

    assert code == Exit.DONE
    synthetic = read_synthetic(out)
    files = sorted((tmp_path / "market/bounding_box_train").iterdir())
    assert [file.name for file in files] == sorted(synthetic.strings("image_id"))
    by_name = dict(zip(synthetic.strings("image_id"), synthetic.strings("sha256"), strict=True))
    assert all(io.sha256_file(file) == by_name[file.name] for file in files)
    joints = read_keypoints(tmp_path / "market/keypoints_synthetic.csv")
    for name, expected in zip(synthetic.strings("image_id"), synthetic.keypoints(), strict=True):
        np.testing.assert_array_equal(joints[name], expected)
    assert not list((tmp_path / "market/query").iterdir())


def test_the_market1501_export_takes_the_real_images_along(people, out, tmp_path):
    settings = ExportSettings(
        run=out, to="market1501", out=tmp_path / "market", images=people, root=people.parent
    )

    export(settings, QUIET)

    assert len(list((tmp_path / "market/bounding_box_train").iterdir())) == 12 + 20


def test_png_images_have_no_market1501_export_and_nothing_is_left(people, tmp_path):
    run(people, tmp_path / "out", image_format="png")
    settings = ExportSettings(run=tmp_path / "out", to="market1501", out=tmp_path / "market")

    with pytest.raises(UserError, match="no JPEG"):
        export(settings, QUIET)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "people"]


def test_the_folder_export_has_a_folder_per_person_and_a_table(out, tmp_path):
    export(ExportSettings(run=out, to="folder", out=tmp_path / "folder"), QUIET)

    with (tmp_path / "folder/images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    for row in rows:
        assert row["path"].startswith(f"{row['person_id']}/{row['person_id']}_c{row['camera_id']}")
        assert pixels.read(tmp_path / "folder" / row["path"]).shape == (128, 64, 3)
    images, _ = index_table(tmp_path / "folder", tmp_path / "folder/images.csv")
    assert images.strings("image_id") == sorted(row["path"] for row in rows)


def odd_row(row, person, source):
    return {**row, "person_id": person, "source_id": source, "image_id": f"{source}_aug0.jpg"}


def test_the_folder_export_stays_in_its_folder_whatever_a_person_is_called(
    finish, synthetic_rows, tmp_path
):
    first, second, *_ = synthetic_rows(1, pixels.encode_jpeg)
    finish(tmp_path / "out", [odd_row(first, "..", "../a"), odd_row(second, "x/y", "b")])
    before = {path.name for path in tmp_path.iterdir()}

    export(ExportSettings(run=tmp_path / "out", to="folder", out=tmp_path / "files"), QUIET)

    assert {path.name for path in tmp_path.iterdir()} - before == {"files"}
    found = sorted(str(path.relative_to(tmp_path / "files")) for path in tmp_path.rglob("*aug0*"))
    assert found == ["__/.._a_aug0.jpg", "x_y/b_aug0.jpg"]


def test_the_folder_export_refuses_labels_that_would_be_one_file(finish, synthetic_rows, tmp_path):
    first, second, *_ = synthetic_rows(1, pixels.encode_jpeg)
    finish(tmp_path / "out", [odd_row(first, "a/b", "c"), odd_row(second, "a_b", "c")])
    settings = ExportSettings(run=tmp_path / "out", to="folder", out=tmp_path / "files")

    with pytest.raises(UserError, match=r"two images would be 'a_b/c_aug0\.jpg'"):
        export(settings, QUIET)

    assert not (tmp_path / "files").exists()


@pytest.mark.parametrize("source", ["anna.jpg", "cam1/0002_c1s1_000451_03.jpg", "../a.jpg"])
def test_the_market1501_export_renames_other_names_and_maps_them_back(
    source, finish, synthetic_rows, tmp_path
):
    first, second, *_ = synthetic_rows(2, pixels.encode_jpeg)
    rows = [
        odd_row(first, "anna", source),
        odd_row(second, "anna", source) | {"k": 1, "image_id": "../../x.jpg"},
    ]
    finish(tmp_path / "out", rows)
    before = {path.name for path in tmp_path.iterdir()}

    export(ExportSettings(run=tmp_path / "out", to="market1501", out=tmp_path / "market"), QUIET)

    assert {path.name for path in tmp_path.iterdir()} - before == {"market"}
    names = sorted(path.name for path in (tmp_path / "market/bounding_box_train").iterdir())
    assert names == ["0001_c1s1_000000_00_aug00000.jpg", "0001_c1s1_000000_00_aug00001.jpg"]
    with (tmp_path / "market/names.csv").open() as file:
        mapped = {row["name"]: row for row in csv.DictReader(file)}
    assert mapped[names[1]]["image_id"] == "../../x.jpg"
    assert {row["person_id"] for row in mapped.values()} == {"anna"}


@pytest.mark.parametrize("layout", ["market1501", "webdataset", "folder"])
def test_the_same_export_again_is_done_already_and_another_is_refused(
    out, tmp_path, layout, capsys
):
    settings = ExportSettings(run=out, to=layout, out=tmp_path / "files")
    export(settings, QUIET)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "files").rglob("*")}

    assert export(settings, Console()) == Exit.DONE

    assert "files: already complete" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in written} == written
    other = "folder" if layout != "folder" else "webdataset"
    with pytest.raises(UserError, match=f"to: '{layout}', now '{other}'"):
        export(settings.model_copy(update={"to": other}), QUIET)


def test_what_a_killed_export_left_is_removed_by_the_next_and_a_living_one_is_left(out, tmp_path):
    dead, living = (tmp_path / f".files.{name}.tmp" for name in ("dead", "living"))
    for folder in (dead, living):
        folder.mkdir()
        (folder / ".lock").touch()
    with (living / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        export(ExportSettings(run=out, to="folder", out=tmp_path / "files"), QUIET)
        assert living.is_dir()
    assert not dead.exists()


@pytest.mark.parametrize("layout", ["market1501", "webdataset", "folder"])
def test_images_of_one_name_are_refused(finish, synthetic_rows, tmp_path, layout):
    first, second, *_ = synthetic_rows(2, pixels.encode_jpeg)
    finish(tmp_path / "out", [first, second | {"image_id": first["image_id"]}])
    settings = ExportSettings(run=tmp_path / "out", to=layout, out=tmp_path / "files")
    with pytest.raises(UserError, match=f"image_id '{first['image_id']}' is in more than one row"):
        export(settings, QUIET)
    assert not (tmp_path / "files").exists()


def entries(folder):
    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            found += [json.load(tar.extractfile(e)) for e in tar if e.name.endswith(".json")]
    return found


def test_the_webdataset_export_holds_rows_that_alternate_between_shards(
    finish, synthetic_rows, tmp_path
):
    rows = synthetic_rows(4, pixels.encode_jpeg)
    made = finish(tmp_path / "out", rows, rows_per_shard=2)
    order = np.argsort(np.arange(len(rows)) % 2, kind="stable")
    io.write_table(made.take(order).table, tmp_path / "out/manifest.parquet", {})

    export(ExportSettings(run=tmp_path / "out", to="webdataset", out=tmp_path / "web"), QUIET)

    assert len(list((tmp_path / "web").glob("*.tar"))) == 6
    found = sorted(row["image_id"] for row in entries(tmp_path / "web"))
    assert found == sorted(row["image_id"] for row in rows)


def test_the_webdataset_export_holds_shards_of_one_name_from_two_folders(
    finish, synthetic_rows, tmp_path
):
    rows = synthetic_rows(4, pixels.encode_jpeg)
    made = finish(tmp_path / "out", rows, rows_per_shard=6)
    (tmp_path / "out/more").mkdir()
    (tmp_path / "out/data/part-000001.parquet").rename(tmp_path / "out/more/part-000000.parquet")
    shards = [s.replace("part-000001", "more/part-000000") for s in made.strings("shard")]
    place = made.table.schema.get_field_index("shard")
    table = made.table.set_column(place, made.table.schema.field("shard"), pa.array(shards))
    io.write_table(table, tmp_path / "out/manifest.parquet", {})

    export(ExportSettings(run=tmp_path / "out", to="webdataset", out=tmp_path / "web"), QUIET)

    files = sorted(path.name for path in (tmp_path / "web").glob("*.tar"))
    assert files == ["part-000000-2.tar", "part-000000.tar"]
    assert len(entries(tmp_path / "web")) == 12


def test_the_folder_export_keeps_keypoints_source_and_pose(out, tmp_path):
    folder = tmp_path / "folder"
    export(ExportSettings(run=out, to="folder", out=folder), QUIET)

    made = read_synthetic(out)
    rows = {row["image_id"]: row for row in made.table.to_pylist()}
    with (folder / "sources.csv").open() as file:
        found = list(csv.DictReader(file))
    assert len(found) == 20
    for row in found:
        expected = rows[row["image_id"]]
        assert row["source_id"] == expected["source_id"]
        assert row["pose_id"] == expected["pose_id"]
        assert int(row["k"]) == expected["k"]
    table = tmp_path / "again.parquet"
    PROGRAM.run(
        ["index", str(folder), "--table", str(folder / "images.csv"), "--out", str(table),
         "--keypoints", str(folder / "keypoints.csv"), "--quiet"]
    )  # fmt: skip
    images = io.read_images(table)
    path_of = {row["path"]: row["image_id"] for row in found}
    joints = dict(zip(made.strings("image_id"), made.keypoints(), strict=True))
    for path, pose in zip(images.strings("image_id"), images.keypoints(), strict=True):
        np.testing.assert_array_equal(pose, joints[path_of[path]])


def test_the_webdataset_export_pairs_images_with_their_rows(out, tmp_path):
    export(ExportSettings(run=out, to="webdataset", out=tmp_path / "web"), QUIET)

    synthetic = read_synthetic(out)
    images = list(synthetic.read_bytes(np.arange(20)))
    names = []
    for path in sorted((tmp_path / "web").glob("*.tar")):
        with tarfile.open(path) as tar:
            for entry in tar:
                names.append(entry.name)
                number, data = int(entry.name[:9]), tar.extractfile(entry).read()
                if entry.name.endswith(".jpg"):
                    assert data == images[number]
                else:
                    name = synthetic.strings("image_id")[number]
                    assert json.loads(data)["image_id"] == name
    assert names == [f"{row:09d}.{kind}" for row in range(20) for kind in ("jpg", "json")]


@pytest.mark.parametrize("layout", ["market1501", "webdataset", "folder"])
def test_an_export_leaves_failed_rows_out(people, tmp_path, layout):
    take_a_source_away(people)
    run(people, tmp_path / "out")
    failed = look(tmp_path / "out").rows_failed

    export(ExportSettings(run=tmp_path / "out", to=layout, out=tmp_path / "files"), QUIET)

    names = [path.name for path in (tmp_path / "files").rglob("*.jpg")]
    for path in (tmp_path / "files").glob("*.tar"):
        with tarfile.open(path) as tar:
            names += tar.getnames()
    assert len([name for name in names if name.endswith(".jpg")]) == 20 - failed


def test_an_export_never_touches_a_folder_that_holds_something(out, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years")

    with pytest.raises(UserError, match="mine: exists already"):
        export(ExportSettings(run=out, to="folder", out=tmp_path / "mine"), QUIET)

    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_an_unfinished_run_is_not_exported(people, tmp_path):
    run(people, tmp_path / "out", worker="0/2")

    with pytest.raises(UserError, match="not a finished run"):
        export(ExportSettings(run=tmp_path / "out", to="folder", out=tmp_path / "x"), QUIET)
