"""Help of a command: its flags by how often they are needed, with an example.

What ``COMMAND --help`` shows lies in a file beside the program (``scripts/write_help`` writes it),
so that it needs none of the modules of the command; with further flags the page is made afresh.
"""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    import argparse

Level = Literal["basic", "advanced", "system"]

LEVELS: Final[Mapping[Level, str]] = {
    "basic": "basic",
    "advanced": "advanced",
    "system": "system (where and how it runs)",
}
_SYSTEM: Final = {
    "checkpoint-every", "compile", "device", "launch", "log-every", "log-format", "max-decoded-gb",
    "num-workers",
    "on-error", "precision", "print", "quiet", "ray-address", "retry-failed", "rows-per-shard",
    "samples-every", "save-every", "stop-after-minutes", "tensorboard", "threads", "wait", "worker",
    "workers",
}  # fmt: skip
_NO_DEFAULT: Final = {"", "None", "False", "''", '""', "()", "[]"}
_ENDING: Final = re.compile(
    r"\s*\((?:default: (?P<default>(?:(?!\(default: ).)*)|required|optional)\)\s*$", re.DOTALL
)
_WIDEST: Final = 100
_INDENT: Final = 24


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag, or one argument without."""

    names: tuple[str, ...]
    """As they are typed; none if it is known by its place."""
    value: str
    """What stands behind it; empty for a switch."""
    about: str
    default: str
    """Empty if there is none, or nothing."""
    level: Level

    @property
    def choices(self) -> list[str]:
        """Return the values that it takes, if those are few.

        >>> Flag(("--source",), "{random,nearest}", "", "random", "basic").choices
        ['random', 'nearest']
        """
        return [
            one for part in re.findall(r"\{([^}]*)\}", self.value) for one in part.split(",") if one
        ]


CONFIG_FLAG: Final = Flag(
    ("--config",),
    "FILE",
    "Take flags from this YAML file, as a run leaves them in its settings.yaml; what is typed "
    "beside it wins.",
    "",
    "advanced",
)
HELP_FLAG: Final = Flag(("-h", "--help"), "", "Show this.", "", "system")


def describe(parser: argparse.ArgumentParser, basic: Collection[str]) -> list[Flag]:
    """Return the flags of a parser, required ones first among the basic ones.

    Args:
        parser: Of one command.
        basic: Names of flags, without dashes, that most users need; required ones are basic too.
    """
    found: list[tuple[bool, Flag]] = []
    for action in parser._actions:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        if action.dest == "help":
            continue
        long = [name.removeprefix("--") for name in action.option_strings]
        is_switch = action.nargs == 0
        ending = _ENDING.search(action.help or "")
        default = (ending["default"] if ending else "") or ""
        level: Level = "advanced"
        if long and (long[0].rpartition(".")[2] in _SYSTEM or long[0].startswith("slurm.")):
            level = "system"
        if action.required or not long or set(long) & set(basic):
            level = "basic"
        names = action.option_strings
        if is_switch:
            # Only the one that changes something.
            names = names[1:] if default == "True" else names[:1]
        flag = Flag(
            tuple(names),
            "" if is_switch else _value(action),
            _joined(_ENDING.sub("", action.help or "")),
            "" if default in _NO_DEFAULT or is_switch else default,
            level,
        )
        found.append((bool(action.required), flag))
    found.sort(key=lambda pair: not pair[0])
    return [flag for _, flag in found]


def _value(action: argparse.Action) -> str:
    """Return a metavar without the word for nothing.

    A list is told by dots.
    """
    text = str(action.metavar or "")
    if not action.option_strings:
        name = action.dest.rpartition(".")[2].upper()
        return f"{name} ..." if text.startswith("[") else name
    text = re.sub(r"\{None\}\||(?<=[{,])None,|,None(?=[,}])", "", text)
    several = re.fullmatch(r"\[{1,2}(\S+) \[\1 \.\.\.\]\]{1,2}", text)
    return f"{several[1]} ..." if several else text


def _joined(text: str) -> str:
    """Return text whose lines are one, but for paragraphs."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def common(pages: Sequence[Sequence[Flag]], decided_by: str) -> list[Flag]:
    """Return the flags of pages that differ in defaults, as far as they are the same in all.

    Args:
        pages: Of the same flags in the same order.
        decided_by: The flag that the other defaults follow from.
    """
    return [_common(flags, decided_by) for flags in zip(*pages, strict=True)]


def _common(flags: Sequence[Flag], decided_by: str) -> Flag:
    first = flags[0]
    if all(flag == first for flag in flags):
        return first
    paragraphs = [flag.about.split("\n\n") for flag in flags]
    about = [part for part in paragraphs[0] if all(part in others for others in paragraphs)]
    # A switch is named by what it changes: here both.
    names = dict.fromkeys(name for flag in flags for name in flag.names)
    return replace(
        first,
        names=tuple(sorted(names, key=len)),
        about="\n\n".join(about),
        default="" if decided_by in names else f"by {decided_by}",
    )


def render(command: str, about: str, example: str, flags: Sequence[Flag]) -> str:
    """Return a page as wide as the terminal, at most 100 columns.

    Args:
        command: For example ``augment generate``.
        about: What it does, in a sentence.
        example: A command line.
        flags: In the order of the page.
    """
    width = min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST)
    known = [flag for flag in flags if not flag.names]
    named = [*(flag for flag in flags if flag.names), CONFIG_FLAG, HELP_FLAG]
    usage = " ".join([command, *(flag.value for flag in known), "[FLAGS]"])
    parts = [f"usage: {usage}", textwrap.fill(f"{about[:1].upper()}{about[1:]}.", width)]
    parts.append(f"  {example}")
    for level, title in LEVELS.items():
        shown = [flag for flag in (*known, *named) if flag.level == level]
        if shown:
            parts.append("\n".join([f"{title}:", *(_entry(flag, width) for flag in shown)]))
    return "\n\n".join(parts) + "\n"


def _entry(flag: Flag, width: int) -> str:
    head = "  " + " ".join([", ".join(flag.names), flag.value]).strip()
    default = f" (default: {flag.default})" if flag.default else ""
    indent = min(_INDENT, width // 3)
    paragraphs = f"{flag.about}{default}".split("\n\n")
    space = " " * indent
    lines = [
        line
        for part in paragraphs
        for line in textwrap.wrap(part, width, initial_indent=space, subsequent_indent=space)
    ]
    if lines and len(head) < indent - 1:
        lines[0] = head.ljust(indent) + lines[0].lstrip()
        return "\n".join(lines)
    return "\n".join([*textwrap.wrap(head, width, subsequent_indent="    "), *lines])


@cache
def read_pages(path: Path) -> dict[str, list[Flag]]:
    """Return the pages of a program by command; none where there is no file."""
    if not path.is_file():
        return {}
    pages: dict[str, list[dict[str, Any]]] = json.loads(path.read_text("utf-8"))
    return {
        name: [Flag(tuple(flag.pop("names")), **flag) for flag in flags]
        for name, flags in pages.items()
    }


def to_json(pages: Mapping[str, Sequence[Flag]]) -> str:
    """Return what ``read_pages`` reads."""
    rows = {name: [asdict(flag) for flag in flags] for name, flags in pages.items()}
    return json.dumps(rows, indent=1) + "\n"
