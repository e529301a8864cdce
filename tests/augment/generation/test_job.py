"""``augment generate`` and the commands that read its folder."""

import csv
import json
import re
import shutil
import socket
import subprocess
import sys
import tarfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from augment.generation import job as job_module
from augment.generation import shards
from augment.generation.export import ExportSettings, export
from augment.generation.job import (
    GenerateSettings,
    Weights,
    describe,
    generate,
    job_of,
    open_sampler,
    plan_of,
)
from augment.generation.preview import PreviewSettings, choose, preview
from augment.generation.run_config import read_run_config
from augment.generation.status import StatusSettings, look, status
from augment.generation.verify import VerifySettings, verify
from augment.quality.contact_sheets import draw_pose
from manifests import io, pixels
from manifests.compute.devices import own_gpu, pick_device
from manifests.datasets import market1501
from manifests.datasets.folder import index_table
from manifests.runtime.console import Console, Exit, UserError
from manifests.schema import SHARD
from manifests.subset import subset_train
from manifests.synthetic import read_synthetic
from tests.helpers import trivial

QUIET = Console(quiet=True)


@pytest.fixture
def people(tmp_path):
    # A missing joint is NaN, which equals nothing: comparisons of rows have to know.
    return trivial.write_people(tmp_path / "people", missing=[4])


@pytest.fixture
def out(people, tmp_path):
    assert run(people, tmp_path / "out") == Exit.DONE
    return tmp_path / "out"


def run(people, out, weights=None, console=QUIET, **changes):
    settings = trivial.job_settings(people, out, **changes)
    return generate(settings, console, weights or trivial.trivial_weights())


def never(device):
    pytest.fail("the network was loaded")


UNLOADED = Weights("trivial", "0" * 64, (128, 64), never)


def test_a_finished_run_is_left_as_it_is_and_needs_no_network(people, out, capsys):
    before = trivial.files_of(out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}

    code = run(people, out, UNLOADED, Console())

    assert code == Exit.DONE
    assert capsys.readouterr().err == f"{out}: already complete, 20 rows\n"
    assert trivial.files_of(out) == before
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"per_id": 6}, "content.per_id: 5, now 6"),
        ({"seed": 1}, "content.seed: 0, now 1"),
        ({"batch_size": 4}, "content.sampling.batch_size: 2, now 4"),
        ({"precision": "bf16"}, "content.sampling.precision: 'float32', now 'bf16'"),
        ({"quality": 75}, "content.encoding.quality: 95, now 75"),
        ({"rows_per_shard": 8}, "rows_per_shard: 4, now 8"),
    ],
)
def test_other_settings_are_refused_with_the_field_that_differs(people, out, change, field):
    before = trivial.files_of(out)

    with pytest.raises(UserError) as refusal:
        run(people, out, **change)

    assert field in str(refusal.value)
    assert trivial.files_of(out) == before


def test_a_folder_made_before_compiling_was_a_setting_is_still_read(people, out):
    found = json.loads((out / "run.json").read_text())
    assert "compiled" not in found["config"]["content"]["sampling"]

    assert read_run_config(out).content.sampling.compiled is False
    assert read_run_config(out).content_key == found["content_key"]


def test_compiling_is_part_of_what_a_run_is(people, out):
    with pytest.raises(UserError, match=r"content\.sampling\.compiled: None, now True"):
        run(people, out, UNLOADED, compile="yes")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_run_has_the_rows_of_a_plain_one_and_other_keys(people, out, tmp_path):
    compiled = tmp_path / "compiled"

    assert run(people, compiled, compile="yes") == Exit.DONE

    assert verify(VerifySettings(out=compiled), QUIET) == Exit.DONE
    assert read_run_config(compiled).content.sampling.compiled
    assert read_run_config(compiled).content_key != read_run_config(out).content_key
    first, second = (read_synthetic(folder).table for folder in (out, compiled))
    names = ["image_id", "person_id", "pose_id", "seed", "error"]
    assert first.select(names).equals(second.select(names))


