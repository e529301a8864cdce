"""The driver of actors, on a made-up Ray whose actors answer when they are waited for."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest

from augment.generation import ray_pool
from augment.generation.ray_pool import RayPool
from manifests.runtime.console import Console, Exit, Stopped, UserError


class RayError(Exception):
    """What dies with its process."""


class RayTaskError(RayError):
    """What a call raised."""


class Ray:
    """As much of Ray as the driver uses: a reference is the call itself."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def wait(self, references, num_returns, timeout):
        del timeout
        return references[:num_returns], references[num_returns:]

    def get(self, reference):
        return reference()


def remote(function: Callable) -> SimpleNamespace:
    return SimpleNamespace(remote=lambda *arguments: partial(function, *arguments))


def started(begin: Callable, make: Callable) -> RayPool:
    """Return a pool of one actor."""
    actor = SimpleNamespace(begin=remote(begin), make=remote(make))
    return RayPool(Ray(), lambda actor_class: [actor], 1, Console(quiet=True))


def signalled(answer: object, number: int) -> object:
    """Answer just after the driver got a signal."""
    os.kill(os.getpid(), number)
    return answer


SIGNALS = [(signal.SIGTERM, Exit.STOPPED_EARLY), (signal.SIGINT, Exit.INTERRUPTED)]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_while_the_last_shard_is_awaited_is_not_lost(number, code):
    workers = started(lambda: "run", lambda shard: signalled(4, number) if shard == 2 else 4)
    assert workers.begin(object) == "run"
    made = workers.make([0, 1, 2])

    assert [next(made), next(made), next(made)] == [4, 4, 4]
    with pytest.raises(Stopped) as stopped:
        next(made)

    assert stopped.value.code == code


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_while_the_run_begins_is_not_lost(number, code):
    workers = started(lambda: signalled("run", number), lambda shard: 4)

    with pytest.raises(Stopped) as stopped:
        workers.begin(object)

    assert stopped.value.code == code


def test_a_shard_that_sees_five_actors_die_is_named_when_all_others_are_made(monkeypatch):
    monkeypatch.setattr(ray_pool, "PAUSE_S", 0.0)
    monkeypatch.setattr(ray_pool, "POLL_S", 0.0)
    begun = []

    def make(shard):
        begun.append(shard)
        if shard == 1:
            raise RayError("killed for its memory")
        return 4

    workers = started(lambda: "run", make)
    workers.begin(object)
    made = []

    with pytest.raises(UserError, match=r"shards 1: their workers died 5 times.*its memory"):
        made.extend(workers.make(range(4)))

    assert made == [4, 4, 4]
    assert sorted(begun) == [0, 1, 1, 1, 1, 1, 2, 3]
