"""``augment generate`` into an object store: the same bytes as on a disk, whatever happens."""

import importlib.util
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from augment.generation import manifest, shards
from augment.generation.export import ExportSettings, export
from augment.generation.job import generate
from augment.generation.preview import PreviewSettings, preview
from augment.generation.resolve import Weights
from augment.generation.run_config import read_run_config
from augment.generation.settings import GenerateSettings
from augment.generation.status import StatusSettings, look
from augment.generation.verify import VerifySettings, problems, verify
from manifests import io
from manifests.runtime import storage
from manifests.runtime.command_line import parse
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.storage import storage_path
from manifests.synthetic import read_synthetic
from reid.data.dataset import load_training_set, select
from reid.training.train import TrainSettings, recipe_of
from tests.helpers import trivial

QUIET = Console(quiet=True)
NUM_WRITES = 1 + 5 + 3
"""``run.json``, five shards, manifest, card, mark."""
NAMES = sorted(
    [
        "README.md",
        "_SUCCESS",
        *(f"data/part-{shard:06d}.parquet" for shard in range(5)),
        "manifest.parquet",
        "run.json",
    ]
)


class Breaking(MemoryFileSystem):
    """A store whose network goes away before or after one of the writes."""

    protocol = "breaking"
    writes_left = -1
    loses_answer = False
    is_deaf = False

    def cat_file(self, path, start=None, end=None, **kwargs):
        if self.is_deaf and start is not None and path.endswith(".parquet"):
            raise ConnectionError("the network is gone")
        return super().cat_file(path, start, end, **kwargs)

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        self._write(lambda: super(Breaking, self).pipe_file(path, value, mode=mode))

    def put_file(self, lpath, rpath, **kwargs):
        self._write(lambda: super(Breaking, self).put_file(lpath, rpath))

    def _write(self, write):
        Breaking.writes_left -= 1
        gone = Breaking.writes_left == -1
        if not gone or Breaking.loses_answer:
            write()
        if gone:
            raise ConnectionError("the network is gone")


fsspec.register_implementation("breaking", Breaking, clobber=True)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return trivial.write_people(tmp_path_factory.mktemp("people"), missing=[4])


@pytest.fixture(scope="module")
def straight(people, tmp_path_factory):
    """The folder of an undisturbed local run of 20 rows in 5 shards."""
    out = tmp_path_factory.mktemp("straight") / "out"
    assert run(people, out) == Exit.DONE
    return out


@pytest.fixture
def out(people):
    """A finished run in a store."""
    assert run(people, storage_path("memory://runs/first")) == Exit.DONE
    return storage_path("memory://runs/first")


@pytest.fixture(autouse=True)
def empty_stores():
    yield
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def run(people, out, weights=None, **changes):
    settings = trivial.job_settings(people, out, **changes)
    return generate(settings, QUIET, weights or trivial.trivial_weights())


def never(device):
    pytest.fail("the network was loaded")


ROOT = Path(__file__).resolve().parents[1]
SLOW_WORKER = (sys.executable, "-m", "tests.helpers.stopped_worker")
UNLOADED = Weights("trivial", "0" * 64, (128, 64), never)


def assert_same(out, straight):
    """Hold a run in a store against the plan and against the undisturbed local run."""
    store, path = out.file_system()
    start = len(path.strip("/")) + 1
    found = {name.strip("/")[start:]: store.cat_file(name) for name in store.find(path)}
    assert sorted(found) == NAMES
    assert read_synthetic(out).table.num_rows == 20
    del found["run.json"]
    assert found == trivial.files_of(straight)


def test_a_run_in_a_store_is_the_same_bytes_as_on_a_disk(out, straight):
    assert_same(out, straight)


def test_a_finished_run_is_left_as_it_is_and_needs_no_network(people, out):
    before = {name: file.created for name, file in MemoryFileSystem.store.items()}

    assert run(people, out, UNLOADED) == Exit.DONE
    assert {name: file.created for name, file in MemoryFileSystem.store.items()} == before


