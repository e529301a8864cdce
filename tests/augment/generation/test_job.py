"""``augment generate`` in one process."""

import json
import re
import shlex
import signal
import socket
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from augment.cli import PROGRAM
from augment.generation import shards
from augment.generation.job import generate
from augment.generation.run_config import read_run_config
from augment.generation.settings import GenerateSettings
from augment.generation.status import look
from manifests import io, pixels
from manifests.runtime.console import Console, Exit, UserError
from manifests.synthetic import read_synthetic
from tests.helpers import trivial
from tests.helpers.generation import QUIET, UNLOADED, run, take_a_source_away


def test_a_finished_run_is_left_as_it_is_and_needs_no_network(people, out, capsys):
    before = trivial.files_of(out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}

    code = run(people, out, UNLOADED, Console())

    assert code == Exit.DONE
    assert capsys.readouterr().err.splitlines() == [
        f"{out}: already complete, 20 rows",
        f"to look at it: augment preview {out} --out preview.png",
    ]
    assert trivial.files_of(out) == before
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times


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
    event = json.loads(capsys.readouterr().err)
    assert (event["rows"], event["people"], event["shards"]) == (20, 4, 5)
    assert event["seconds"] > 0
    assert event["megabytes"] > 0


def test_per_id_20_begins_with_the_rows_of_per_id_10(people, tmp_path):
    images = []
    for per_id in (3, 6):
        run(people, tmp_path / f"by{per_id}", per_id=per_id)
        table = read_synthetic(tmp_path / f"by{per_id}").table.to_pylist()
        images.append({(row["image_id"], row["sha256"]) for row in table if row["k"] < 3})

    assert images[0] == images[1]
    assert len(images[0]) == 12


def test_an_image_is_the_same_whatever_the_size_of_its_shard(people, tmp_path):
    images = {}
    for size in ("auto", 20):
        out = tmp_path / str(size)
        run(people, out, rows_per_shard=size, per_id=5)
        images[size] = {
            row["image_id"]: row["sha256"] for row in read_synthetic(out).table.to_pylist()
        }

    assert read_run_config(tmp_path / "auto").num_shards == 10
    assert read_run_config(tmp_path / "20").num_shards == 1
    assert len(images[20]) == 20
    assert images["auto"] == images[20]


def test_a_run_that_was_begun_with_large_shards_goes_on_with_them(people, tmp_path):
    run(people, tmp_path / "out", rows_per_shard=12, worker="0/2")
    assert look(tmp_path / "out").shards_complete == 1

    run(people, tmp_path / "out", rows_per_shard="auto")

    assert read_run_config(tmp_path / "out").rows_per_shard == 12
    assert look(tmp_path / "out").finished


def suggested(said):
    (command,) = re.findall(r"^to look at it: (.*)$", said, re.MULTILINE)
    program, *arguments = shlex.split(command)
    assert program == "augment"
    return arguments


@pytest.mark.parametrize("purpose", ["training", "test-time"])
def test_a_finished_run_names_a_command_that_can_be_typed(tmp_path, monkeypatch, capsys, purpose):
    monkeypatch.chdir(tmp_path)
    kinds = {"training": {}, "test-time": {"split": "query"}}
    people = trivial.write_people(tmp_path / "people", **kinds[purpose])
    out = tmp_path / "an out"
    whole = {} if purpose == "training" else {"per_id": 10}
    assert run(people, out, console=Console(), purpose=purpose, **whole) == Exit.DONE

    assert PROGRAM.run(suggested(capsys.readouterr().err)) is Exit.DONE

    assert (tmp_path / "preview.png").is_file()


def test_a_run_with_failed_rows_ends_with_these(people, tmp_path, capsys):
    take_a_source_away(people)

    assert run(people, tmp_path / "out", console=Console()) == Exit.ROW_ERRORS

    assert "to look at it" not in capsys.readouterr().err


def test_a_run_says_first_which_weights_it_uses_and_under_what_terms(people, tmp_path, capsys):
    settings = trivial.job_settings(people, tmp_path / "out", per_id=1, weights="patn-sample")

    assert generate(settings, Console()) == Exit.DONE

    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("weights patn-sample; terms: none beyond this repository's licence;")


def test_a_stopped_run_says_what_is_kept(people, tmp_path, capsys):
    class Told(trivial.Trivial):
        """Is told to end at its fifth batch: two shards of two batches each are through."""

        count = 0

        def generate(self, condition, random, options):
            Told.count += 1
            if Told.count == 5:
                signal.raise_signal(signal.SIGTERM)
            return super().generate(condition, random, options)

    out = tmp_path / "out"
    code = run(people, out, trivial.trivial_weights(network=Told), Console())

    assert code == Exit.STOPPED_EARLY
    assert look(out).rows_complete == 8
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"{out}: stopped; 8 of 20 images are kept, the rest of a shard that was being made is made "
        "again; the same command goes on from here"
    )


def test_people_without_shoulders_and_hips_are_counted(people, tmp_path, capsys):
    images = io.read_images(people)
    joints = images.keypoints()
    joints[:3, 2] = np.nan
    io.write_images(trivial.table_of(images.table.to_pylist(), joints, images.root), people)

    run(people, tmp_path / "out", console=Console())

    assert "1 of 4 people have no image with both shoulders" in capsys.readouterr().err


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
    (tmp_path / "empty").mkdir()
    for dry_run in (False, True):
        with pytest.raises(UserError, match="found none of 12 source images that were looked for"):
            run(people, tmp_path / "new", root=tmp_path / "empty", dry_run=dry_run)


def test_failed_rows_are_counted_and_said_again_when_complete(people, tmp_path, capsys):
    take_a_source_away(people)

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
    path, away = take_a_source_away(people)
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
        text = data.decode(errors="replace")
        if name.endswith(".parquet"):
            table = pq.read_table(pa.BufferReader(data))
            # Any two letters may occur in the bytes of an image.
            rows = table.select([column for column in table.column_names if column != "image"])
            text = f"{rows.to_pylist()} {table.schema.metadata}"
        assert not host.search(text)
        assert str(tmp_path) not in text
        assert "20" + "26-" not in text


def test_two_runs_in_two_folders_are_the_same_bytes(people, out, tmp_path):
    run(people, tmp_path / "second", on_error="fail", worker="0/1")

    assert trivial.files_of(tmp_path / "second") == trivial.files_of(out)


def test_a_folder_with_none_of_the_sources_is_refused_and_the_right_one_goes_on(people, tmp_path):
    (tmp_path / "elsewhere").mkdir()

    with pytest.raises(UserError, match="elsewhere: found none of 12 source images that were"):
        run(people, tmp_path / "out", UNLOADED, root=tmp_path / "elsewhere")

    assert run(people, tmp_path / "out") == Exit.DONE


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


@pytest.mark.gpu
def test_a_gpu_and_a_cpu_make_the_same_rows(people, out, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    settings = trivial.job_settings(people, tmp_path / "gpu").model_copy(update={"device": "cuda"})

    assert generate(settings, QUIET, trivial.trivial_weights()) == Exit.DONE

    rows = [read_synthetic(folder).strings("image_id") for folder in (out, tmp_path / "gpu")]
    assert rows[0] == rows[1]


def test_a_job_leaves_the_process_its_number_of_threads(people, tmp_path):
    before = torch.get_num_threads()

    run(people, tmp_path / "out", threads=before + 1)

    assert torch.get_num_threads() == before
