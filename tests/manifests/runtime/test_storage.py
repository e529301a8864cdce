"""Local folders and folders of a store, in the one language of ``manifests.runtime.storage``."""

import errno
import os
import sys
import threading
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pydantic import ValidationError

from manifests.runtime import run_record, storage
from manifests.runtime.console import UserError
from manifests.runtime.object_store import ObjectStorePath
from manifests.runtime.settings import Frozen
from manifests.runtime.storage import StoragePathFlag, storage_path


class Unconditional(MemoryFileSystem):
    """A store that refuses conditions, as some that speak S3 do; somebody may be faster."""

    protocol = "unconditional"
    faster: bytes | None = None

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        if mode == "create":
            raise OSError(errno.ENOSYS, "A header you provided is not implemented")
        super().pipe_file(path, value)
        if self.faster is not None:
            super().pipe_file(path, self.faster)


class Refusing(MemoryFileSystem):
    """A store whose library has exceptions of its own."""

    protocol = "refusing"

    class RefusalError(Exception):
        pass

    def info(self, path, **kwargs):
        raise self.RefusalError("Unable to locate credentials\nmore that nobody reads")


class Cut(MemoryFileSystem):
    """A store whose connection breaks half way."""

    protocol = "cut"

    def cat_file(self, path, start=None, end=None, **kwargs):
        data = super().cat_file(path, start, end)
        return data if start is None else data[:-1]


for kind in (Unconditional, Refusing, Cut):
    fsspec.register_implementation(kind.protocol, kind, clobber=True)


@pytest.fixture(autouse=True)
def empty_stores():
    yield
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    return tmp_path / "run" if request.param == "local" else storage_path("memory://places/run")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("runs/first", Path("runs/first")),
        ("/runs/a:b", Path("/runs/a:b")),
        ("file:///runs/first", Path("/runs/first")),
        ("s3://bucket/run/", ObjectStorePath("s3://bucket/run")),
        ("S3://Bucket/Run", ObjectStorePath("s3://Bucket/Run")),
        (Path("x"), Path("x")),
    ],
)
def test_a_path_is_local_and_a_url_is_in_a_store(text, expected):
    assert storage_path(text) == expected


@pytest.mark.parametrize("text", ["s3://", "memory:///", "simplecache::s3://bucket/run"])
def test_a_url_without_a_folder_of_one_store_is_refused(text):
    with pytest.raises(UserError, match="expected"):
        storage_path(text)


def test_a_place_is_a_setting_that_survives_json():
    class Settings(Frozen):
        out: StoragePathFlag

    for text in ("runs/first", "s3://bucket/run"):
        settings = Settings(out=storage_path(text))
        assert settings.model_dump(mode="json") == {"out": text}
        assert Settings.from_json(settings.to_json()) == settings
    with pytest.raises(ValidationError, match="found no folder"):
        Settings(out="s3://")


def test_a_kind_of_store_without_its_package_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)

    with pytest.raises(UserError, match=r"^gs://bucket/run: found no package for gs://") as refusal:
        storage_path("gs://bucket/run").exists()

    assert "\n" not in str(refusal.value)


def test_an_unknown_kind_of_store_is_refused():
    with pytest.raises(UserError, match="found nowhere://, expected a folder or a URL"):
        storage_path("nowhere://bucket/run").is_file()


def test_an_answer_of_the_store_is_one_sentence():
    with pytest.raises(UserError) as refusal:
        storage_path("refusing://bucket/run").is_file()

    assert str(refusal.value) == (
        "refusing://bucket/run: cannot be read (Unable to locate credentials); expected a bucket "
        "that exists and credentials that may read, write and list it"
    )


def test_files_and_folders_are_told_apart(folder):
    with storage.replacing(folder / "data" / "a") as file:
        file.write(b"abc")

    kinds = [
        (path.exists(), path.is_file(), path.is_dir())
        for path in (folder, folder / "data", folder / "data" / "a", folder / "b")
    ]
    assert kinds == [(True, False, True)] * 2 + [(True, True, False), (False, False, False)]
    assert [path.name for path in folder.iterdir()] == ["data"]
    assert list((folder / "data").iterdir()) == [folder / "data" / "a"]
    assert (folder / "data" / "a").parent == folder / "data"


