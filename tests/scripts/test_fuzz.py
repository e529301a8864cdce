"""Damaged inputs end in a sentence, and the script that makes them notices where they do not."""

from __future__ import annotations

import os
import sys

import pytest

from manifests.runtime.console import UserError
from scripts import fuzz
from scripts.fuzz_files import Reader, made_up_readers

NUMBER = 270
"""Ten inputs for each reader."""


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    return made_up_readers(tmp_path_factory.mktemp("valid") / "files")


@pytest.fixture(scope="module", autouse=True)
def _watching():
    sys.addaudithook(fuzz.watch)


def test_hundreds_of_damaged_inputs_are_read_or_refused_in_one_sentence(readers, tmp_path):
    counts, faults = fuzz.run(readers, range(NUMBER), 0, tmp_path, forks=False)
    assert faults == []
    assert counts.total() == NUMBER
    by_reader = {reader.name: counts[reader.name, fuzz.REFUSED] for reader in readers}
    never_refused = {name for name, number in by_reader.items() if not number}
    # Of a log to go on, what is damaged is left out.
    assert never_refused <= {"log to go on", "errors of a shard"}


def _raises(here):
    if (here / "a").read_bytes() != b"valid":
        raise KeyError("a")


def _ends(here):
    if (here / "a").read_bytes() != b"valid":
        os._exit(139)


def _writes(here):
    if (here / "a").read_bytes() != b"valid":
        (here.parent / "elsewhere").write_bytes(b"")


def _hangs(here):
    is_valid = (here / "a").read_bytes() == b"valid"
    while not is_valid:
        pass


def _refuses(here):
    if (here / "a").read_bytes() != b"valid":
        raise UserError("a: found\nanother, expected this\n")


@pytest.mark.parametrize(
    ("read", "forks", "said"),
    [
        (_raises, False, "KeyError: 'a'"),
        (_ends, True, "the process ended with 139"),
        (_writes, False, "wrote outside its folder"),
        (_hangs, False, "took more than 0.3 s of a core"),
    ],
)
def test_a_fault_of_a_reader_is_found(read, forks, said, tmp_path, monkeypatch):
    if read is _hangs:
        monkeypatch.setattr(fuzz, "CPU_SECONDS", 0.3)
    reader = Reader("planted", {"a": b"valid"}, read, "a")
    counts, faults = fuzz.run([reader], range(2), 0, tmp_path, forks=forks)
    assert counts == {("planted", fuzz.FAULT): 2}
    assert [said in fault.text for fault in faults] == [True, True]


def test_a_refusal_is_no_fault(tmp_path):
    reader = Reader("planted", {"a": b"valid"}, _refuses, "a")
    counts, faults = fuzz.run([reader], range(2), 0, tmp_path, forks=False)
    assert (counts, faults) == ({("planted", fuzz.REFUSED): 2}, [])
    assert "2" in fuzz.table(counts)