def test_other_weights_and_other_images_are_refused(people, out, tmp_path):
    with pytest.raises(UserError, match="weights_sha256"):
        run(people, out, trivial.trivial_weights("1" * 64))
    other = trivial.write_people(tmp_path / "other", num_people=5)
    with pytest.raises(UserError, match="images_sha256"):
        run(other, out)


def test_images_that_moved_are_the_same_run(people, out, tmp_path):
    people.parent.rename(tmp_path / "moved")

    code = run(tmp_path / "moved/images.parquet", out, UNLOADED, root=tmp_path / "moved")

    assert code == Exit.DONE


def test_what_is_auto_is_decided_by_the_creator_of_the_run(people, tmp_path):
    run(people, tmp_path / "out", worker="0/2")

    run(people, tmp_path / "out", worker="1/2", batch_size="auto", rows_per_shard="auto")

    assert (tmp_path / "out/_SUCCESS").exists()
    found = read_run_config(tmp_path / "out")
    assert (found.content.sampling.batch_size, found.rows_per_shard) == (2, 4)


def test_a_worker_makes_its_shards_and_the_last_one_finalises(people, tmp_path):
    names = []
    for index in (1, 0):
        assert run(people, tmp_path / "out", worker=f"{index}/2") == Exit.DONE
        names.append(sorted(path.name[8:11] for path in (tmp_path / "out/data").iterdir()))
        assert (tmp_path / "out/_SUCCESS").exists() == (index == 0)

    assert names == [["001", "003"], ["000", "001", "002", "003", "004"]]


def test_more_workers_than_shards_do_no_harm(people, tmp_path):
    assert run(people, tmp_path / "out", UNLOADED, worker="7/9") == Exit.DONE


def test_a_slurm_array_task_knows_which_worker_it_is(people, tmp_path, monkeypatch):
    for part, value in {"ID": 4, "COUNT": 2, "MIN": 3, "MAX": 4}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{part}", str(value))

    run(people, tmp_path / "out")

    assert shards.shard_state(tmp_path / "out", read_run_config(tmp_path / "out"), 1) == "complete"
    assert shards.shard_state(tmp_path / "out", read_run_config(tmp_path / "out"), 0) == "missing"


def test_a_dry_run_tells_rows_shards_disk_and_time_and_makes_nothing(people, tmp_path, capsys):
    out = tmp_path / "out"

    code = run(people, out, console=Console(log_format="json"), dry_run=True)

    assert code == Exit.DONE
    assert not out.exists()
    told = json.loads(capsys.readouterr().err)
    assert (told["rows"], told["people"], told["shards"]) == (20, 4, 5)
    assert told["seconds"] > 0
    assert told["megabytes"] > 0


def test_per_id_20_begins_with_the_rows_of_per_id_10(people, tmp_path):
    images = []
    for per_id in (3, 6):
        run(people, tmp_path / f"by{per_id}", per_id=per_id)
        table = read_synthetic(tmp_path / f"by{per_id}").table.to_pylist()
        images.append({(row["image_id"], row["sha256"]) for row in table if row["k"] < 3})

    assert images[0] == images[1]
    assert len(images[0]) == 12


def test_poses_may_come_from_another_table_without_its_images(people, tmp_path):
    poses = trivial.made_up(num_people=3, first=60, root=tmp_path)
    io.write_images(poses, tmp_path / "poses.parquet")

    run(people, tmp_path / "out", poses=tmp_path / "poses.parquet")

    used = set(read_synthetic(tmp_path / "out").strings("pose_id"))
    assert used
    assert used <= set(poses.strings("image_id"))


