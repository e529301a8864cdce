#!/usr/bin/env python
"""Send signals to all commands at random moments, and hold what they leave against whole runs.

Made-up people, small networks; every command is first run to its end. Then, over and over: a
command begins in a new folder, and SIGTERM, SIGHUP or SIGINT comes at a random moment of the time
that it needs. Checked are

- its exit code: 75 (130 after SIGINT), or 0 if it was over already, and 0 only with all its files;
- that no traceback was written and no temporary file is left, nor anything outside its folder;
- that the same command then ends with 0, with the bytes of the run that nobody disturbed.

Commands begin in children of one process that has imported everything, so a signal finds them at
work; every tenth begins in a process of its own, where one that comes before Python runs our first
line ends the process by itself: counted apart, and nothing may be there then.

    scripts/stop_commands.py --signals 200 --seed 0 --work /tmp/signals
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final

import torch

from augment.cli import PROGRAM as AUGMENT
from augment.generators.patn import Patn
from manifests.runtime.command_line import Program
from manifests.runtime.signals import CODES
from reid.cli import PROGRAM as REID

ROOT: Final = Path(__file__).resolve().parents[1]
LONGEST_SECONDS: Final = 600.0
"""After which a command is said to hang."""
FRESH_EVERY: Final = 10
TIMES: Final = frozenset({"ranking_seconds", "images_per_second", "seconds", "seconds_left"})
"""Entries of JSON files that no two runs share."""
STEPS_ONLY: Final = "log.jsonl"
"""Its lines are means since the line before, or since the start of the process."""

SMALL_PATN: Final = (
    "--config.base-width 4 --config.discriminator-width 4 --config.num-blocks 1 "
    "--config.pool-size 2 --config.features none --config.batch-size 2"
)
SMALL_RUN: Final = (
    "--recipe short --model osnet_x0_25 --batch-size 8 --height 64 --width 32 --device cpu "
    "--checkpoint-every 3 --log-every 2"
)


@dataclass(frozen=True, slots=True)
class Case:
    """A command, begun in a new folder."""

    name: str
    line: str
    """Without the program's name; {ready} is the folder of inputs."""
    brings: str | None = None
    """Folder of ``ready`` that the command writes into: it gets a copy, of the same name."""

    @property
    def out(self) -> str:
        """Return what it makes."""
        return self.line.split(" --out ")[1].split()[0]

    @property
    def program(self) -> Program:
        """Return ``augment`` or ``reid``."""
        return AUGMENT if self.name.startswith("augment") else REID

    def arguments(self, ready: Path) -> list[str]:
        """Return the command line."""
        return self.line.format(ready=ready).split()


IMAGES: Final = "--images {ready}/images.parquet"
PREPARATION: Final = (
    Case("augment sample", "sample --people 4 --test-people 3 --out people"),
    Case(
        "augment index",
        "index {ready}/people --masks {ready}/people/masks --keypoints "
        "{ready}/people/keypoints-train.csv {ready}/people/keypoints-test.csv --out images.parquet",
    ),
    Case(
        "augment generate",
        f"generate {IMAGES} --weights patn-sample --per-id 4 --out synthetic --device cpu",
    ),
    Case("reid train", f"train {IMAGES} {SMALL_RUN} --steps 6 --out run --seed 0"),
    Case("reid train", f"train {IMAGES} {SMALL_RUN} --steps 6 --out other --seed 1"),
)
CASES: Final = (
    Case("augment sample", "sample --people 4 --test-people 3 --out people"),
    Case(
        "augment index",
        "index {ready}/people --masks {ready}/people/masks --keypoints "
        "{ready}/people/keypoints-train.csv --out images.parquet",
    ),
    Case("augment detect", f"detect {IMAGES} --masks --replace --out detected.parquet"),
    Case(
        "augment train",
        f"train {IMAGES} {SMALL_PATN} --config.steps 12 --save-every 3 --log-every 2 "
        "--samples-every 12 --device cpu --out run",
    ),
    Case(
        "augment convert",
        "convert --official {ready}/official.pth --config.base-width 4 --config.num-blocks 1 "
        "--out weights.safetensors",
    ),
    Case(
        "augment generate",
        f"generate {IMAGES} --weights patn-sample --per-id 6 --out synthetic --device cpu "
        "--rows-per-shard 8",
    ),
    Case("augment status", "status {ready}/synthetic"),
    Case("augment verify", "verify {ready}/synthetic"),
    Case("augment export", "export {ready}/synthetic --to folder --out folder"),
    Case("augment export", f"export {{ready}}/synthetic --to market1501 {IMAGES} --out market"),
    Case("augment export", "export {ready}/synthetic --to webdataset --out tars"),
    Case("augment preview", "preview {ready}/synthetic --out preview.png"),
    Case("augment report", "report {ready}/synthetic --html page.html"),
    Case(
        "augment transfer",
        "transfer 0001_c1s1_000001_01.jpg --pose 0002_c1s1_000001_01.jpg "
        f"{IMAGES} --weights patn-sample --out image.png",
    ),
    Case(
        "augment evaluate",
        f"evaluate {IMAGES} --weights patn-sample --count 40 --imagenet none --out table.json",
    ),
    Case("reid train", f"train {IMAGES} {SMALL_RUN} --steps 12 --val-people 2 --out run"),
    Case("reid screen", f"screen {{ready}}/synthetic --run {{ready}}/run {IMAGES} --out screened"),
    Case("reid score", f"score run {IMAGES} --flip-test", brings="run"),
    Case(
        "reid backgrounds",
        f"backgrounds {{ready}}/run {IMAGES} --max-images 30 --markdown table.md",
    ),
    Case("reid compare", "compare {ready}/run {ready}/other --html page.html --csv table.csv"),
    Case(
        "reid study",
        f"study {IMAGES} --out study --fractions 1.0 --seeds 0 --arms swapped=--seed "
        + " ".join(f"--train.{flag}" for flag in SMALL_RUN.removeprefix("--").split(" --"))
        + " --train.steps 3",
    ),
    Case("reid report", "report {ready}/run --html page.html"),
    Case("reid export", "export {ready}/run --out net.pt2"),
)


