"""Folders that one process at a time works in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from manifests.runtime.console import UserError
from manifests.runtime.one_process import alone_in


def in_a_child(work) -> int:
    """Do something in another process and return its exit code, 1 for a refusal."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except UserError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def enter(folder: Path) -> None:
    with alone_in(folder):
        pass


def test_another_process_is_kept_out_until_the_first_has_left(tmp_path):
    with alone_in(tmp_path):
        assert in_a_child(lambda: enter(tmp_path)) == 1
        with pytest.raises(UserError, match="another process is at work there; expected one at a"):
            enter(tmp_path)
        (tmp_path / "other").mkdir()
        assert in_a_child(lambda: enter(tmp_path / "other")) == 0
    assert in_a_child(lambda: enter(tmp_path)) == 0


def test_a_killed_process_leaves_nobody_out(tmp_path):
    def killed():
        with alone_in(tmp_path):
            os._exit(9)

    assert in_a_child(killed) == 9
    enter(tmp_path)


def test_where_there_are_no_locks_the_block_just_runs(tmp_path, monkeypatch):
    def without(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", without)
    with alone_in(tmp_path):
        enter(tmp_path)
