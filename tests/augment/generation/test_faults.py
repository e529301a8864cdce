"""Runs that are killed, starved and disturbed: nothing lost, nothing double, the same bytes.

Children are forked from this process, which has everything imported: a kill costs milliseconds.
``AUGMENT_KILLS`` scales the number of kills (default 20; 100 for the record);
``-o junit_family=xunit1 --junitxml=FILE`` writes how many there were.
"""

import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from augment.generation.choices import Choices
from augment.generation.job import failed_shards, generate
from augment.generation.run_config import read_run_config
from manifests.centrality import CentralityFacts, with_centrality
from manifests.io import read_images, write_images
from manifests.runtime.console import Console, Exit, UserError
from manifests.synthetic import read_synthetic
from tests.helpers import trivial

NUM_KILLS = int(os.environ.get("AUGMENT_KILLS", "20"))
QUIET = Console(quiet=True)
NOBODY = 65534


class Slow(trivial.Trivial):
    """Takes 20 ms per batch."""

    def generate(self, condition, random, options):
        time.sleep(0.02)
        return super().generate(condition, random, options)


class Hurried(trivial.Trivial):
    """Takes 3 ms per batch."""

    def generate(self, condition, random, options):
        time.sleep(0.003)
        return super().generate(condition, random, options)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return trivial.write_people(tmp_path_factory.mktemp("people"), num_people=6)


def run(people, out, network=trivial.Trivial, **changes):
    settings = trivial.job_settings(people, out, **changes)
    return generate(settings, QUIET, trivial.trivial_weights(network=network))


@pytest.fixture(scope="module")
def straight(people, tmp_path_factory):
    """The files of a run that nobody disturbed: 30 rows in 8 shards."""
    out = tmp_path_factory.mktemp("straight") / "out"
    assert run(people, out) == Exit.DONE
    return trivial.files_of(out)


def forked(function: Callable[[], int]) -> int:
    """Run a function in a child process and return its number."""
    with warnings.catch_warnings():
        # From Python 3.12 on a warning: the parent has idle threads of libraries.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return child
    try:
        code = int(function())
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        code = Exit.REFUSED
    except BaseException:  # noqa: BLE001 - a child must never return into the parent's tests
        traceback.print_exc()
        code = Exit.BUG
    os._exit(code)