def test_a_file_is_read_whole_and_in_parts(folder):
    data = bytes(range(256)) * 400
    with storage.replacing(folder / "a") as file:
        file.write(data)

    assert (folder / "a").read_bytes() == data
    with (folder / "a").open("rb") as file:
        assert file.seek(-300, 2) == len(data) - 300
        assert file.read(100) == data[-300:-200]
        assert file.tell() == len(data) - 200
        assert file.read() == data[-200:]
        assert file.read() == b""
        file.seek(5)
        file.seek(2, 1)
        assert file.read(3) == data[7:10]


def test_a_missing_file_is_told_as_such(folder):
    for read in ("read_bytes", "read_text", "open", "unlink"):
        with pytest.raises(FileNotFoundError):
            getattr(folder / "a", read)()
    (folder / "a").unlink(missing_ok=True)


def test_a_file_whose_writer_fails_does_not_appear(folder):
    with pytest.raises(RuntimeError), storage.replacing(folder / "a") as file:  # noqa: PT012
        file.write(b"half")
        raise RuntimeError

    assert not (folder / "a").exists()
    assert storage.unpublished(folder) == []


def test_a_full_temporary_folder_is_told_in_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))

    with (
        pytest.raises(UserError, match=r"a: cannot be made ready for its upload in .*TMPDIR"),
        storage.replacing(storage_path("memory://places/a")),
    ):
        pass


def test_a_file_is_replaced_and_removed(folder):
    for data in (b"first", b"second"):
        with storage.replacing(folder / "a") as file:
            file.write(data)
    assert (folder / "a").read_text() == "second"

    (folder / "a").unlink()

    assert not (folder / "a").exists()


def test_a_file_is_created_once(folder):
    created = [storage.create(folder / "run.json", data) for data in (b"first", b"second")]

    assert created == [True, False]
    assert (folder / "run.json").read_bytes() == b"first"


def test_of_many_creators_on_a_disk_one_creates(tmp_path):
    created = []
    folder = tmp_path / "run"

    def try_it(number):
        created.append(storage.create(folder / "run.json", b"%d" % number))

    threads = [threading.Thread(target=try_it, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(created) == [False] * 7 + [True]
    assert (folder / "run.json").read_bytes() in [b"%d" % number for number in range(8)]


def test_a_store_without_conditions_is_read_back(monkeypatch):
    folder = storage_path("unconditional://places/run")
    assert storage.create(folder / "first", b"mine")
    monkeypatch.setattr(Unconditional, "faster", b"theirs")

    assert not storage.create(folder / "second", b"mine")
    monkeypatch.setattr(Unconditional, "faster", b'{"config": {"seed": 1}}')
    with pytest.raises(UserError, match=r"belongs to another run \(seed: 1, now 0\)"):
        run_record.write(folder, {"seed": 0})


def test_a_broken_connection_is_not_the_end_of_a_file():
    with storage.replacing(storage_path("cut://places/a")) as file:
        file.write(b"abcdef")

    with pytest.raises(UserError, match="found 5 bytes from byte 0 on, expected 6"):
        storage_path("cut://places/a").open().read()


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for found in (Path(), tmp_path, Path("/")):
        with (
            pytest.raises(UserError, match="found a folder, expected the name of a file"),
            storage.replacing(found) as file,
        ):
            file.write(b"never")


def test_a_link_stays_and_what_is_no_file_is_left_alone(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "far" / "file")
    with storage.replacing(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "file").read_bytes() == b"new"
    (tmp_path / "far" / "file").chmod(0o600)
    with storage.replacing(tmp_path / "far" / "file") as file:
        file.write(b"for its owner alone")
    assert (tmp_path / "far" / "file").stat().st_mode & 0o777 == 0o600
    (tmp_path / "round").symlink_to(tmp_path / "round")
    with (
        pytest.raises(UserError, match="round: cannot be written"),
        storage.replacing(tmp_path / "round") as file,
    ):
        file.write(b"never")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to(os.devnull)
    for name in ("pipe", "null"):
        with (
            pytest.raises(UserError, match="found a device or a pipe, expected the name of a file"),
            storage.replacing(tmp_path / name) as file,
        ):
            file.write(b"never")
    assert (tmp_path / "pipe").is_fifo()


def test_a_file_that_cannot_be_created_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"run\.json: cannot be written \(No space left on device"):
        storage.create(tmp_path / "run.json", b"{}")
    assert not list(tmp_path.iterdir())
