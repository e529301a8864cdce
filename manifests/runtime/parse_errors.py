"""What the parser of command lines draws as a box of several lines, as one sentence."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr
from typing import Final

from manifests.runtime.console import Exit, UserError

_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")
_RULE: Final = re.compile(r"[-\u2500]{2,}")
_FRAME: Final = " \u2502\u256f"
_FRAME_WIDTH: Final = 2
_ITEM_INDENT: Final = 4
"""What stands further out is the heading of a list, what stands further in explains an item."""
_OF_PYTHON: Final = re.compile(
    r"(invalid literal for int\(\) with base 10|could not convert string to float): "
)

_OF_PYDANTIC: Final = re.compile(
    r"Error parsing (?:settings\.)?(\S+): \d+ validation errors? for \w+ (\S+) (.+?) "
    r"\[type=\w+, input_value=(.+?), input_type="
)
"""What settings within settings say of a value: of which, which key, what is expected and found."""


@contextmanager
def one_sentence(program: str) -> Generator[None]:
    """Turn the parser's refusal of a command line into an error of one sentence.

    tyro raises no error of its own there: it draws a box on standard error and exits.

    Raises:
        UserError: If the block exits with code 2.
    """
    said = io.StringIO()
    try:
        with redirect_stderr(said), _endless_lines():
            yield
    except SystemExit as exiting:
        if exiting.code != Exit.REFUSED:
            raise
        broken = _broken_rule(exiting)
        raise UserError(broken or sentence(said.getvalue(), program)) from None
    sys.stderr.write(said.getvalue())


def _broken_rule(exiting: SystemExit) -> str | None:
    """Return which rule of settings within settings a value breaks; the box does not say so."""
    from pydantic import ValidationError

    from manifests.runtime.settings import first_problem

    error: BaseException | None = exiting
    within = ""
    while error is not None and not isinstance(error, ValidationError):
        place = getattr(error, "arg", None)
        within = place.removeprefix("settings").removeprefix(".") if isinstance(place, str) else ""
        error = error.__context__
    return None if error is None else first_problem(error, within)


def sentence(box: str, program: str) -> str:
    r"""Return what a box says: what was found and what was expected.

    Args:
        box: A title, and sections between rules; with or without a frame.
        program: The words before the flags.

    >>> sentence(" Oh\n ----\n  Unrecognized options: --oot, x\n  ---\n  Perhaps you meant:\n"
    ...     "      --out PATH\n          Where.\n", "augment index")
    "found --oot, x, expected what 'augment index --help' lists, perhaps --out PATH"
    """
    nested = _OF_PYDANTIC.search(" ".join(_COLOURS.sub("", box).replace("\u2502", " ").split()))
    if nested:
        above, key, expected, found = nested.groups()
        return f"setting '{above}.{key}': {expected}, found {found}"
    problems: list[str] = []
    nearest: list[str] = []
    for heading, items in _sections(box):
        kind, _, rest = (part.strip() for part in heading.partition(":"))
        if kind.startswith("Missing from"):
            problems.append(f"expected {' and '.join(items)}, found none")
        elif kind.startswith("Unrecognized options"):
            found = rest or ", ".join(items)
            problems.append(f"found {found}, expected what '{program} --help' lists")
        elif kind.startswith(("Perhaps you meant", "Arguments similar to")):
            nearest += items
        elif kind.startswith("Error parsing"):
            problems.append(f"{kind.split()[-1]}: {_OF_PYTHON.sub('found ', rest).rstrip('.')}")
        elif kind.startswith("Argument helptext"):
            problems[-1] += f", expected {items[0]}"
        elif not kind.startswith("For full helptext"):
            problems.append(heading.replace(". Expected", ", expected").rstrip("."))
    if not problems:  # a box of another form: all that it says
        return " ".join(_COLOURS.sub("", box).split())
    return "; ".join(problems) + (f", perhaps {' or '.join(nearest)}" if nearest else "")


def _sections(box: str) -> list[tuple[str, list[str]]]:
    """Return per section its first paragraph and the items of its list."""
    sections: list[list[str]] = [[]]
    for line in _COLOURS.sub("", box).splitlines()[1:]:
        text = line[_FRAME_WIDTH:].rstrip(_FRAME)
        if _RULE.fullmatch(text):
            sections.append([])
        else:
            sections[-1].append(text)
    return [_heading_and_items(lines) for lines in sections if any(lines)]


def _heading_and_items(lines: list[str]) -> tuple[str, list[str]]:
    heading: list[str] = []
    items: list[str] = []
    for line in lines:
        if not line:
            break
        indent = len(line) - len(line.lstrip())
        if indent == 0:
            heading.append(line)
        elif indent == _ITEM_INDENT:
            items.append(line.strip())
    return " ".join(heading), items


@contextmanager
def _endless_lines() -> Generator[None]:
    """Let the parser break no line: it cuts long paths in two."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100000"
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
