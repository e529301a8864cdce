#!/usr/bin/env python
"""Send signals to all commands at random moments, and hold what they leave against whole runs.

Made-up people, small networks; every command is first run to its end. Then, over and over: a
command begins in a new folder, and SIGTERM, SIGHUP or SIGINT comes at a random moment of the time
of a core that it needs. Checked are

- its exit code: 75 (130 after SIGINT), or 0 if it was over already, and 0 only with all its files;
- that no traceback was written and no temporary file is left, nor anything outside its folder;
- that the same command then ends with 0, with the bytes of the run that nobody disturbed.

Commands begin in children of one process that has imported everything, so a signal finds them at
work; every twentieth begins in a process of its own, where one that comes before Python runs our
first line ends the process by itself: counted apart, and nothing may be there then. All commands
take turns three times, then quick ones come more often. From the root:

    .venv/bin/python -m scripts.stop_commands --signals 200 --seed 0 --work /tmp/signals
"""

from __future__ import annotations

import argparse
import gc
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import torch

from manifests.runtime.signals import CODES
from scripts.stop_cases import CASES, Case, import_for, preparation_of, write_official
from scripts.stop_process import (
    Blow,
    Ended,
    FailedError,
    contents,
    contents_brought,
    differing,
    finish,
)

FRESH_EVERY: Final = 20
IMPORT_SECONDS: Final = 5.0
"""Of a core, about what a process of its own needs before a command begins."""
ROUNDS: Final = 3
"""How often all commands take turns before quick ones come more often."""


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
        raise FailedError(f"code 0 and other files: {differing(there, expected)}")
    again = finish(case, folder, ready)
    if again.code != whole.code:
        raise FailedError(f"code {again.code} when typed again:\n{again.errors}")
    there = contents(folder)
    if there != expected:
        raise FailedError(f"other files when typed again: {differing(there, expected)}")
    if again.output != whole.output:
        raise FailedError(f"other output when typed again: {again.output[-2000:]}")
    return how


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
        say(f"{case.name:18} needs {wholes[-1].core_seconds:6.2f} s of a core")
    found: Counter[str] = Counter()
    for trial, number in enumerate(turns([whole.core_seconds for whole in wholes], count)):
        case, whole = cases[number], wholes[number]
        is_fresh = trial % FRESH_EVERY == FRESH_EVERY - 1
        longest = whole.core_seconds + IMPORT_SECONDS * is_fresh
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
        say(f"the inputs have changed: {differing(contents(ready), before)}")
        found["FAILED: inputs"] += 1
    for how, number in sorted(found.items()):
        say(f"{number:5} {how}")
    failures = sum(number for how, number in found.items() if "FAILED" in how)
    say(f"{count} signals over {len(cases)} commands: {failures} failures")
    return failures


def turns(costs: Sequence[float], count: int) -> Iterator[int]:
    """Give which case is next: some times all in turn, then whichever has cost the least by then.

    >>> list(turns([1.0, 4.0], 2 * ROUNDS + 5))[2 * ROUNDS:]
    [0, 0, 0, 0, 0]
    """
    number_of = [0] * len(costs)
    for trial in range(count):
        number = trial % len(costs)
        if trial >= ROUNDS * len(costs):
            number = min(range(len(costs)), key=lambda case: (number_of[case] + 1) * costs[case])
        number_of[number] += 1
        yield number


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
    # Children share what is never looked through again.
    gc.freeze()

    def say(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    if strike(given.signals, given.seed, given.work.resolve(), cases, say):
        sys.exit(1)


if __name__ == "__main__":
    main()
