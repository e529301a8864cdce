"""From a command line to a function: a table of subcommands, settings as flags, an exit code."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, make_dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, cast

from manifests.runtime.console import Console, Exit, LogFormat, UserError, exit_with
from manifests.runtime.parse_errors import one_sentence

if TYPE_CHECKING:
    from manifests.runtime.settings import Frozen

HELP: Final = {"-h", "--help"}


@dataclass(frozen=True, slots=True)
class Command:
    """Where a subcommand lives and what it does."""

    module: str
    """Imported only when the command runs, so that ``--help`` needs none of it."""
    function: str
    """Takes the settings and a ``Console``, returns an ``Exit``."""
    settings: str
    """A settings class, or a function from the words of the command line to one."""
    summary: str


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """How the command speaks."""

    quiet: bool = False
    """Say nothing but errors."""
    log_format: LogFormat = "text"
    """json writes one object per line."""


@dataclass(frozen=True, slots=True)
class Program:
    """A command with subcommands."""

    name: str
    summary: str
    commands: Mapping[str, Command]

    def main(self, arguments: Sequence[str] | None = None) -> NoReturn:
        """Run the command line and leave the process with its exit code."""
        words = list(sys.argv[1:] if arguments is None else arguments)
        exit_with(lambda: self.run(words))

    def run(self, words: Sequence[str]) -> Exit:
        """Run one command line.

        Raises:
            UserError: If the subcommand is unknown or refuses its input.
        """
        if not words or words[0] in HELP:
            sys.stdout.write(self.help())
            return Exit.DONE if words else Exit.REFUSED
        name, *rest = words
        if name not in self.commands:
            raise UserError(f"found command '{name}', expected one of {', '.join(self.commands)}")
        command = self.commands[name]
        module = import_module(command.module)
        settings = getattr(module, command.settings)
        if not inspect.isclass(settings):
            settings = settings(rest)
        found, talk = parse(settings, f"{self.name} {name}", command.summary, rest)
        console = Console(quiet=talk.quiet, log_format=talk.log_format)
        return getattr(module, command.function)(found, console)

    def help(self) -> str:
        """Return the table of subcommands."""
        width = max(map(len, self.commands))
        lines = [f"  {name:{width}}  {command.summary}" for name, command in self.commands.items()]
        return (
            f"usage: {self.name} COMMAND ...\n\n{self.summary}\n\n"
            + "\n".join(lines)
            + f"\n\n'{self.name} COMMAND --help' explains the settings of a command.\n"
        )


def parse(
    settings: type, program: str, description: str, words: Sequence[str]
) -> tuple[Any, OutputOptions]:
    """Return a command's settings, and how it should speak.

    Raises:
        UserError: If a flag is unknown or missing, or a value is none of its kind or breaks a
            rule of the settings.
    """
    import tyro
    from pydantic import ValidationError

    from manifests.runtime.settings import first_problem

    flat = tyro.conf.OmitArgPrefixes
    both = make_dataclass(
        "Invocation",
        [
            ("settings", Annotated[settings, tyro.conf.arg(name="")]),
            ("talk", Annotated[OutputOptions, flat], OutputOptions()),
        ],
    )
    # Help that was asked for is no refusal, and as wide as the terminal.
    refused = nullcontext() if HELP & set(words) else one_sentence(program)
    try:
        with refused:
            found = tyro.cli(both, prog=program, description=description, args=list(words))
    except ValidationError as error:
        raise UserError(first_problem(error)) from error
    return found.settings, found.talk


def arguments_of(settings: Frozen, prefix: str = "", defaults: Frozen | None = None) -> list[str]:
    """Return the words that ``parse`` turns into these settings; defaults are left out.

    For settings whose flags are named as their fields: scalars, tuples of them, and settings
    within settings.

    Args:
        settings: What the words shall say.
        prefix: What the flags start with.
        defaults: What ``parse`` gives without any word, where that is not what the class says.
    """
    from manifests.runtime.settings import Frozen

    words: list[str] = []
    for name, field in type(settings).model_fields.items():
        value, flag = getattr(settings, name), prefix + name.replace("_", "-")
        default = field.default if defaults is None else getattr(defaults, name)
        if value == default:
            continue
        if isinstance(value, Frozen):
            inner = default if isinstance(default, Frozen) else None
            words += arguments_of(value, f"{flag}.", inner)
        elif isinstance(value, bool):
            *above, last = flag.split(".")
            words.append("--" + ".".join([*above, last if value else f"no-{last}"]))
        elif isinstance(value, tuple):
            words += [f"--{flag}", *map(str, cast("tuple[object, ...]", value))]
        else:
            words += [f"--{flag}", str(value)]
    return words