def ended(child: int) -> int:
    """Wait for a child and return its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def assert_complete(out, straight):
    """Hold a run against the plan and against the undisturbed run."""
    names = [f"data/part-{shard:06d}.parquet" for shard in range(8)]
    found = trivial.files_of(out)
    assert sorted(found) == sorted([*names, "manifest.parquet", "README.md", "_SUCCESS"])
    table = read_synthetic(out).table
    assert table.num_rows == 30
    keys = zip(table["person_id"].to_pylist(), table["k"].to_pylist(), strict=True)
    assert list(keys) == [(f"{person:04d}", k) for person in range(2, 8) for k in range(5)]
    assert found == straight


def kill_at(step: int, report: int | None = None) -> None:
    """Kill this process when it is about to change the file system for the ``step``-th time.

    Opening for writing, fsync, rename, link, remove and making a folder are steps; a kill at an
    fsync leaves half of the file. Every step before goes to the file ``report`` as a dot.
    """
    seen = 0
    fsync = os.fsync

    def count(handle: int | None = None) -> None:
        nonlocal seen
        if seen == step:
            if handle is not None and stat.S_ISREG(os.fstat(handle).st_mode):
                os.ftruncate(handle, os.fstat(handle).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1
        if report is not None:
            os.write(report, b".")

    def hook(event: str, arguments: tuple) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and arguments[1][0] in "wxa"
        if writes or event in {"os.rename", "os.link", "os.remove", "os.mkdir"}:
            count()

    def counted_fsync(handle: int) -> None:
        count(handle)
        fsync(handle)

    os.fsync = counted_fsync
    sys.addaudithook(hook)


def strike_at(name: str, moment: str, number: int) -> None:
    """Send this process a signal before, in the middle of, or after one step of the protocol.

    Args:
        name: The file whose publishing is the step.
        moment: ``before`` anything of it is written, in the ``middle`` when half of it is, or
            ``after`` it has its name, before that is made to last.
        number: The signal.
    """
    fsync = os.fsync
    seen: set[str] = set()

    def strike() -> None:
        if not seen:
            seen.add(name)
            os.kill(os.getpid(), number)

    def hook(event: str, arguments: tuple) -> None:
        # Written beside as ".NAME.<random>.tmp", and then renamed, or linked for run.json.
        if (
            moment == "before"
            and event == "open"
            and Path(str(arguments[0])).name.startswith(f".{name}.")
        ):
            strike()

    def watched_fsync(handle: int) -> None:
        file = Path(f"/proc/self/fd/{handle}").readlink()
        if moment == "middle" and file.name.startswith(f".{name}."):
            os.ftruncate(handle, os.fstat(handle).st_size // 2)
            strike()
        if moment == "after" and (file / name).exists():
            strike()
        fsync(handle)

    def watched_unlink(path, *arguments, **options):
        if moment == "after" and Path(path).name.startswith(f".{name}."):
            strike()
        return unlink(path, *arguments, **options)

    unlink = os.unlink
    os.fsync, os.unlink = watched_fsync, watched_unlink
    sys.addaudithook(hook)


STEPS = ["run.json", "part-000003.parquet", "manifest.parquet", "README.md", "_SUCCESS"]


@pytest.mark.parametrize("moment", ["before", "middle", "after"])
@pytest.mark.parametrize("name", STEPS)
def test_a_run_killed_before_in_and_after_each_step_of_the_protocol_equals_a_straight_run(
    people, tmp_path, straight, name, moment
):
    out = tmp_path / "out"

    def killed():
        strike_at(name, moment, signal.SIGKILL)
        return run(people, out)

    assert ended(forked(killed)) == -signal.SIGKILL

    place = out / ("data" if name.startswith("part") else "") / name
    assert place.exists() == (moment == "after")
    assert ended(forked(lambda: run(people, out))) == Exit.DONE
    assert_complete(out, straight)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("name", STEPS)
def test_a_run_told_to_end_at_any_step_never_ends_with_0(people, tmp_path, straight, name, moment):
    out = tmp_path / "out"

    def told():
        strike_at(name, moment, signal.SIGTERM)
        return run(people, out)

    assert ended(forked(told)) == Exit.STOPPED_EARLY
    assert ended(forked(lambda: run(people, out))) == Exit.DONE
    assert_complete(out, straight)


def test_a_run_killed_at_any_step_and_resumed_equals_a_straight_run(
    people, tmp_path, straight, record_property
):
    dots = tmp_path / "dots"

    def counted():
        with dots.open("xb") as file:
            kill_at(-1, file.fileno())
            return run(people, tmp_path / "counted")

    assert ended(forked(counted)) == Exit.DONE
    num_steps = dots.stat().st_size
    # run.json, 8 shards, manifest, card and mark: at least open, fsync and rename each.
    assert num_steps >= 3 * 12
    steps = np.unique(np.linspace(0, num_steps - 1, NUM_KILLS).astype(int)).tolist()
    record_property("steps", num_steps)
    record_property("kills", len(steps))
    for step in steps:
        out = tmp_path / f"out{step}"

        def killed(out=out, step=step):
            kill_at(step)
            return run(people, out)

        assert ended(forked(killed)) == -signal.SIGKILL
        assert ended(forked(lambda out=out: run(people, out))) == Exit.DONE
        assert_complete(out, straight)


CHOICES = (
    {"pose_choice": "balanced", "candidate_poses": 2},
    {"pose_choice": "complementary", "source": "each-camera"},
    {"source": "most-central"},
    {"source": "most-joints", "same_scale": True},
)


@pytest.mark.parametrize("chosen", CHOICES, ids=str)
def test_a_run_with_choices_killed_and_resumed_equals_a_straight_run(people, tmp_path, chosen):
    images = read_images(people)
    values = np.linspace(0.9, 0.1, len(images), dtype=np.float32)
    central = with_centrality(images, values, CentralityFacts("00", 1.0, 0))
    table = tmp_path / "central.parquet"
    write_images(central, table)
    choices = {"choices": Choices(**chosen)}
    assert run(table, tmp_path / "straight", **choices) == Exit.DONE
    expected = trivial.files_of(tmp_path / "straight")
    for step in (5, 17, 29):
        out = tmp_path / f"out{step}"

        def killed(out=out, step=step):
            kill_at(step)
            return run(table, out, **choices)

        assert ended(forked(killed)) == -signal.SIGKILL
        assert not (out / "_SUCCESS").exists()
        assert ended(forked(lambda out=out: run(table, out, **choices))) == Exit.DONE
        assert trivial.files_of(out) == expected


def test_workers_racing_on_all_shards_and_killed_at_random_equal_a_straight_run(
    people, tmp_path, straight, record_property
):
    order = np.random.default_rng(int.from_bytes(os.urandom(4)))
    kills, rounds = 0, 0
    while kills < NUM_KILLS:
        rounds += 1
        assert rounds <= 4 * NUM_KILLS, "the workers finish before they can be killed"
        out = tmp_path / f"out{rounds}"

        def start(out=out):
            return forked(lambda: run(people, out, Hurried))

        workers = [start() for _ in range(3)]
        while not (out / "_SUCCESS").exists() and kills < NUM_KILLS:
            time.sleep(order.uniform(0, 0.08))
            victim = order.integers(3)
            os.kill(workers[victim], signal.SIGKILL)
            code = ended(workers[victim])
            assert code in {-signal.SIGKILL, Exit.DONE}
            kills += code == -signal.SIGKILL
            workers[victim] = start()
        assert [ended(worker) for worker in workers] == [Exit.DONE] * 3
        assert_complete(out, straight)
    record_property("kills", kills)
    record_property("runs", rounds)


def test_workers_that_share_the_shards_equal_a_straight_run(people, tmp_path, straight):
    out = tmp_path / "out"

    workers = [
        forked(lambda index=index: run(people, out, Hurried, worker=f"{index}/3"))
        for index in range(3)
    ]

    assert [ended(worker) for worker in workers] == [Exit.DONE] * 3
    assert_complete(out, straight)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, Exit.STOPPED_EARLY),
        (signal.SIGHUP, Exit.STOPPED_EARLY),
        (signal.SIGINT, Exit.INTERRUPTED),
    ],
)
def test_a_signal_ends_the_job_within_seconds_and_loses_no_shard(
    people, tmp_path, straight, number, code
):
    out = tmp_path / "out"
    child = forked(lambda: run(people, out, Slow))
    while not (out / "data/part-000001.parquet").exists():
        time.sleep(0.005)

    began = time.monotonic()
    os.kill(child, number)

    assert ended(child) == code
    assert time.monotonic() - began < 5
    assert not (out / "_SUCCESS").exists()
    assert (out / "data/part-000001.parquet").exists()
    assert run(people, out) == Exit.DONE
    assert_complete(out, straight)


def test_a_full_disk_is_refused_and_the_rest_made_when_there_is_room(people, tmp_path, straight):
    out = tmp_path / "out"
    largest = max(len(data) for name, data in straight.items() if "part-" in name)

    def starved():
        # Some shards fit, some do not.
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1, largest - 1))
        return run(people, out)

    assert ended(forked(starved)) == Exit.REFUSED
    assert not list((out / "data").glob(".*"))
    assert not (out / "_SUCCESS").exists()
    assert run(people, out) == Exit.DONE
    assert_complete(out, straight)


@pytest.fixture
def small_disk(tmp_path, straight):
    """Give a file system with room for half of a run."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = f"size={sum(map(len, straight.values())) // 2}"
    mount = ["mount", "-t", "tmpfs", "-o", size, "none", folder]
    made = subprocess.run(mount, check=False, capture_output=True)
    if made.returncode:
        pytest.skip(f"cannot mount a tmpfs: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_runs_full_holds_whole_shards_only_and_goes_on_when_it_grows(
    people, small_disk, straight, capfd
):
    out = small_disk / "out"

    assert ended(forked(lambda: run(people, out))) == Exit.REFUSED

    assert "cannot be written (No space left on device)" in capfd.readouterr().err
    found = trivial.files_of(out)
    assert 0 < len(found) < len(straight)
    assert found == {name: straight[name] for name in found}
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    assert ended(forked(lambda: run(people, out))) == Exit.DONE
    assert_complete(out, straight)


def test_a_full_disk_is_told_in_one_sentence(people, tmp_path, capfd):
    def starved():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))
        return run(people, tmp_path / "out")

    assert ended(forked(starved)) == Exit.REFUSED
    said = capfd.readouterr().err
    assert said.startswith(f"error: {tmp_path}/out/data/part-000000.parquet: cannot be written (")
    assert said.count("\n") == 1