def test_people_without_shoulders_and_hips_are_counted(people, tmp_path, capsys):
    images = io.read_images(people)
    joints = images.keypoints()
    joints[:3, 2] = np.nan
    io.write_images(trivial.table_of(images.table.to_pylist(), joints, images.root), people)

    run(people, tmp_path / "out", console=Console())

    assert "1 of 4 people have no image with both shoulders" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"per_id": 13}, "--per-id"),
        ({"batch_size": 0}, "--batch-size: found 0, expected at least 1"),
        ({"rows_per_shard": 0}, "--rows-per-shard: found 0, expected at least 1"),
        ({"quality": 101}, "--quality: found 101, expected 1 to 100"),
        ({"worker": "2/2"}, "--worker: found '2/2'"),
        ({"worker": "0/2", "retry_failed": True}, "--retry-failed: found worker 0 of 2"),
    ],
)
def test_bad_settings_are_refused(people, tmp_path, change, sentence):
    with pytest.raises(UserError, match=sentence):
        run(people, tmp_path / "out", UNLOADED, **change)


def test_without_images_made_up_people_are_drawn_beside_the_run(tmp_path):
    settings = GenerateSettings(out=tmp_path / "out", device="cpu", threads=1, per_id=2)

    assert generate(settings, QUIET, trivial.trivial_weights()) == Exit.DONE

    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out-people"]
    assert len(read_synthetic(tmp_path / "out")) == 2 * 24


def test_made_up_people_are_drawn_beside_a_run_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    settings = GenerateSettings(out=".", device="cpu", threads=1, per_id=1)

    assert generate(settings, QUIET, trivial.trivial_weights()) == Exit.DONE

    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "here-people"]


def test_a_run_in_the_root_of_all_folders_has_no_place_for_made_up_people():
    with pytest.raises(UserError, match="--out /: found the root of all folders"):
        generate(GenerateSettings(out="/", device="cpu"), QUIET, UNLOADED)


def test_a_dry_run_refuses_the_folders_that_the_run_would_refuse(people, tmp_path):
    with pytest.raises(UserError, match=r"people: found '.*' and no run\.json"):
        run(people, people.parent, UNLOADED, dry_run=True)
    run(people, tmp_path / "out")
    with pytest.raises(UserError, match=r"content\.seed: 0, now 1"):
        run(people, tmp_path / "out", UNLOADED, dry_run=True, seed=1)


def damaged(people):
    """Take the file of a source away for a while."""
    path = people.parent / "0004_c2s1_000001_01.jpg"
    return path, path.rename(path.with_suffix(".away"))


def test_failed_rows_are_counted_and_said_again_when_complete(people, tmp_path, capsys):
    damaged(people)

    codes = [run(people, tmp_path / "out", console=Console()) for _ in range(2)]

    assert codes == [Exit.ROW_ERRORS, Exit.ROW_ERRORS]
    last = capsys.readouterr().err.splitlines()[-1]
    failed = look(tmp_path / "out").rows_failed
    assert failed > 0
    assert last == (
        f"{tmp_path}/out: already complete, 20 rows, {failed} of them failed "
        "(the column 'error' says why)"
    )
    assert f"{failed} of\nthem failed" in (tmp_path / "out/README.md").read_text()


def test_failed_rows_are_made_again_on_demand_and_only_their_shards(people, out, tmp_path):
    path, away = damaged(people)
    again = tmp_path / "again"
    run(people, again)
    sound = {
        shard: (again / shard).stat().st_mtime_ns
        for shard in (f"data/part-{number:06d}.parquet" for number in range(5))
        if pq.read_table(again / shard)["error"].null_count == len(pq.read_table(again / shard))
    }
    away.rename(path)

    code = run(people, again, retry_failed=True)

    assert code == Exit.DONE
    assert trivial.files_of(again) == trivial.files_of(out)
    assert 0 < len(sound) < 5
    assert sound == {shard: (again / shard).stat().st_mtime_ns for shard in sound}


