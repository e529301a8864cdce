"""The command ``reid``: train, score, compare and export re-ID networks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, make_dataclass
from importlib import import_module
from typing import Annotated, Any, Final

from manifests.console import Console, Exit, LogFormat, UserError, exit_with


@dataclass(frozen=True, slots=True)
class Command:
    """Where a subcommand lives and what it does."""

    module: str
    settings: str
    function: str
    summary: str


COMMANDS: Final = {
    "train": Command(
        "reid.train", "TrainSettings", "train", "train on real and synthetic images, then score"
    ),
    "score": Command(
        "reid.score", "ScoreSettings", "score", "rank the gallery for every query of a test set"
    ),
    "compare": Command(
        "reid.compare", "CompareSettings", "compare", "hold runs against a baseline, with intervals"
    ),
    "export": Command(
        "reid.export", "ExportSettings", "export", "write a trained network as a .pt2 file"
    ),
}


@dataclass(frozen=True, slots=True)
class Talk:
    """How the command speaks."""

    quiet: bool = False
    """Say nothing but errors."""
    log_format: LogFormat = "text"
    """json writes one object per line."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    exit_with(lambda: run(words))


def run(words: Sequence[str]) -> Exit:
    """Run one command line.

    Raises:
        UserError: If the subcommand is unknown or the command refuses its input.
    """
    if not words or words[0] in {"-h", "--help"}:
        sys.stdout.write(_help())
        return Exit.DONE if words else Exit.REFUSED
    name = words[0]
    if name not in COMMANDS:
        raise UserError(f"unknown command '{name}'; expected one of {', '.join(COMMANDS)}")
    command = COMMANDS[name]
    module = import_module(command.module)
    settings, talk = parse(getattr(module, command.settings), f"reid {name}", words[1:])
    console = Console(quiet=talk.quiet, log_format=talk.log_format)
    return getattr(module, command.function)(settings, console)


def parse(settings: type, program: str, words: Sequence[str]) -> tuple[Any, Talk]:
    """Return the settings of a command, and how it should speak."""
    import tyro
    from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes

    both = make_dataclass(
        "Invocation",
        [
            ("settings", Annotated[settings, OmitArgPrefixes]),
            ("talk", Annotated[Talk, OmitArgPrefixes]),
        ],
    )
    found = tyro.cli(both, prog=program, description=settings.__doc__, args=list(words))
    del FlagCreatePairsOff
    return found.settings, found.talk


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return (
        "usage: reid COMMAND ...\n\n"
        "Train and score person re-identification networks on real and synthetic images.\n\n"
        + "\n".join(lines)
        + "\n\nreid COMMAND --help explains the settings of a command.\n"
    )


if __name__ == "__main__":
    main()