class FailedError(Exception):
    """What a command did that it must not do."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended, and what it wrote."""

    code: int
    seconds: float
    output: str
    errors: str


@dataclass(frozen=True, slots=True)
class Blow:
    """A signal at a moment, in seconds after a command began."""

    sort: signal.Signals
    moment: float
    is_fresh: bool = False
    """Whether the command has a process of its own, which first imports everything."""


def begin(case: Case, folder: Path, ready: Path, *, is_fresh: bool) -> int:
    """Start a command in a folder and return its process; a child of ours leaves by SystemExit."""
    bring(case, folder, ready)
    arguments = case.arguments(ready)
    streams = [open(f"{folder}.{name}", "wb") for name in ("out", "err")]  # noqa: SIM115, PTH123
    if is_fresh:
        module = f"{case.program.name}.cli"
        command = [sys.executable, "-m", module, *arguments]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        out, err = streams
        return subprocess.Popen(command, cwd=folder, env=environ, stdout=out, stderr=err).pid
    sys.stdout.flush()
    with warnings.catch_warnings():
        # From Python 3.12 on a warning: libraries have idle threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return child
    os.chdir(folder)
    for number, stream in enumerate(streams, 1):
        os.dup2(stream.fileno(), number)
    sys.argv[1:] = arguments
    return case.program.main()


def bring(case: Case, folder: Path, ready: Path) -> None:
    """Make the folder of a command, unless it is there."""
    if not folder.exists():
        folder.mkdir(parents=True)
        if case.brings:
            shutil.copytree(ready / case.brings, folder / case.brings)


def finish(case: Case, folder: Path, ready: Path, blow: Blow | None = None) -> Ended:
    """Run a command to its end, or to that which a signal brings it.

    Raises:
        FailedError: If it hangs.
    """
    began = time.monotonic()
    child = begin(case, folder, ready, is_fresh=blow is not None and blow.is_fresh)
    sent = blow is None
    while True:
        seconds = time.monotonic() - began
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if blow is not None and not sent and seconds >= blow.moment:
            os.kill(child, blow.sort)
            sent = True
        if seconds > LONGEST_SECONDS:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise FailedError(f"hangs for {seconds:.0f} s")
        time.sleep(0.001)
    output, errors = (Path(f"{folder}.{name}").read_text("utf-8") for name in ("out", "err"))
    return Ended(os.waitstatus_to_exitcode(status), seconds, output, errors)


