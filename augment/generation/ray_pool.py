"""A pool of Ray actors that make numbered shards; the only file that knows Ray.

The driver keeps the queue and never lets Ray repeat a call: with retries of Ray's own a lost node
leaves calls that never return. A dead actor is started again by Ray, says what its run is, and gets
shards again; the shards it held go back to the queue. A shard made twice is harmless: same bytes.
"""

from __future__ import annotations

import os
import socket
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from manifests.compute.external_weights import optional_module
from manifests.runtime.console import Console, Exit, Stopped, UserError
from manifests.runtime.signals import stopping_when_checked

EXTRA: Final = 'pip install "reid-augment[ray]"'
IN_FLIGHT: Final = 2
"""Shards per actor: one computes while the one before is encoded and written."""
MAX_TRIES: Final = 5
"""Deaths of an actor that a shard may see before it is set aside."""
PATIENCE_S: Final = 120.0
"""How long no actor may be alive before the driver gives up."""
CONNECT_S: Final = 10.0
POLL_S: Final = 0.5
PAUSE_S: Final = 1.0
"""Between two attempts to reach an actor that is being restarted."""


class ShardActor(Protocol):
    """What an actor runs."""

    def begin(self) -> str:
        """Begin the run or join it; return it, the same on every actor."""
        ...

    def make(self, shard: int) -> int:
        """Make a shard and return its number of rows."""
        ...


@dataclass(eq=False, slots=True)
class _ActorState:
    """One actor as the driver sees it."""

    actor: Any
    ready: bool = False
    """It has begun the run since it last died."""
    beginning: bool = False
    """The call that begins the run is in flight."""
    begin_at: float = 0.0
    """Earliest time of the next such call, by the monotonic clock."""
    num_shards: int = 0
    """In flight."""


@dataclass(frozen=True, slots=True)
class _Call:
    actor_state: _ActorState
    shard: int | None
    """None for the call that begins."""


class RayPool:
    """Actors that make shards, and the queue before them."""

    def __init__(
        self, ray: Any, start_actors: Callable[..., list[Any]], count: int, console: Console
    ) -> None:
        self.count = count
        self._ray = ray
        self._start_actors = start_actors
        self._console = console
        self._actors: list[_ActorState] = []
        self._calls: dict[Any, _Call] = {}
        self._waiting: deque[int] = deque()
        self._deaths: Counter[int] = Counter()
        self._set_aside: list[int] = []
        self._run: str | None = None
        self._last_alive = time.monotonic()
        self._last_death = "none has answered yet"

    def begin(self, actor_class: type[ShardActor], *arguments: object) -> str:
        """Start the actors and return the run, as soon as the first of them has begun it.

        Args:
            actor_class: A class, made on every actor.
            arguments: For its initialiser. Small ones: from 100 kB on Ray keeps them on a node
                that may be lost.

        Raises:
            UserError: If an actor refuses.
            Stopped: After a signal, or if no actor answers for a while.
        """
        self._actors = [_ActorState(actor) for actor in self._start_actors(actor_class, *arguments)]
        self._last_alive = time.monotonic()
        with stopping_when_checked() as check:
            while self._run is None:
                check()
                self._step()
        return self._run

    def make(self, shards: Iterable[int]) -> Generator[int]:
        """Let the actors make shards; give the number of rows of each as it is done.

        Raises:
            UserError: If a shard cannot be made, or its actor died again and again; the others
                are made before.
            Stopped: After a signal, or if no actor is alive for a while.
        """
        self._waiting.extend(shards)
        with stopping_when_checked() as check:
            while self._waiting or any(call.shard is not None for call in self._calls.values()):
                check()
                yield from self._step()
        if self._set_aside:
            raise UserError(
                f"shards {', '.join(map(str, sorted(self._set_aside)))}: their workers died "
                f"{MAX_TRIES} times, the last one so: {self._last_death}; expected a machine with "
                "room for them (less --batch-size?)"
            )

    def _step(self) -> list[int]:
        """Send what can be sent and wait a moment for answers; return the rows that were made."""
        self._begin_actors()
        self._dispatch()
        if not self._calls:
            time.sleep(POLL_S)
        answered = []
        if self._calls:
            answered, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=POLL_S)
        made = [rows for reference in answered if (rows := self._answer(reference)) is not None]
        if any(actor_state.ready for actor_state in self._actors):
            self._last_alive = time.monotonic()
        elif time.monotonic() - self._last_alive > PATIENCE_S:
            self._console.say(
                f"no worker has been alive for {PATIENCE_S:.0f} s ({self._last_death})",
                event="no_workers",
            )
            raise Stopped(Exit.STOPPED_EARLY)
        return made

    def _begin_actors(self) -> None:
        """Begin the run on every actor that is new or was restarted."""
        now = time.monotonic()
        for state in self._actors:
            if not state.ready and not state.beginning and now >= state.begin_at:
                state.beginning = True
                self._calls[state.actor.begin.remote()] = _Call(state, None)

    def _dispatch(self) -> None:
        for already in range(IN_FLIGHT):
            for actor_state in self._actors:
                if self._waiting and actor_state.ready and actor_state.num_shards == already:
                    shard = self._waiting.popleft()
                    actor_state.num_shards += 1
                    self._calls[actor_state.actor.make.remote(shard)] = _Call(actor_state, shard)

    def _answer(self, reference: Any) -> int | None:
        """Take one answer in; return the rows of a shard that was made."""
        call = self._calls.pop(reference)
        actor_state, shard = call.actor_state, call.shard
        if shard is None:
            actor_state.beginning = False
        else:
            actor_state.num_shards -= 1
        errors = self._ray.exceptions
        try:
            answer = self._ray.get(reference)
        except errors.RayTaskError as error:
            # The actor's own code failed; what dies with its process is below.
            if isinstance(error.cause, UserError):
                raise UserError(str(error.cause)) from error
            raise
        except errors.RayError as error:
            self._lose(actor_state, shard, error)
            return None
        if shard is None:
            actor_state.ready = True
            self._run = answer
            return None
        return answer

    def _lose(self, actor_state: _ActorState, shard: int | None, error: Exception) -> None:
        actor_state.ready = False
        actor_state.begin_at = time.monotonic() + PAUSE_S
        self._last_death = (str(error).strip() or type(error).__name__).splitlines()[0]
        if shard is None:
            return
        self._deaths[shard] += 1
        if self._deaths[shard] >= MAX_TRIES:
            self._set_aside.append(shard)
        else:
            self._waiting.appendleft(shard)
        self._console.say(
            f"a worker died with shard {shard} ({self._last_death})",
            event="worker_died",
            shard=shard,
            deaths=self._deaths[shard],
        )


