#!/usr/bin/env python
"""Damaged inputs for every reader: each is read, or refused in one sentence.

Small valid files are made up, damaged (bits, blocks, text, entries of JSON, columns of Parquet) and
read in this process, from a seed: the same command makes the same inputs. An input that ends in
another error than a ``UserError``, in a warning, after ten seconds of a core or with a file written
outside its folder is a fault; its files are kept. Blocks of inputs run in processes of their own,
so that a crash of the interpreter is one fault too. Exits with 1 if there is any. From the root:

    .venv/bin/python -m scripts.fuzz --count 3000 --keep faults
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from manifests.runtime.console import UserError, one_line
from scripts.fuzz_damage import damaged
from scripts.fuzz_files import Reader, made_up_readers

CPU_SECONDS: Final = 10
SECONDS: Final = 120
"""After which a reader hangs; the slowest takes a tenth of a second on an idle machine."""
_LONGEST: Final = 20_000
BLOCK: Final = 1000
"""Inputs of one process."""
SLOW_EVERY: Final = 8

ACCEPTED: Final = "accepted"
REFUSED: Final = "refused"
FAULT: Final = "FAULT"


@dataclass(frozen=True, slots=True)
class Fault:
    """What went wrong with one input."""

    number: int
    reader: str
    text: str


class Hang(BaseException):
    """A reader took too long."""


def outcome(reader: Reader, here: Path) -> tuple[str, str]:
    """Read files and return what came of it, with the text of a refusal or of a fault."""
    try:
        with _bounded():
            reader.read(here)
    except UserError as error:
        text = one_line(str(error))
        return (REFUSED, text) if 0 < len(text) < _LONGEST else (FAULT, f"of no length: {text}")
    except Hang:
        return FAULT, f"took more than {CPU_SECONDS} s of a core, or waited for {SECONDS} s"
    except BaseException:  # noqa: BLE001 - whatever it is, it is what is searched for
        return FAULT, traceback.format_exc()
    return ACCEPTED, ""


@contextmanager
def _bounded() -> Generator[None]:
    def ring(*_: object) -> None:
        raise Hang

    timers = ((signal.SIGALRM, signal.ITIMER_REAL, SECONDS),
              (signal.SIGPROF, signal.ITIMER_PROF, CPU_SECONDS))  # fmt: skip
    for number, timer, seconds in timers:
        signal.signal(number, ring)
        signal.setitimer(timer, seconds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        for number, timer, _ in timers:
            signal.setitimer(timer, 0)
            signal.signal(number, signal.SIG_DFL)


Tried = tuple[str, str, str]
"""Reader, outcome, text."""


def check_valid(reader: Reader, here: Path) -> None:
    """Check that a reader takes its files as they are: else it refused whatever comes.

    Raises:
        ValueError: If it does not.
    """
    write_files(reader.files, here)
    found, text = outcome(reader, here)
    shutil.rmtree(here)
    if found != ACCEPTED:
        raise ValueError(f"{reader.name} does not take valid files: {text}")


def write_files(files: Mapping[str, bytes], here: Path) -> None:
    """Write files into a new folder."""
    for name, data in files.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(data)


def reader_of(readers: Sequence[Reader], number: int) -> Reader:
    """Return the reader of an input: they take turns, slow ones in one of ``SLOW_EVERY`` rounds.

    >>> slow = Reader("s", {}, print, "", is_slow=True)
    >>> quick = Reader("q", {}, print, "")
    >>> "".join(reader_of([quick, slow], number).name for number in range(10))
    'qqqqqqqqsq'
    """
    quick = [reader for reader in readers if not reader.is_slow]
    slow = [reader for reader in readers if reader.is_slow]
    place = number % (SLOW_EVERY * len(quick) + len(slow))
    turns = SLOW_EVERY * len(quick)
    return quick[place % len(quick)] if place < turns else slow[place - turns]


def try_one(readers: Sequence[Reader], number: int, seed: int, scratch: Path) -> Tried:
    """Make the input of a number, read it and return (reader, outcome, text)."""
    rng = random.Random(f"{seed}:{number}")
    reader = reader_of(readers, number)
    here = scratch / f"input-{number}"
    data = damaged(reader.files[reader.damaged], rng, reader.damaged)
    write_files({**reader.files, reader.damaged: data}, here)
    before = set(scratch.iterdir())
    _ALLOWED[:] = [f"{here.resolve()}/"]
    found, text = outcome(reader, here)
    _ALLOWED.clear()
    unexpected = set(scratch.iterdir()) - before
    if unexpected or _WRITTEN:
        found, text = FAULT, f"wrote outside its folder: {unexpected or _WRITTEN}"
        _WRITTEN.clear()
    if found != FAULT:
        shutil.rmtree(here, ignore_errors=True)
    return reader.name, found, text


_WRITTEN: Final[list[str]] = []
_ALLOWED: Final[list[str]] = []
_WRITES: Final = {"os.mkdir": 0, "os.rename": 1, "os.remove": 0, "os.rmdir": 0, "os.link": 1}


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Note files that Python opens for writing, makes, renames or removes elsewhere.

    An audit hook, which a process keeps until its end.
    """
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & 3
    if not _ALLOWED or not (writes or event in _WRITES):
        return
    path, folder = arguments[_WRITES.get(event, 0)], arguments[-1]
    if isinstance(path, int):
        return
    beside = f"/proc/self/fd/{folder}" if event in _WRITES and folder >= 0 else "."
    whole = os.path.realpath(os.path.join(beside, os.fsdecode(path)))  # noqa: PTH118 - may be bytes
    if not f"{whole}/".startswith((*_ALLOWED, "/dev/")):
        _WRITTEN.append(f"{event} {whole}")