def contents(folder: Path) -> dict[str, str]:
    """Return what a folder holds: a digest of each file, without times."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if path.name == STEPS_ONLY:
                data = b" ".join(_steps(data))
            elif path.suffix == ".json":
                data = json.dumps(_timeless(json.loads(data)), sort_keys=True).encode()
            found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


def _steps(lines: bytes) -> list[bytes]:
    return [str(json.loads(line)["step"]).encode() for line in lines.splitlines()]


def _timeless(value: object) -> object:
    if isinstance(value, dict):
        return {key: _timeless(entry) for key, entry in value.items() if key not in TIMES}
    return [_timeless(entry) for entry in value] if isinstance(value, list) else value


def check(case: Case, folder: Path, ready: Path, blow: Blow, whole: Ended) -> str:
    """Stop a command, then let it end; return how it was stopped.

    Raises:
        FailedError: If it does not do what is promised.
    """
    expected = contents(folder.parent / "whole")
    stopped = finish(case, folder, ready, blow)
    there = contents(folder)
    if "Traceback" in stopped.errors:
        raise FailedError(f"traceback (code {stopped.code}):\n{stopped.errors}")
    left = [name for name in there if Path(name).name.startswith(".") or name.endswith(".tmp")]
    if left:
        raise FailedError(f"left behind (code {stopped.code}): {left}")
    if stopped.code == 0:
        how = "over before it came"
    elif stopped.code == CODES[blow.sort]:
        how = f"code {stopped.code}"
    elif stopped.code == -blow.sort and not there.keys() - contents_brought(case, ready):
        how = "before our first line"
    else:
        raise FailedError(f"code {stopped.code}, expected {CODES[blow.sort]}:\n{stopped.errors}")
    if stopped.code == 0 and there != expected:
        raise FailedError(f"code 0 and other files: {_differing(there, expected)}")
    again = finish(case, folder, ready)
    if again.code != whole.code:
        raise FailedError(f"code {again.code} when typed again:\n{again.errors}")
    there = contents(folder)
    if there != expected:
        raise FailedError(f"other files when typed again: {_differing(there, expected)}")
    if again.output != whole.output:
        raise FailedError(f"other output when typed again: {again.output[-2000:]}")
    return how


def contents_brought(case: Case, ready: Path) -> set[str]:
    """Return the files that a command finds in its folder."""
    if case.brings is None:
        return set()
    return {f"{case.brings}/{name}" for name in contents(ready / case.brings)}


def _differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    names = sorted({*one, *other})
    return [name for name in names if one.get(name) != other.get(name)]


def prepare(work: Path, cases: Sequence[Case]) -> Path:
    """Make what some commands read, each by the command that makes it."""
    ready = work / "ready"
    ready.mkdir(parents=True, exist_ok=True)
    for case in preparation_of(cases):
        if not (ready / case.out).exists():
            ended = finish(case, ready, ready)
            if ended.code:
                raise FailedError(f"{case.name}: code {ended.code}\n{ended.errors}")
    if any(case.name == "augment convert" for case in cases):
        write_official(ready / "official.pth")
    return ready


def preparation_of(cases: Sequence[Case]) -> list[Case]:
    """Return the commands that make what others read."""
    needed: list[Case] = []
    for case in reversed(PREPARATION):
        lines = [reader.line for reader in (*cases, *needed)]
        brought = {reader.brings for reader in cases}
        if case.out in brought or any(f"{{ready}}/{case.out}" in line for line in lines):
            needed.append(case)
    return needed[::-1]


def write_official(path: Path) -> None:
    """Write a small network as its authors would have."""
    network = Patn(Patn.Config(base_width=4, num_blocks=1))
    tensors = {
        network.official_name(name): tensor.clone()
        for name, tensor in network.sampling_state().items()
    }
    torch.save(tensors, path)


def import_for(cases: Sequence[Case]) -> None:
    """Import what the commands do, so that their children need not."""
    for case in cases:
        import_module(case.program.commands[case.name.split()[1]].module)
    if any(case.program is REID for case in cases):
        import_module("reid.models.torchreid_adapter").version()


def run_whole(case: Case, number: int, work: Path, ready: Path) -> Ended:
    """Run a command that nobody disturbs.

    Raises:
        FailedError: If it does not end with 0.
    """
    whole = finish(case, work / f"{number:02d}" / "whole", ready)
    if whole.code:
        raise FailedError(f"{case.name}: code {whole.code} undisturbed\n{whole.errors}")
    return whole


def strike(
    count: int, seed: int, work: Path, cases: Sequence[Case], say: Callable[..., None]
) -> int:
    """Send the signals and return how many commands failed."""
    chance = random.Random(seed)
    ready = prepare(work, cases)
    before = contents(ready)
    wholes: list[Ended] = []
    for number, case in enumerate(cases):
        wholes.append(run_whole(case, number, work, ready))
        say(f"{case.name:18} needs {wholes[-1].seconds:6.2f} s")
    found: Counter[str] = Counter()
    for trial in range(count):
        number = trial % len(cases)
        case, whole = cases[number], wholes[number]
        is_fresh = trial % FRESH_EVERY == FRESH_EVERY - 1
        # What a process of its own imports takes seconds.
        longest = whole.seconds + 5 * is_fresh
        blow = Blow(chance.choice(list(CODES)), chance.uniform(0, longest), is_fresh)
        folder = work / f"{number:02d}" / f"trial-{trial:04d}"
        try:
            how = check(case, folder, ready, blow, whole)
        except FailedError as failed:
            how = "FAILED"
            say(f"{case.name}: {case.line}: {folder}: {blow}: {failed}")
        else:
            shutil.rmtree(folder)
        found[f"{blow.sort.name}: {how}"] += 1
        say(f"{trial + 1:4} {case.name:18} {blow.sort.name:8} at {blow.moment:5.2f} s: {how}")
    if contents(ready) != before:
        say(f"the inputs have changed: {_differing(contents(ready), before)}")
        found["FAILED: inputs"] += 1
    for how, number in sorted(found.items()):
        say(f"{number:5} {how}")
    failures = sum(number for how, number in found.items() if "FAILED" in how)
    say(f"{count} signals over {len(cases)} commands: {failures} failures")
    return failures


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--signals", type=int, default=200, help="how many are sent")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", type=Path, required=True, help="folder, new or of an earlier run")
    parser.add_argument("--commands", nargs="*", help="'augment sample' and so on; default: all")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for sort in CODES:
        # nohup, or a shell's &, may have had some ignored.
        signal.signal(sort, signal.SIG_DFL)
    cases = [case for case in CASES if not given.commands or case.name in given.commands]
    import_for(cases)

    def say(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    if strike(given.signals, given.seed, given.work.resolve(), cases, say):
        sys.exit(1)


if __name__ == "__main__":
    main()