@pytest.mark.parametrize("loses_answer", [False, True])
@pytest.mark.parametrize("step", range(NUM_WRITES))
def test_a_run_that_loses_its_store_at_any_write_goes_on(
    people, straight, monkeypatch, step, loses_answer
):
    out = storage_path("breaking://runs/first")
    monkeypatch.setattr(Breaking, "loses_answer", loses_answer)
    monkeypatch.setattr(Breaking, "writes_left", step)
    written = step + loses_answer

    # A run.json that arrived is found there: only its answer was lost.
    if step or not loses_answer:
        with pytest.raises(UserError, match=r"cannot be written \(the network is gone\)"):
            run(people, out)
        assert len(MemoryFileSystem.store) == written

    assert run(people, out) == Exit.DONE
    assert_same(out, straight)


def test_the_writes_of_a_run_come_in_the_order_of_the_protocol(out):
    names = [name.removeprefix("/runs/first/") for name in MemoryFileSystem.store]

    parts = [f"data/part-{shard:06d}.parquet" for shard in range(5)]
    assert names == ["run.json", *parts, "manifest.parquet", "README.md", "_SUCCESS"]


def test_workers_share_a_run_in_a_store(people, straight):
    out = storage_path("memory://runs/first")

    for index in (2, 0, 1):
        assert run(people, out, worker=f"{index}/3") == Exit.DONE

    assert_same(out, straight)


def test_another_run_is_refused_with_the_field_that_differs(people, out, straight):
    with pytest.raises(UserError, match=r"memory://runs/first: belongs .*content\.seed: 0, now 1"):
        run(people, out, seed=1)

    assert_same(out, straight)


def test_a_folder_of_a_store_that_holds_something_else_is_refused(people):
    MemoryFileSystem().pipe_file("/runs/first/thesis.tex", b"years")

    with pytest.raises(UserError, match=r"found 'thesis\.tex' and no run\.json"):
        run(people, storage_path("memory://runs/first"))

    assert list(MemoryFileSystem.store) == ["/runs/first/thesis.tex"]


def test_a_shard_of_another_run_is_refused_and_left_alone(people, out):
    other = storage_path("memory://runs/second")
    run(people, other, seed=1)
    foreign = shards.shard_file(other, 2).read_bytes()
    MemoryFileSystem().pipe_file("/runs/first/data/part-000002.parquet", foreign)
    shards.withdraw(out)

    with pytest.raises(UserError, match=r"part-000002\.parquet: a shard of another run"):
        run(people, out)

    assert shards.shard_file(out, 2).read_bytes() == foreign


@pytest.mark.parametrize("keep", [0, 3, 1_000, -1])
def test_a_damaged_shard_is_made_again(people, out, straight, keep):
    path = shards.shard_file(out, 3)
    MemoryFileSystem().pipe_file("/runs/first/data/part-000003.parquet", path.read_bytes()[:keep])
    assert look(out).shards_damaged == 1

    assert run(people, out) == Exit.DONE

    assert_same(out, straight)


def test_a_shard_that_cannot_be_read_is_not_taken_for_a_damaged_one(people, monkeypatch):
    out = storage_path("breaking://runs/first")
    run(people, out)
    monkeypatch.setattr(Breaking, "is_deaf", True)
    problem = r"part-000000\.parquet: cannot be read \(the network is gone\)"

    with pytest.raises(UserError, match=problem):
        look(out)
    with pytest.raises(UserError, match=problem):
        run(people, out)
    with pytest.raises(UserError, match=r"manifest\.parquet: cannot be read"):
        read_synthetic(out)


def test_finalising_again_changes_nothing(out, straight):
    card = (out / "README.md").read_text()

    for _ in range(2):
        assert manifest.finalise(out, read_run_config(out), card) == shards.read_success(
            out, read_run_config(out)
        )

    assert_same(out, straight)


def test_failed_rows_are_made_again_on_demand(tmp_path, straight):
    people = trivial.write_people(tmp_path / "people", missing=[4])
    source = people.parent / "0004_c2s1_000001_01.jpg"
    away = source.rename(source.with_suffix(".away"))
    out = storage_path("memory://runs/first")
    assert run(people, out) == Exit.ROW_ERRORS
    assert look(out).rows_failed > 0
    away.rename(source)

    assert run(people, out, retry_failed=True) == Exit.DONE

    assert_same(out, straight)