@contextmanager
def connect(
    address: str | None, num_workers: int | None, console: Console, *, gpus: bool
) -> Generator[RayPool]:
    """Connect to Ray, and leave it when the block ends; its actors end with that.

    Args:
        address: ``host:port``; else ``$RAY_ADDRESS``; else a Ray is started on this machine.
        num_workers: How many actors; by default one per GPU of the cluster, or else per CPU.
        console: Where the address and the number of actors are reported.
        gpus: Use the GPUs, if the cluster has some.

    Raises:
        UserError: If Ray is not installed, does not answer, or has nothing to work on.
        Stopped: If a signal came while connecting.
    """
    ray = optional_module("ray", "Ray", EXTRA)
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    _connect(ray, address)
    try:
        has = ray.cluster_resources()
        kind = "GPU" if gpus and has.get("GPU") else "CPU"
        count = int(has.get(kind, 0)) if num_workers is None else num_workers
        if count < 1:
            raise UserError(f"--num-workers: found {count} (Ray: {has}), expected at least 1")
        where = "on this machine" if address == "local" else f"at {address}"
        console.say(
            f"Ray {where}: {count} workers, a {kind} for each",
            event="ray",
            address=address,
            workers=count,
        )

        def start_actors(actor_class: type[ShardActor], *arguments: object) -> list[Any]:
            actor = ray.remote(actor_class).options(
                num_cpus=1,
                num_gpus=1 if kind == "GPU" else 0,
                max_restarts=-1,
                max_task_retries=0,
                max_concurrency=IN_FLIGHT,
            )
            return [actor.remote(*arguments) for _ in range(count)]

        yield RayPool(ray, start_actors, count, console)
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    # Ray reports on its users unless this is set.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == "local":
        # Seconds; Ray's own 30 are few on a machine with other work.
        os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
        own = {"include_dashboard": False}
    else:
        _check_listening(address)
        own = {}
    try:
        with warnings.catch_warnings():
            # Ray's hints to its own users.
            warnings.simplefilter("ignore")
            ray.init(address=address, logging_level="ERROR", log_to_driver=False, **own)
    except SystemExit as error:
        # What Ray does with SIGTERM while it connects.
        raise Stopped(Exit.STOPPED_EARLY) from error
    except Exception as error:
        # A node that does not start in time raises a plain Exception.
        if not isinstance(error, (ConnectionError, ValueError, OSError)) and (
            type(error) is not Exception
        ):
            raise
        reason = str(error).strip().splitlines()[0]
        where = "on this machine" if address == "local" else f"at {address}"
        raise UserError(f"Ray {where}: no answer ({reason}); expected its head") from error


def _check_listening(address: str) -> None:
    """Refuse an address where nothing listens: Ray itself would try for many minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"Ray's address: found '{address}', expected host:port")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"Ray at {address}: no answer ({error}); expected the address that 'ray start --head' "
            "prints"
        ) from error