def test_a_retry_without_failed_rows_is_complete(people, out):
    before = trivial.files_of(out)

    assert run(people, out, UNLOADED, retry_failed=True) == Exit.DONE
    assert trivial.files_of(out) == before


def test_shards_and_manifest_hold_no_path_time_or_host(people, out, tmp_path):
    host = re.compile(rf"\b{re.escape(socket.gethostname())}\b")

    for name, data in trivial.files_of(out).items():
        told = data.decode(errors="replace")
        if name.endswith(".parquet"):
            table = pq.read_table(pa.BufferReader(data))
            # Any two letters may stand in the bytes of an image.
            rows = table.select([column for column in table.column_names if column != "image"])
            told = f"{rows.to_pylist()} {table.schema.metadata}"
        assert not host.search(told)
        assert str(tmp_path) not in told
        assert "20" + "26-" not in told


def test_two_runs_in_two_folders_are_the_same_bytes(people, out, tmp_path):
    run(people, tmp_path / "second", on_error="fail", worker="0/1")

    assert trivial.files_of(tmp_path / "second") == trivial.files_of(out)


def test_status_tells_how_far_a_run_has_come_from_its_folder_alone(people, tmp_path, capsys):
    run(people, tmp_path / "out", worker="1/2")
    (tmp_path / "out/data/.part-000000.parquet.0.tmp").write_text("")
    (tmp_path / "out/data/part-000000.parquet").write_text("half")

    for as_json in (False, True):
        settings = StatusSettings(out=tmp_path / "out", as_json=as_json)
        assert status(settings, QUIET) == Exit.DONE

    *text, line = capsys.readouterr().out.splitlines()
    assert text == [
        "not finished: 2 of 5 shards, 8 of 20 rows",
        "1 shards are damaged and will be made again",
        "1 files are being written or were left behind",
        "the same 'augment generate' command goes on",
    ]
    assert json.loads(line) == {
        "finished": False,
        "shards": 5,
        "shards_complete": 2,
        "shards_damaged": 1,
        "rows": 20,
        "rows_complete": 8,
        "rows_failed": 0,
        "unpublished_files": 1,
    }


def test_status_of_a_finished_run(out):
    assert look(out).text() == "finished: 5 of 5 shards, 20 of 20 rows\n"


def test_status_of_something_else_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"a folder without run\.json; expected the OUT"):
        look(tmp_path)
    with pytest.raises(UserError, match="no such folder; expected the OUT"):
        look(tmp_path / "nowhere")


def problems_of(out, capsys):
    code = verify(VerifySettings(out=out), QUIET)
    lines = capsys.readouterr().out.splitlines()
    assert code == (Exit.REFUSED if lines else Exit.DONE)
    return [line.removeprefix(f"{out}/") for line in lines]


def test_a_sound_run_is_verified(out, capsys):
    assert problems_of(out, capsys) == []


def test_an_image_that_changed_is_found(out, capsys):
    path = shards.shard_file(out, 2)
    rows = pq.read_table(path).to_pylist()
    rows[1]["image"]["bytes"] += b"\0"
    table = pq.read_table(path).from_pylist(rows, SHARD)
    shards.publish(out, read_run_config(out), 2, table, "cpu")

    (problem,) = problems_of(out, capsys)

    assert problem == (
        f"data/part-000002.parquet: the image of row '{rows[1]['image_id']}' does not have its "
        "SHA-256"
    )


def test_a_row_that_changed_is_found(out, capsys):
    path = shards.shard_file(out, 2)
    rows = pq.read_table(path).to_pylist()
    rows[1]["person_id"] = "0009"
    table = pq.read_table(path).from_pylist(rows, SHARD)
    shards.publish(out, read_run_config(out), 2, table, "cpu")

    assert problems_of(out, capsys) == [
        "data/part-000002.parquet: row group 0 differs from the manifest"
    ]


