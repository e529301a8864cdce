"""``augment export``."""

import csv
import json
import tarfile

import numpy as np
import pytest

from augment.generation.export import ExportSettings, export
from augment.generation.status import look
from manifests import io, pixels
from manifests.datasets.folder import index_table
from manifests.datasets.keypoint_files import read_keypoints
from manifests.runtime.console import Exit, UserError
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
def test_the_market1501_export_refuses_other_names(source, finish, synthetic_rows, tmp_path):
    row, *_ = synthetic_rows(1, pixels.encode_jpeg)
    finish(tmp_path / "out", [odd_row(row, "anna", source)])
    settings = ExportSettings(run=tmp_path / "out", to="market1501", out=tmp_path / "market")

    with pytest.raises(UserError, match=f"is named after '{source}', expected a Market-1501 name"):
        export(settings, QUIET)

    assert not (tmp_path / "market").exists()


def test_the_webdataset_export_pairs_images_with_their_rows(out, tmp_path):
    export(ExportSettings(run=out, to="webdataset", out=tmp_path / "web"), QUIET)

    synthetic = read_synthetic(out)
    images = list(synthetic.read_bytes(np.arange(20)))
    names = []
    for path in sorted((tmp_path / "web").iterdir()):
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