@pytest.fixture
def open_folder():
    """Give a folder that everybody can reach; pytest's own are private."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def powerless(function: Callable[[], int]) -> Callable[[], int]:
    """Return the function as somebody without rights would call it."""

    def call() -> int:
        if os.getuid() == 0:
            os.seteuid(NOBODY)
        return function()

    return call


@pytest.mark.parametrize("part", ["", "data"])
def test_a_read_only_folder_is_refused_and_resumed_later(open_folder, straight, part, capfd):
    people = trivial.write_people(open_folder / "people", num_people=6)
    out = open_folder / "out"
    out.mkdir()
    if part:
        assert run(people, out) == Exit.DONE
        for name in ("_SUCCESS", "data/part-000003.parquet"):
            (out / name).unlink()
    (out / part).chmod(0o555)

    assert ended(forked(powerless(lambda: run(people, out)))) == Exit.REFUSED

    said = capfd.readouterr().err
    assert "cannot be written (Permission denied)" in said
    assert said.count("\n") == 1
    (out / part).chmod(0o755)
    assert run(people, out) == Exit.DONE
    assert_complete(out, straight)


def test_a_finished_run_in_a_read_only_folder_is_complete(open_folder):
    people = trivial.write_people(open_folder / "people", num_people=6)
    out = open_folder / "out"
    assert run(people, out) == Exit.DONE
    out.chmod(0o555)

    assert ended(forked(powerless(lambda: run(people, out)))) == Exit.DONE


def test_a_shard_of_another_run_is_refused_and_left_alone(people, tmp_path, straight):
    out, other = tmp_path / "out", tmp_path / "other"
    run(people, out)
    run(people, other, seed=1)
    foreign_shard = out / "data/part-000002.parquet"
    shutil.copyfile(other / "data/part-000002.parquet", foreign_shard)
    (out / "_SUCCESS").unlink()
    foreign = foreign_shard.read_bytes()

    with pytest.raises(UserError, match=r"part-000002\.parquet: a shard of another run"):
        run(people, out)

    assert foreign_shard.read_bytes() == foreign
    foreign_shard.unlink()
    assert run(people, out) == Exit.DONE
    assert_complete(out, straight)


def test_a_shard_under_another_number_is_refused(people, tmp_path):
    out = tmp_path / "out"
    run(people, out)
    (out / "_SUCCESS").unlink()
    shutil.copyfile(out / "data/part-000002.parquet", out / "data/part-000003.parquet")

    with pytest.raises(UserError, match=r"part-000003.parquet: a shard of another run, its shard"):
        run(people, out)


@pytest.mark.parametrize("keep", [0, 3, 1_000, -1])
@pytest.mark.parametrize("finished", [True, False])
def test_a_truncated_shard_is_made_again(people, tmp_path, straight, keep, finished):
    out = tmp_path / "out"
    run(people, out)
    shard = out / "data/part-000004.parquet"
    shard.write_bytes(shard.read_bytes()[:keep])
    if not finished:
        (out / "_SUCCESS").unlink()

    assert run(people, out) == Exit.DONE

    assert_complete(out, straight)


def test_a_shard_that_vanished_from_a_finished_run_is_made_again(people, tmp_path, straight):
    out = tmp_path / "out"
    run(people, out)
    (out / "data/part-000007.parquet").unlink()

    assert run(people, out) == Exit.DONE

    assert_complete(out, straight)


LEFTOVERS = (".run.json.0.tmp", "data/.part-000001.parquet.0.tmp", ".manifest.parquet.1.tmp")


@pytest.mark.parametrize("missing", [(), ("data/part-000002.parquet",), ("_SUCCESS",)])
def test_killed_runs_leave_nothing_behind_once_the_run_is_complete(
    people, tmp_path, straight, missing
):
    out = tmp_path / "out"
    assert run(people, out) == Exit.DONE
    for name in LEFTOVERS:
        (out / name).write_bytes(b"half")
    for name in missing:
        (out / name).unlink()

    assert run(people, out) == Exit.DONE

    assert_complete(out, straight)


@pytest.mark.parametrize("moment", ["before", "middle", "after"])
def test_a_retry_killed_at_a_shard_and_retried_again_equals_a_straight_run(
    tmp_path, straight, moment
):
    people, out = trivial.write_people(tmp_path / "people", num_people=6), tmp_path / "out"
    source = people.parent / "0003_c1s1_000000_01.jpg"
    sound = source.read_bytes()
    source.write_bytes(sound[:-200])
    assert run(people, out) == Exit.ROW_ERRORS
    first, *others = failed_shards(out, read_run_config(out))
    source.write_bytes(sound)

    def killed():
        strike_at(f"part-{first:06d}.parquet", moment, signal.SIGKILL)
        return run(people, out, retry_failed=True)

    assert ended(forked(killed)) == -signal.SIGKILL

    # Taken back before anything is made again.
    assert not (out / "_SUCCESS").exists()
    assert failed_shards(out, read_run_config(out)) == [first, *others][moment == "after" :]
    assert ended(forked(lambda: run(people, out, retry_failed=True))) == Exit.DONE
    assert_complete(out, straight)


def test_the_steps_of_a_run_come_in_the_order_of_the_protocol(people, tmp_path):
    out, report = tmp_path / "out", tmp_path / "report"

    def told():
        names: list[str] = []

        def hook(event: str, arguments: tuple) -> None:
            if event in {"os.rename", "os.link"}:
                names.append(Path(arguments[1]).name)

        sys.addaudithook(hook)
        code = run(people, out)
        report.write_text("\n".join(names))
        return code

    assert ended(forked(told)) == Exit.DONE
    names = report.read_text().split("\n")
    shards = [f"part-{shard:06d}.parquet" for shard in range(8)]
    assert names == ["run.json", *shards, "manifest.parquet", "README.md", "_SUCCESS"]
    assert all(first != second for first, second in pairwise(names))