def test_status_and_verify_read_a_run_in_a_store(people, out):
    assert look(out).text() == "finished: 5 of 5 shards, 20 of 20 rows\n"
    assert verify(VerifySettings(out=out), QUIET) == Exit.DONE
    shards.shard_file(out, 1).unlink()
    MemoryFileSystem().pipe_file("/runs/first/data/part-000077.parquet", b"x")

    unexpected, missing = problems(out, read_run_config(out))
    assert unexpected == "memory://runs/first/data/part-000077.parquet: no shard of this run"
    assert missing.startswith("memory://runs/first/data/part-000001.parquet: missing; the same")


def test_status_of_nothing_is_refused():
    with pytest.raises(UserError, match="memory://runs/nowhere: no such folder; expected the OUT"):
        look(storage_path("memory://runs/nowhere"))


def test_export_and_preview_read_a_run_in_a_store(people, out, tmp_path):
    export(ExportSettings(run=out, to="folder", out=tmp_path / "files"), QUIET)
    preview(PreviewSettings(run=out, out=tmp_path / "sheet.png", rows=3), QUIET)

    assert len(list((tmp_path / "files").rglob("*.jpg"))) == 20
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size[0] > 300


def test_images_are_read_from_a_store_as_from_a_disk(out, straight):
    rows = np.random.default_rng(0).permutation(20)

    read = [list(read_synthetic(folder).read_bytes(rows)) for folder in (out, straight)]

    assert read[0] == read[1]
    assert len(set(read[0])) > 1


def test_an_unfinished_run_in_a_store_is_not_read(people):
    run(people, storage_path("memory://runs/first"), worker="0/2")

    with pytest.raises(UserError, match="memory://runs/first: has no _SUCCESS"):
        read_synthetic(storage_path("memory://runs/first"))


def test_made_up_people_of_a_run_in_a_store_are_drawn_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Drawing them takes a while: these are used as if they had been drawn before.
    table = trivial.write_people(tmp_path / "first-people")
    settings = GenerateSettings(
        out=storage_path("memory://runs/first"), device="cpu", threads=1, batch_size=2, per_id=2
    )

    assert generate(settings, QUIET, trivial.trivial_weights()) == Exit.DONE

    assert [path.name for path in tmp_path.iterdir()] == ["first-people"]
    sources = io.read_images(table).strings("image_id")
    assert set(read_synthetic(settings.out).strings("source_id")) <= set(sources)


def test_reid_trains_on_a_run_in_a_store_as_on_one_on_a_disk(people, out, straight, tmp_path):
    loaded = []
    for folder in (out, straight):
        settings = TrainSettings(images=people, out=tmp_path, synthetic=folder)
        images, synthetic = io.read_images(people), read_synthetic(folder)
        selection = select(images, synthetic, real_fraction=1, num_validation_people=0, data_seed=0)
        data = load_training_set(selection, synthetic, (32, 64))
        loaded.append((recipe_of(settings), data.pixels.tobytes(), data.people))

    assert loaded[0] == loaded[1]
    assert data.num_synthetic == 20


@pytest.mark.parametrize(
    ("kind", "field", "arguments"),
    [
        (GenerateSettings, "out", ["--out"]),
        (StatusSettings, "out", []),
        (VerifySettings, "out", []),
        (PreviewSettings, "run", []),
        (ExportSettings, "run", ["--to", "folder", "--out", "files"]),
        (TrainSettings, "synthetic", ["--images", "i", "--out", "o", "--synthetic"]),
    ],
)
def test_commands_take_a_path_or_a_url(kind, field, arguments):
    for text in ("runs/first", "s3://bucket/run"):
        found, _ = parse(kind, "command", "", [*arguments, text])
        assert getattr(found, field) == storage_path(text)
    with pytest.raises(UserError, match="found no folder, expected a URL like s3://bucket/run"):
        parse(kind, "command", "", [*arguments, "s3://"])


