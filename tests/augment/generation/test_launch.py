"""``augment generate --launch``, as far as no cluster is needed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from augment.generation.choices import Choices, NewPeople
from augment.generation.job import generate
from augment.generation.launch import Launcher, LaunchSettings, launch
from augment.generation.ray_pool import connect
from augment.generation.run_config import read_run_config
from augment.generation.settings import SAMPLE_WEIGHTS, GenerateSettings
from manifests.runtime.command_line import arguments_of, parse
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.slurm import Slurm, submit
from tests.helpers import trivial

ROOT = Path(__file__).resolve().parents[3]
QUIET = Console(quiet=True)


def on_slurm(job=None, **changes):
    job = job or GenerateSettings(num_workers=3)
    return LaunchSettings(job=job, launcher=Launcher(launch="slurm", **changes))


def test_the_script_runs_the_same_command_without_the_launch_flags(capsys):
    arguments = [
        *("--launch", "slurm", "--num-workers", "3", "--print", "--slurm.gpus", "2"),
        *("--slurm.partition", "long", "--out", "my out", "--per-id", "4"),
    ]
    settings, _ = parse(LaunchSettings, "augment generate", "", arguments)

    assert launch(settings, Console(quiet=True, log_format="json")) == Exit.DONE

    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0] == "#!/bin/bash"
    assert {"#SBATCH --array=0-2", "#SBATCH --gres=gpu:2", "#SBATCH --partition=long"} <= set(lines)
    assert lines[-1] == (
        f"exec {sys.executable} -m augment.cli generate --out 'my out' --per-id 4 "
        "--quiet --log-format json"
    )
    assert said.err == ""


def test_showing_the_script_makes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    launch(on_slurm(print_script=True), QUIET)

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"images": Path("a b.parquet"), "weights": "mine", "real_fraction": 0.25, "seed": 7},
        {"batch_size": 8, "threads": "auto", "dry_run": True, "subsampling": "4:4:4"},
        {"choices": Choices(source="nearest", candidate_poses=4, same_scale=True)},
        {"choices": Choices(backgrounds="lacking"), "people": NewPeople(new_people=5)},
    ],
)
def test_the_words_of_settings_give_the_settings_again(changes):
    settings = GenerateSettings(**changes)

    found, _ = parse(GenerateSettings, "augment generate", "", arguments_of(settings))

    assert found == settings


def test_without_slurm_a_submission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(UserError, match="found no command 'sbatch' on this machine"):
        submit("#!/bin/bash\n", tmp_path / "logs", wait=False, console=QUIET)

    assert not list(tmp_path.iterdir())


def test_bad_input_is_refused_before_it_waits_in_the_queue(tmp_path):
    job = GenerateSettings(images=tmp_path / "none.parquet", num_workers=2)

    with pytest.raises(UserError, match=r"none\.parquet"):
        launch(on_slurm(job), QUIET, trivial.trivial_weights())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (on_slurm(GenerateSettings()), "--launch slurm: found no --num-workers"),
        (on_slurm(GenerateSettings(worker="0/2", num_workers=2)), "--worker: found '0/2' and"),
        (
            on_slurm(GenerateSettings(retry_failed=True, num_workers=2)),
            "--retry-failed: found 2 workers, expected a single one",
        ),
        (on_slurm(ray_address="a:1"), "--ray-address: found --launch slurm, expected --launch ray"),
        (LaunchSettings(launcher=Launcher(wait=True)), "--wait: found no --launch, expected"),
        (LaunchSettings(launcher=Launcher(print_script=True)), "--print: found no --launch"),
        (LaunchSettings(slurm=Slurm(gpus=0)), "--slurm: found no --launch"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        launch(settings, QUIET)


def test_a_dry_run_starts_no_worker(tmp_path):
    people = trivial.write_people(tmp_path / "people")
    job = trivial.job_settings(people, tmp_path / "out", dry_run=True)
    settings = LaunchSettings(job=job, launcher=Launcher(launch="ray", ray_address="none"))

    assert launch(settings, QUIET, trivial.trivial_weights()) == Exit.DONE

    assert not (tmp_path / "out").exists()


def test_without_ray_the_sentence_says_what_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)

    with (
        pytest.raises(UserError, match=re.escape('pip install "reid-augment[ray]" brings it')),
        connect(None, None, QUIET, gpus=False),
    ):
        pass


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("head", "Ray's address: found 'head', expected host:port"),
        ("127.0.0.1:1", r"Ray at 127\.0\.0\.1:1: no answer \(.*refused\)"),
    ],
)
def test_an_address_without_ray_is_refused_at_once(address, sentence, monkeypatch):
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")

    with pytest.raises(UserError, match=sentence), connect(address, None, QUIET, gpus=False):
        pass


def test_the_environment_says_where_ray_is_unless_the_flag_does(monkeypatch):
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")

    for flag, address in ((None, "127.0.0.1:1"), ("127.0.0.1:2", "127.0.0.1:2")):
        with (
            pytest.raises(UserError, match=f"Ray at {address}: no answer"),
            connect(flag, None, QUIET, gpus=False),
        ):
            pass


def test_workers_of_the_real_command_find_out_who_they_are_and_equal_one_process(tmp_path):
    out, straight = tmp_path / "out", tmp_path / "straight"
    # The made-up people as well are drawn by whoever comes first.
    command = [
        *(sys.executable, "-m", "augment.cli", "generate", "--out", str(out), "--per-id", "1"),
        *("--rows-per-shard", "4", "--batch-size", "4", "--threads", "1", "--device", "cpu"),
        *("--precision", "float32"),
    ]
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SLURM_")
        and name not in {"RANK", "WORLD_SIZE", "JOB_COMPLETION_INDEX"}
    } | {"PYTHONPATH": str(ROOT)}
    workers = [
        (["--worker", "0/3"], {}),
        ([], {"RANK": "1", "WORLD_SIZE": "3"}),
        (["--num-workers", "3"], {"JOB_COMPLETION_INDEX": "2"}),
    ]

    started = [
        subprocess.Popen(
            [*command, *arguments], env=clean | environ, stderr=subprocess.PIPE, text=True
        )
        for arguments, environ in workers
    ]
    said = [process.communicate()[1] for process in started]

    assert [process.returncode for process in started] == [0, 0, 0], said
    origins = ("--worker", "RANK and WORLD_SIZE", "JOB_COMPLETION_INDEX")
    for index, (text, origin) in enumerate(zip(said, origins, strict=True)):
        assert f"worker {index} of 3 (from {origin})" in text
    settings = trivial.job_settings(
        tmp_path / "out-people/images.parquet",
        straight,
        per_id=1,
        batch_size=4,
        weights=SAMPLE_WEIGHTS,
    )
    assert generate(settings, QUIET) == Exit.DONE
    assert trivial.files_of(out) == trivial.files_of(straight)
    assert read_run_config(out) == read_run_config(straight)


@pytest.mark.parametrize("page", ["README.md", "docs/cluster.md"])
def test_the_kubernetes_manifests_start_as_many_workers_as_they_tell_them(page):
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed (the extra 'ray' brings it)")
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)

    manifest = yaml.safe_load(block)

    assert (manifest["apiVersion"], manifest["kind"]) == ("batch/v1", "Job")
    assert manifest["metadata"]["name"]
    spec = manifest["spec"]
    assert spec["completionMode"] == "Indexed"
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    assert container["image"]
    mounted = [mount["name"] for mount in container["volumeMounts"]]
    assert mounted == [volume["name"] for volume in pod["volumes"]]
    name, command, *arguments = container["command"]
    assert (name, command) == ("augment", "generate")
    settings, _ = parse(LaunchSettings, "augment generate", "", arguments)
    assert settings.job.num_workers == spec["completions"] == spec["parallelism"]
    (mount,) = container["volumeMounts"]
    assert {settings.job.images.parent, settings.job.out.parent} == {Path(mount["mountPath"])}
