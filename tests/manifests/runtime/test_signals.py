"""Signals that end a command early."""

from __future__ import annotations

import signal

import pytest

from manifests.runtime.console import Exit
from manifests.runtime.signals import Stopped, recording, stopping, stopping_when_checked


def test_a_recorded_signal_does_nothing_else_and_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with recording(signal.SIGTERM) as received:
        signal.raise_signal(signal.SIGTERM)
        assert received == [signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


SENT = pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGTERM, Exit.STOPPED_EARLY), (signal.SIGINT, Exit.INTERRUPTED)]
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
