"""Errors of the command-line parser as one sentence, read from the box that it draws.

tyro has no public interface to its errors: ``tyro._errors`` gives them as data, but is private and
may change in any release.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr
from typing import Final

from manifests.runtime.console import Exit, UserError, write_error

_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")
_RULE: Final = re.compile(r"[-\u2500]{2,}")
_FRAME: Final = " \u2502\u256f"
_FRAME_WIDTH: Final = 2
_ITEM_INDENT: Final = 4
"""A line with less indent is the heading of a list, one with more explains an item."""
_OF_PYTHON: Final = re.compile(
    r"(invalid literal for int\(\) with base 10|could not convert string to float): "
)

_OF_PYDANTIC: Final = re.compile(
    r"Error parsing (?:settings\.)?(\S+): \d+ validation errors? for \w+ (\S+) (.+?) "
    r"\[type=\w+, input_value=(.+?), input_type="
)
"""An error of nested settings: their name, the key, what was expected and what was found."""


@contextmanager
def one_sentence(program: str) -> Generator[None]:
    """Turn the parser's error into one of a single sentence.

    tyro raises none: it draws a box on standard error and exits.

    Raises:
        UserError: If the block exits with code 2.
    """
    printed = io.StringIO()
    try:
        with redirect_stderr(printed), _endless_lines():
            yield
    except SystemExit as exiting:
        if exiting.code != Exit.REFUSED:
            raise
        broken = _broken_rule(exiting)
        raise UserError(broken or sentence(printed.getvalue(), program)) from None
    write_error(printed.getvalue())


def _broken_rule(exiting: SystemExit) -> str | None:
    """Return the rule of nested settings that a value breaks, which the box leaves out."""
    from pydantic import ValidationError

    from manifests.runtime.settings import first_problem

    error: BaseException | None = exiting
    within = ""
    while error is not None and not isinstance(error, ValidationError):
        name = getattr(error, "arg", None)
        within = name.removeprefix("settings").removeprefix(".") if isinstance(name, str) else ""
        error = error.__context__
    return None if error is None else first_problem(error, within)


def sentence(box: str, program: str) -> str:
    r"""Return the content of a box: what was found and what was expected.

    Args:
        box: A title, and sections between rules; with or without a frame.
        program: The command, without its flags.

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
    if not problems:  # a box of another form: all of its text
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
    """Keep the parser from wrapping lines: it cuts long paths in two."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100000"
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
