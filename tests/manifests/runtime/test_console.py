"""What a command says while it works."""

import fcntl
import io
import json
import os
import pty
import struct
import sys
import termios
import time

import pytest

from manifests.runtime.console import Console


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that stands still unless it is moved: a list of its one time."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def said_by(console, clock, *, seconds_per_item, total=100, start=0):
    with console.progress("training", total, "step", start) as bar:
        for _ in range(start, total):
            clock[0] += seconds_per_item
            bar.advance()


def test_off_a_terminal_a_line_comes_after_10_s_and_then_every_30_s_with_the_time_left(
    clock, capsys
):
    said_by(Console(), clock, seconds_per_item=0.5)
    assert capsys.readouterr().err.splitlines() == [
        "training: 20 of 100 (2.0 step/s, about 40 s left)",
        "training: 80 of 100 (2.0 step/s, about 10 s left)",
    ]


def test_slow_steps_are_said_in_seconds_each(clock, capsys):
    said_by(Console(), clock, seconds_per_item=12.5, total=2000, start=1998)
    assert capsys.readouterr().err.splitlines()[0] == (
        "training: 1,999 of 2,000 (12.5 s/step, about 12 s left)"
    )


def test_a_run_that_goes_on_counts_its_own_speed_alone(clock, capsys):
    said_by(Console(log_format="json"), clock, seconds_per_item=1.0, total=100, start=85)
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert (line["done"], line["rate"], line["seconds_left"]) == (95, 1.0, 5.0)


def test_a_loop_that_has_done_nothing_yet_says_nothing(clock, capsys):
    with Console().progress("training", 100, "step") as bar:
        clock[0] += 60.0
        bar.advance(0)
    assert not capsys.readouterr().err


def test_on_a_terminal_a_bar_says_speed_and_time_left(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stderr", Terminal())
    with Console().progress("training", 3, "step") as bar:
        for _ in range(3):
            time.sleep(0.15)
            bar.advance()
        shown = sys.stderr.getvalue()
    assert "training:  67%" in shown
    assert "2/3 [00:00<00:00" in shown
    assert "step/s]" in shown


@pytest.mark.parametrize(("columns", "shows"), [(0, False), (80, True)])
def test_a_terminal_without_columns_has_lines_in_the_place_of_bars(monkeypatch, columns, shows):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(ours, "rb"), os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        assert Console().shows_bars is shows


def test_a_quiet_command_says_nothing(clock, capsys):
    said_by(Console(quiet=True), clock, seconds_per_item=20)
    assert capsys.readouterr().err == ""