def test_a_flipped_bit_is_found(out, capsys):
    path = shards.shard_file(out, 2)
    data = bytearray(path.read_bytes())
    data[data.index(b"\xff\xd8\xff") + 900] ^= 1
    path.write_bytes(data)

    (problem,) = problems_of(out, capsys)

    assert problem.startswith("data/part-000002.parquet: ")


def test_a_manifest_that_changed_is_found(out, capsys):
    table = pq.read_table(out / "manifest.parquet")
    pq.write_table(table, out / "manifest.parquet")

    assert problems_of(out, capsys) == ["manifest.parquet: its SHA-256 is not the one in _SUCCESS"]


def test_missing_and_strange_files_are_found(out, capsys):
    (out / "data/part-000001.parquet").rename(out / "data/part-000077.parquet")

    assert problems_of(out, capsys) == [
        "data/part-000077.parquet: no shard of this run",
        "data/part-000001.parquet: missing; the same 'augment generate' command makes it again",
    ]


def test_an_unfinished_run_is_not_verified(people, tmp_path, capsys):
    run(people, tmp_path / "out", worker="0/2")

    assert len(problems_of(tmp_path / "out", capsys)) == 3


def test_the_market1501_export_is_read_back_as_train_images(people, out, tmp_path):
    code = export(ExportSettings(run=out, to="market1501", out=tmp_path / "market"), QUIET)

    assert code == Exit.DONE
    synthetic = read_synthetic(out)
    files = sorted((tmp_path / "market/bounding_box_train").iterdir())
    assert [file.name for file in files] == sorted(synthetic.strings("image_id"))
    by_name = dict(zip(synthetic.strings("image_id"), synthetic.strings("sha256"), strict=True))
    assert all(io.sha256_file(file) == by_name[file.name] for file in files)
    joints = market1501.read_keypoints(tmp_path / "market/keypoints_synthetic.csv")
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
    damaged(people)
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


def test_a_folder_with_none_of_the_sources_is_refused_and_the_right_one_goes_on(people, tmp_path):
    (tmp_path / "elsewhere").mkdir()

    with pytest.raises(UserError, match="elsewhere: found none of 12 source images that were"):
        run(people, tmp_path / "out", UNLOADED, root=tmp_path / "elsewhere")

    assert run(people, tmp_path / "out") == Exit.DONE


def test_a_preview_finds_images_that_moved_by_its_flag(people, out, tmp_path):
    people.parent.rename(tmp_path / "moved")
    settings = {"run": out, "out": tmp_path / "sheet.png"}

    with pytest.raises(
        UserError, match=r"out: was made from the table .*images\.parquet, which is not there"
    ):
        preview(PreviewSettings(**settings), QUIET)
    moved = {"images": tmp_path / "moved/images.parquet", "root": tmp_path / "moved"}
    assert preview(PreviewSettings(**settings, **moved), QUIET) == Exit.DONE