def run(
    readers: Sequence[Reader], numbers: range, seed: int, scratch: Path, *, forks: bool = True
) -> tuple[Counter[tuple[str, str]], list[Fault]]:
    """Try inputs and return the counts by reader and outcome, and the faults."""
    for reader in readers:
        check_valid(reader, scratch / "input-valid")
    counts: Counter[tuple[str, str]] = Counter()
    faults: list[Fault] = []
    for start in range(0, len(numbers), BLOCK):
        block = _in_a_process if forks else _here
        some = numbers[start : start + BLOCK]
        for number, (reader, found, text) in block(readers, some, seed, scratch):
            counts[reader, found] += 1
            if found == FAULT:
                faults.append(Fault(number, reader, text))
    return counts, faults


def _here(
    readers: Sequence[Reader], numbers: range, seed: int, scratch: Path
) -> Iterator[tuple[int, Tried]]:
    for number in numbers:
        yield number, try_one(readers, number, seed, scratch)


def _in_a_process(
    readers: Sequence[Reader], numbers: range, seed: int, scratch: Path
) -> Iterator[tuple[int, Tried]]:
    """Try a block in a fork; what follows a crash of the interpreter goes on in another."""
    while numbers:
        taken, given = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what codecs write
            with os.fdopen(given, "w", encoding="utf-8") as file:
                for result in _here(readers, numbers, seed, scratch):
                    file.write(json.dumps(result) + "\n")
                    file.flush()
            os._exit(0)
        os.close(given)
        with os.fdopen(taken, encoding="utf-8") as file:
            done = [json.loads(line) for line in file]
        _, status = os.waitpid(child, 0)
        yield from ((number, tuple(result)) for number, result in done)
        numbers = numbers[len(done) :]
        if numbers:
            text = f"the process ended with {os.waitstatus_to_exitcode(status)}"
            yield numbers[0], (reader_of(readers, numbers[0]).name, FAULT, text)
            numbers = numbers[1:]


def table(counts: Counter[tuple[str, str]]) -> str:
    """Return the counts by reader and outcome as lines."""
    names = sorted({name for name, _ in counts})
    rows = [(name, *(counts[name, kind] for kind in (ACCEPTED, REFUSED, FAULT))) for name in names]
    totals = ("all", *(sum(column) for column in zip(*(row[1:] for row in rows), strict=True)))
    head = f"{'reader':24}{ACCEPTED:>10}{REFUSED:>10}{FAULT:>10}"
    return "\n".join([head, *(f"{n:24}{a:10,}{r:10,}{f:10,}" for n, a, r, f in [*rows, totals])])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3000, help="inputs")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the inputs of faults")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sys.addaudithook(watch)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        readers = made_up_readers(scratch / "valid")
        numbers = range(chosen.first, chosen.first + chosen.count)
        counts, faults = run(readers, numbers, chosen.seed, scratch)
        for fault in faults:
            sys.stdout.write(f"{fault.reader}, input {fault.number}: {fault.text[:2000]}\n")
            files = scratch / f"input-{fault.number}"
            if chosen.keep is not None and files.exists():
                shutil.copytree(files, chosen.keep / files.name, dirs_exist_ok=True)
    sys.stdout.write(table(counts) + "\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
