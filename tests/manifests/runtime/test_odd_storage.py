"""Storage without hard links, folders that cannot be synced, streams that are closed or full."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from augment.cli import PROGRAM
from manifests import pixels
from manifests.datasets.csv_table import read_csv
from manifests.runtime import storage
from manifests.runtime.console import UserError
from tests.conftest import ROOT

SAYS = "from manifests.runtime.console import *; "


@pytest.fixture
def no_links(monkeypatch):
    def refuse(source, target):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.usefixtures("no_links")
def test_without_hard_links_a_file_is_created_whole_and_once(tmp_path):
    assert storage.create(tmp_path / "run.json", b"first")
    assert not storage.create(tmp_path / "run.json", b"second")
    assert (tmp_path / "run.json").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory) -> Path:
    """Return a library that takes hard links and the flushing of folders from a process."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc on this machine")
    source = ROOT / "tests" / "helpers" / "no_links.c"
    library = tmp_path_factory.mktemp("preloaded") / "no_links.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return library


CREATES = """
import sys
from pathlib import Path
from manifests.runtime.storage import create
for number in range(60):
    if create(Path(f"{number}.json"), sys.argv[1].encode() * 1000):
        print(number)
"""


@pytest.mark.parametrize("lacking", [{}, {"LACKS_RENAMES": "1"}])
def test_without_links_one_of_several_processes_creates_a_file(lacking, preloaded, tmp_path):
    environment = os.environ | {"LD_PRELOAD": str(preloaded), "PYTHONPATH": str(ROOT)} | lacking
    running = [
        subprocess.Popen(
            [sys.executable, "-c", CREATES, name], cwd=tmp_path, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for name in "abc"
    ]  # fmt: skip
    said = [process.communicate() for process in running]
    assert [errors for _, errors in said] == ["", "", ""]
    owner = {int(n): name for name, (out, _) in zip("abc", said, strict=True) for n in out.split()}
    assert sum(len(out.split()) for out, _ in said) == 60
    files = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert files == {f"{number}.json": name * 1000 for number, name in owner.items()}


def test_without_links_and_flushed_folders_a_sample_is_drawn(preloaded, tmp_path):
    environment = os.environ | {"LD_PRELOAD": str(preloaded), "PYTHONPATH": str(ROOT)}
    environment |= {"LACKS_RENAMES": "1"}
    probe = "import os; os.link('a', 'b')"
    refused = subprocess.run(
        [sys.executable, "-c", probe], check=False, env=environment, capture_output=True
    )
    assert b"PermissionError" in refused.stderr
    arguments = ["sample", "--people", "1", "--test-people", "0", "--out", "s", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "augment.cli", *arguments],
        check=False, cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "s" / "sample.json").is_file()


def test_a_folder_that_cannot_be_synced_is_no_error_and_a_broken_disk_is(tmp_path, monkeypatch):
    def failing(number):
        def fsync(handle):
            raise OSError(number, os.strerror(number))

        return fsync

    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    storage.sync_folder(tmp_path)
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        storage.sync_folder(tmp_path)


def ended(command: str, redirection: str) -> subprocess.CompletedProcess[str]:
    line = f"{sys.executable} -c '{SAYS}{command}' {redirection}"
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)


GOES_ON = 'exit_with(lambda: Console().say("hello") or Exit.ROW_ERRORS)'
SHOWS = 'exit_with(lambda: Console().show("table" * 9999) or Exit.DONE)'


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_a_job_goes_on_without_standard_error_and_ends_with_its_code(redirection):
    assert ended(GOES_ON, redirection).returncode == 3


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
def test_a_result_that_cannot_be_written_is_refused_in_one_sentence(redirection):
    found = ended(SHOWS, redirection)
    assert found.returncode == 2
    assert found.stderr.startswith("error: standard output cannot be written")
    assert found.stderr.count("\n") == 1


def test_no_file_takes_the_number_of_a_stream_that_is_closed():
    opens = 'exit_with(lambda: Exit(2 * (os.open("/dev/zero", 0) < 3)))'
    assert ended(opens, "<&- 2>&- >&-").returncode == 0


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("--help >&-", 2, "error: standard output cannot be written (it is closed)"),
        ("sample --help >&-", 2, "error: standard output cannot be written (it is closed)"),
        ("sample --help | true", 0, ""),
        ("sample --foo 2>&-", 2, ""),
    ],
)
def test_the_parser_of_flags_ends_so_too(line, code, said):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = f"{sys.executable} -m augment.cli {line}"
    found = subprocess.run(
        ["sh", "-c", command], env=environment, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr.strip()) == (code, said)


LONG = "x" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ["index", LONG, "--out", "t.parquet"],
        ["status", LONG],
        ["verify", LONG],
        ["export", LONG, "--to", "folder", "--out", "files"],
        ["export", "gone", "--to", "folder", "--out", LONG],
        ["preview", LONG, "--out", "a.png"],
        ["sample", "--out", LONG],
        ["detect", "--images", LONG, "--out", "j.parquet"],
        ["transfer", "a.jpg", "--pose", "b.jpg", "--images", LONG, "--out", "c.png"],
    ],
)
def test_a_name_too_long_for_the_file_system_is_refused_in_one_sentence(
    arguments, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        PROGRAM.main(arguments)
    told = capsys.readouterr().err
    assert (left.value.code, told.count("\n")) == (2, 1), told
    assert told.startswith("error: ")


def test_fifos_are_no_images_and_no_tables(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(pixels.PixelError, match="pipe: found no regular file, expected an image"):
        pixels.read(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe: found no regular file, expected a CSV"):
        read_csv(tmp_path / "pipe", ",")