def test_the_shards_open_as_images_in_datasets(out, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    datasets = pytest.importorskip("datasets", reason="the package 'datasets' is not installed")

    loaded = datasets.load_dataset(
        "parquet", data_files=str(out / "data/*.parquet"), cache_dir=str(tmp_path / "cache")
    )["train"]

    synthetic = read_synthetic(out)
    assert isinstance(loaded.features["image"], datasets.Image)
    assert loaded["image_id"] == synthetic.strings("image_id")
    for row, data in zip(loaded, synthetic.read_bytes(np.arange(20)), strict=True):
        assert isinstance(row["image"], Image.Image)
        np.testing.assert_array_equal(np.asarray(row["image"]), pixels.decode(data, "image"))


def test_planning_is_imported_without_torch():
    code = "import sys, augment.generation.plan; print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]

    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


def planned(settings):
    """Return the job of these settings, not begun yet."""
    plan = plan_of(settings, (64, 128))
    return job_of(settings, describe(settings, plan, UNLOADED, None), plan, UNLOADED)


@pytest.mark.parametrize("name", ["cpu", "cpu:0"])
def test_a_worker_computes_on_the_very_device_that_it_was_given(people, tmp_path, name):
    settings = trivial.job_settings(people, tmp_path / "out").model_copy(update={"device": name})
    job = planned(settings)

    sampler = open_sampler(job, trivial.trivial_weights())

    assert job.run.content.sampling.device == "cpu"
    assert sampler.device == torch.device(name)


TORCHRUN = {"LOCAL_RANK": "5", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("name", "environ", "num_gpus", "own"),
    [
        ("auto", TORCHRUN, 8, "cuda:5"),
        ("cuda", TORCHRUN, 4, "cuda:1"),
        ("cuda", {"SLURM_LOCALID": "3"}, 4, "cuda:3"),
        # What is asked for, or the only one there is.
        ("cuda:0", TORCHRUN, 8, "cuda:0"),
        ("cpu", TORCHRUN, 8, "cpu"),
        ("auto", TORCHRUN, 1, "auto"),
        ("auto", TORCHRUN, 0, "auto"),
        ("cuda", {}, 8, "cuda"),
    ],
)
def test_each_process_of_a_machine_takes_the_gpu_of_its_local_rank(name, environ, num_gpus, own):
    assert own_gpu(name, environ, num_gpus) == own


def test_a_worker_computes_on_the_gpu_of_its_local_rank(people, tmp_path, monkeypatch):
    job = planned(trivial.job_settings(people, tmp_path / "out"))
    monkeypatch.setenv("LOCAL_RANK", "77")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 100)

    # As many as no machine has: the refusal tells which one was meant.
    with pytest.raises(UserError, match="--device cuda:77: "):
        open_sampler(replace(job, device="cuda"), UNLOADED)


@pytest.mark.parametrize("name", ["meta", "mps", "gpu", "cpu:x", "cuda:-1", ""])
def test_a_device_of_another_kind_is_refused(name):
    with pytest.raises(UserError, match=f"--device: found '{name}', expected auto, cpu, cuda or"):
        pick_device(name)


@pytest.mark.parametrize(("has", "precision"), [(True, "bf16"), (False, "float32")])
def test_the_precision_is_that_which_the_processor_has(
    people, tmp_path, monkeypatch, has, precision
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has})

    job = planned(trivial.job_settings(people, tmp_path / "out", precision="auto"))

    assert job.run.content.sampling.precision == precision


def test_whether_to_compile_is_decided_by_the_share_of_one_worker(people, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(job_module, "repays_compiling", lambda _, rows: bool(asked.append(rows)))

    for worker in (None, "1/4"):
        planned(trivial.job_settings(people, tmp_path / "out", worker=worker))

    assert asked == [20, 5]


@pytest.mark.gpu
def test_a_gpu_and_a_cpu_make_the_same_rows(people, out, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    settings = trivial.job_settings(people, tmp_path / "gpu").model_copy(update={"device": "cuda"})

    assert generate(settings, QUIET, trivial.trivial_weights()) == Exit.DONE

    rows = [read_synthetic(folder).strings("image_id") for folder in (out, tmp_path / "gpu")]
    assert rows[0] == rows[1]


def test_a_part_of_the_train_rows_gives_all_sources_and_poses(people, tmp_path):
    part = subset_train(io.read_images(people), 0.5, 3).only("train").strings("image_id")

    run(people, tmp_path / "out", per_id=2, real_fraction=0.5, data_seed=3)

    made = read_synthetic(tmp_path / "out")
    assert len(part) == 6
    assert len(made) == 8
    assert set(made.strings("source_id")) <= set(part)
    assert set(made.strings("pose_id")) <= set(part)


def test_a_job_leaves_the_process_its_number_of_threads(people, tmp_path):
    before = torch.get_num_threads()

    run(people, tmp_path / "out", threads=before + 1)

    assert torch.get_num_threads() == before
