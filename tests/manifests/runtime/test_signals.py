"""Signals that end a command early."""

from __future__ import annotations

import errno
import importlib
import io
import signal
import time
from contextlib import suppress

import pytest

from augment.cli import PROGRAM
from manifests.people import dataset
from manifests.runtime import command_line
from manifests.runtime.console import Console, Exit, Stopped
from manifests.runtime.signals import recording, stopping, stopping_when_checked


def test_a_recorded_signal_does_nothing_else_and_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with recording(signal.SIGTERM) as received:
        signal.raise_signal(signal.SIGTERM)
        assert received == [signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


SENT = pytest.mark.parametrize(
    ("sent", "code"),
    [
        (signal.SIGTERM, Exit.STOPPED_EARLY),
        (signal.SIGHUP, Exit.STOPPED_EARLY),
        (signal.SIGINT, Exit.INTERRUPTED),
    ],
)


@SENT
def test_a_signal_stops_at_once(sent, code):
    with pytest.raises(Stopped) as stopped, stopping():
        signal.raise_signal(sent)
    assert stopped.value.code == code


@SENT
def test_a_signal_stops_where_it_is_looked_for(sent, code):
    def work(check):
        check()
        signal.raise_signal(sent)
        passed.append("before the check")
        check()
        passed.append("after the check")

    passed = []
    with pytest.raises(Stopped) as stopped, stopping_when_checked() as check:
        work(check)
    assert stopped.value.code == code
    assert passed == ["before the check"]


def test_a_signal_that_nobody_looked_for_stops_at_the_end():
    with pytest.raises(Stopped), stopping_when_checked():
        signal.raise_signal(signal.SIGTERM)


def test_what_is_ignored_from_the_start_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping(), stopping_when_checked() as check:
            signal.raise_signal(signal.SIGHUP)
            check()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_within_a_finaliser_stops_all_the_same(capsys):
    class Finalised:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    def work():
        thing = Finalised()
        del thing
        for _ in range(10_000):
            time.sleep(0.001)
        pytest.fail("it went on to its end")

    with pytest.raises(Stopped), stopping():
        work()
    assert capsys.readouterr().err == ""


def test_a_signal_that_somebody_swallows_stops_at_the_end():
    def work():
        with suppress(BaseException):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped), stopping():
        work()


@SENT
def test_every_command_ends_with_the_code_of_the_signal(sent, code, capsys, monkeypatch):
    def told(settings, console):
        signal.raise_signal(sent)

    monkeypatch.setattr(dataset, "sample", told)
    with pytest.raises(SystemExit) as left:
        PROGRAM.main(["sample", "--out", "nowhere"])
    how = "interrupted" if sent is signal.SIGINT else "stopped"
    assert left.value.code == code
    assert capsys.readouterr().err == f"{how}; the same command goes on from here\n"


def test_a_signal_while_modules_are_imported_ends_the_command_before_it_begins(monkeypatch, capsys):
    imported = []

    def importing(name):
        signal.raise_signal(signal.SIGTERM)
        # Modules by halves may break the process as it leaves.
        imported.append(importlib.import_module(name))
        return imported[-1]

    monkeypatch.setattr(command_line, "import_module", importing)
    monkeypatch.setattr(dataset, "sample", lambda *_: pytest.fail("it began"))
    with pytest.raises(SystemExit) as left:
        PROGRAM.main(["sample", "--out", "nowhere"])
    assert left.value.code == Exit.STOPPED_EARLY
    assert imported


def test_a_command_goes_on_to_its_end_after_its_terminal_was_closed(monkeypatch):
    class Closed(io.StringIO):
        def isatty(self):
            return True

        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("sys.stderr", Closed())
    console = Console()
    with console.progress("work", 2) as bar:
        console.say("half of it is done")
        bar.advance()