# A real S3 server on this machine.


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of an S3 server with a bucket ``lab``; the environment leads to it."""
    for package in ("s3fs", "moto", "flask", "flask_cors"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package '{package}' is not installed (extra 'test')")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("server") / "log").open("wb")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=log, stderr=log)
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }.items():
            environment.setenv(name, value)
        try:
            wait_for(lambda: answers(port) or process.poll() is not None, "the server to answer")
            assert process.poll() is None, Path(log.name).read_text()
            fsspec.filesystem("s3").mkdir("lab")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()
            log.close()


def answers(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def wait_for(happened, what):
    """Wait until something has happened, five minutes at most: machines can be busy."""
    end = time.monotonic() + 300
    while not happened():
        assert time.monotonic() < end, f"waited for {what}"
        time.sleep(0.02)


def test_s3_a_worker_killed_while_it_works_and_the_same_command_again(
    people, straight, server, tmp_path
):
    out = storage_path("s3://lab/killed/run")
    # The first is killed; the second hurries.
    commands = [[*SLOW_WORKER, people, str(out), seconds] for seconds in ("0.5", "0")]

    worker = subprocess.Popen(commands[0], cwd=ROOT)
    wait_for(shards.shard_file(out, 1).is_file, "the second shard")
    worker.kill()
    assert worker.wait() == -signal.SIGKILL
    state = look(out)
    assert 2 <= state.shards_complete < 5
    assert (state.finished, state.shards_damaged) == (False, 0)
    assert subprocess.run(commands[1], check=False, cwd=ROOT).returncode == Exit.DONE

    assert_same(out, straight)
    assert verify(VerifySettings(out=out), QUIET) == Exit.DONE


def test_s3_a_truncated_shard_is_made_again_and_read(people, straight, server):
    out = storage_path("s3://lab/truncated")
    assert run(people, out) == Exit.DONE
    path = shards.shard_file(out, 2)
    fsspec.filesystem("s3").pipe_file(str(path), path.read_bytes()[:1_000])

    assert look(out).shards_damaged == 1
    assert run(people, out) == Exit.DONE

    assert_same(out, straight)
    read = [list(read_synthetic(folder).read_bytes(np.arange(20))) for folder in (out, straight)]
    assert read[0] == read[1]


def test_s3_of_many_creators_one_creates(server):
    created = []
    path = storage_path("s3://lab/raced/run.json")

    def try_it(number):
        created.append(storage.create(path, b"%d" % number))

    threads = [threading.Thread(target=try_it, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(created) == [False] * 7 + [True]
    with pytest.raises(OSError, match="pre-conditions"):
        fsspec.filesystem("s3").pipe_file(str(path), b"late", mode="create")


def refusal_of(people, url):
    with pytest.raises(UserError) as refusal:
        run(people, storage_path(url), UNLOADED)
    text = str(refusal.value)
    assert text.startswith(url)
    assert text.endswith(
        "expected a bucket that exists and credentials that may read, write and list it"
    )
    assert "\n" not in text
    return text


def test_s3_a_missing_bucket_is_told_in_one_sentence(people, server):
    text = refusal_of(people, "s3://nowhere/run")

    assert "s3://nowhere/run/run.json: cannot be written (The specified bucket does not" in text


def test_s3_refused_credentials_are_told_in_one_sentence(people, server):
    reset = f"{server}/moto-api/reset-auth"
    # From now on every request needs a user that the server knows.
    as_text = {"Content-Type": "text/plain"}
    request = urllib.request.Request(reset, b"0", as_text, method="POST")
    urllib.request.urlopen(request).close()
    try:
        text = refusal_of(people, "s3://lab/refused")
    finally:
        request = urllib.request.Request(reset, b"1e9", as_text, method="POST")
        urllib.request.urlopen(request).close()

    assert "Forbidden" in text or "InvalidAccessKeyId" in text


def test_s3_missing_credentials_are_told_in_one_sentence(people, server, monkeypatch, tmp_path):
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()

    text = refusal_of(people, "s3://lab/unknown")

    s3fs.S3FileSystem.clear_instance_cache()
    assert "cannot be read (Unable to locate credentials)" in text


def test_s3_a_server_that_is_gone_is_told_in_one_sentence(people, server, monkeypatch):
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()

    text = refusal_of(people, "s3://lab/gone")

    s3fs.S3FileSystem.clear_instance_cache()
    assert "127.0.0.1:9" in text
