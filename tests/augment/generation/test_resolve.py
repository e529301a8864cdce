"""From settings and environment to what a run is."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from augment.generation import job as job_module
from augment.generation import resolve as resolve_module
from augment.generation.job import job_of, open_sampler
from augment.generation.resolve import plan_of, resolve
from augment.generation.run_config import read_run_config
from augment.generation.verify import VerifySettings, verify
from manifests import io
from manifests.runtime.console import Exit, UserError
from manifests.subset import subset_train
from manifests.synthetic import read_synthetic
from tests.helpers import trivial
from tests.helpers.generation import QUIET, UNLOADED, run


def planned(settings):
    """Return the job of these settings, not begun yet."""
    plan = plan_of(settings, UNLOADED)
    return job_of(settings, resolve(settings, plan, UNLOADED, None), plan, UNLOADED)


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


@pytest.mark.parametrize("name", ["cpu", "cpu:0"])
def test_a_worker_computes_on_the_very_device_that_it_was_given(people, tmp_path, name):
    settings = trivial.job_settings(people, tmp_path / "out").model_copy(update={"device": name})
    job = planned(settings)

    sampler = open_sampler(job, trivial.trivial_weights())

    assert job.run.content.sampling.device == "cpu"
    assert sampler.device == torch.device(name)


def test_a_worker_computes_on_the_gpu_of_its_local_rank(people, tmp_path, monkeypatch):
    job = planned(trivial.job_settings(people, tmp_path / "out"))
    monkeypatch.setenv("LOCAL_RANK", "77")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 100)

    # As many as no machine has: the refusal tells which one was meant.
    with pytest.raises(UserError, match="--device cuda:77: "):
        open_sampler(replace(job, device="cuda"), UNLOADED)


@pytest.mark.parametrize(("has", "precision"), [(True, "bf16"), (False, "float32")])
def test_the_precision_is_that_which_the_processor_has(
    people, tmp_path, monkeypatch, has, precision
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has})

    job = planned(trivial.job_settings(people, tmp_path / "out", precision="auto"))

    assert job.run.content.sampling.precision == precision


def test_whether_to_compile_is_decided_by_the_share_of_one_worker(people, tmp_path, monkeypatch):
    shares = []
    monkeypatch.setattr(
        resolve_module, "repays_compiling", lambda _, rows: shares.append(rows) or False
    )

    for worker in (None, "1/4"):
        planned(trivial.job_settings(people, tmp_path / "out", worker=worker))

    assert shares == [20, 5]


def test_poses_may_come_from_another_table_without_its_images(people, tmp_path):
    poses = trivial.made_up(num_people=3, first=60, root=tmp_path)
    io.write_images(poses, tmp_path / "poses.parquet")

    run(people, tmp_path / "out", poses=tmp_path / "poses.parquet")

    used = set(read_synthetic(tmp_path / "out").strings("pose_id"))
    assert used
    assert used <= set(poses.strings("image_id"))


def test_a_part_of_the_train_rows_gives_all_sources_and_poses(people, tmp_path):
    part = subset_train(io.read_images(people), 0.5, 3).only("train").strings("image_id")

    run(people, tmp_path / "out", per_id=2, real_fraction=0.5, data_seed=3)

    made = read_synthetic(tmp_path / "out")
    assert len(part) == 6
    assert len(made) == 8
    assert set(made.strings("source_id")) <= set(part)
    assert set(made.strings("pose_id")) <= set(part)


def test_a_run_that_another_worker_creates_in_between_is_joined_and_no_table_hashed_twice(
    people, out, monkeypatch
):
    hashed = []
    digest = resolve_module.table_digest
    monkeypatch.setattr(
        resolve_module, "table_digest", lambda images: hashed.append(images) or digest(images)
    )
    # This worker looks before the other creates the run, and again when it is refused.
    read, answers = job_module.read_run_config, [None]
    monkeypatch.setattr(
        job_module, "read_run_config", lambda out: answers.pop() if answers else read(out)
    )

    assert run(people, out, UNLOADED, batch_size="auto", rows_per_shard="auto") == Exit.DONE

    assert len(hashed) == 1
