"""From a command line to a function: a table of subcommands, settings as flags, an exit code."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, make_dataclass
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, cast
from warnings import catch_warnings, simplefilter

import manifests
from manifests.runtime.completion import script
from manifests.runtime.console import Console, Exit, LogFormat, UserError, exit_with
from manifests.runtime.flags import (
    named_fields,
    positional_names,
    read_files,
    switch,
    write_record,
)
from manifests.runtime.help_pages import Flag, common, describe, read_pages, render
from manifests.runtime.parse_errors import one_sentence
from manifests.runtime.signals import ignore_from_now_on, stopping, stopping_when_checked

if TYPE_CHECKING:
    from manifests.runtime.settings import Frozen

HELP: Final = {"-h", "--help"}


@dataclass(frozen=True, slots=True)
class Command:
    """The module, function and settings of a subcommand."""

    module: str
    """Imported only when the command runs, so that ``--help`` needs none of it."""
    function: str
    """Takes the settings and a ``Console``, returns an ``Exit``."""
    settings: str
    """A settings class, or a function from the arguments of the command line to one."""
    summary: str
    example: str = ""
    """A command line, without the program."""
    basic: tuple[str, ...] = ()
    """Flags that most users need, beside those that are required; without dashes."""
    is_run: bool = False
    """Whether it makes a folder, which keeps the settings."""
    defaults_by: tuple[str, ...] = ()
    """A flag and values that each give other defaults; ``--help`` shows what they have in common.
    """


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """What a command writes about its progress."""

    quiet: bool = False
    """Write errors only."""
    log_format: LogFormat = "text"
    """json writes one object per line."""


@dataclass(frozen=True, slots=True)
class Program:
    """A command with subcommands."""

    name: str
    summary: str
    commands: Mapping[str, Command]
    pages: Path | None = None
    """File with the help of all commands, see ``help_pages``."""

    def main(self, arguments: Sequence[str] | None = None) -> NoReturn:
        """Run the command line and leave the process with its exit code.

        SIGTERM, SIGHUP and SIGINT end the command early, with a code of their own.

        Args:
            arguments: By default those of the process, which then has nothing else to do.
        """
        given = list(sys.argv[1:] if arguments is None else arguments)

        def command() -> Exit:
            with stopping():
                # Libraries that are imported by halves may break the process as it leaves.
                with stopping_when_checked():
                    begun = self.prepare(given)
                return begun()

        def whole() -> Exit:
            try:
                return command()
            finally:
                if arguments is None:
                    ignore_from_now_on()

        exit_with(whole)

    def run(self, arguments: Sequence[str]) -> Exit:
        """Run one command line.

        Raises:
            UserError: If the subcommand is unknown or refuses its input.
        """
        return self.prepare(arguments)()

    def prepare(self, arguments: Sequence[str]) -> Callable[[], Exit]:
        """Return what a command line does, its modules imported and its settings parsed.

        Raises:
            UserError: If the subcommand is unknown, or a flag is wrong.
        """
        if not arguments or arguments[0] in HELP:
            Console().show(self.help())
            return lambda: Exit.DONE if arguments else Exit.REFUSED
        name, *rest = arguments
        if name == "--version":
            Console().show(f"{self.name} {manifests.__version__}\n")
            return lambda: Exit.DONE
        if name == "--completion":
            Console().show(script(self.name, " ".join(rest), self.all_pages()))
            return lambda: Exit.DONE
        if name not in self.commands:
            raise UserError(f"found command '{name}', expected one of {', '.join(self.commands)}")
        command = self.commands[name]
        if HELP & set(rest):
            Console().show(self._help_of(name, rest))
            return lambda: Exit.DONE
        typed = read_files(rest)
        settings = _settings_of(command, typed.whole())
        whole = typed.whole(positional_names(settings))
        parsed, output = parse(settings, f"{self.name} {name}", command.summary, whole)
        console = Console(quiet=output.quiet, log_format=output.log_format)
        function = getattr(import_module(command.module), command.function)

        def begun() -> Exit:
            code: Exit = function(parsed, console)
            if command.is_run:
                write_record(parsed, f"{self.name} {name}")
            return code

        return begun

    def _help_of(self, name: str, arguments: Sequence[str]) -> str:
        command = self.commands[name]
        stored = self._stored() if set(arguments) <= HELP else {}
        given = [argument for argument in arguments if argument not in HELP]
        flags = stored.get(name) or (
            page_of(command, read_files(given).whole()) if given else plain_page(command)
        )
        example = f"{self.name} {command.example or name}"
        return render(f"{self.name} {name}", command.summary, example, flags)

    def _stored(self) -> dict[str, list[Flag]]:
        return {} if self.pages is None else read_pages(self.pages)

    def all_pages(self, *, afresh: bool = False) -> dict[str, list[Flag]]:
        """Return the flags of every command; ``afresh`` from the settings and not from the file."""
        stored = {} if afresh else self._stored()
        return {
            name: stored.get(name) or plain_page(command) for name, command in self.commands.items()
        }

    def help(self) -> str:
        """Return the table of subcommands."""
        width = max(map(len, self.commands))
        lines = [f"  {name:{width}}  {command.summary}" for name, command in self.commands.items()]
        return (
            f"usage: {self.name} COMMAND ...\n\n{self.summary}\n\n"
            + "\n".join(lines)
            + f"\n\n'{self.name} COMMAND --help' explains the settings of a command.\n"
            f"'{self.name} --version' tells the version; 'source <({self.name} --completion bash)' "
            "completes command lines (zsh too).\n"
        )


def _settings_of(command: Command, arguments: Sequence[str]) -> type[Frozen]:
    settings: Any = getattr(import_module(command.module), command.settings)
    return cast("type[Frozen]", settings) if inspect.isclass(settings) else settings(arguments)


def plain_page(command: Command) -> list[Flag]:
    """Return the flags of a command that nothing else is said to."""
    if not command.defaults_by:
        return page_of(command, [])
    flag, *values = command.defaults_by
    return common([page_of(command, [flag, value]) for value in values], flag)


def page_of(command: Command, arguments: Sequence[str]) -> list[Flag]:
    """Return the flags of a command, with the defaults that the arguments give them.

    Raises:
        UserError: If the arguments name what there is not.
    """
    import tyro

    with catch_warnings():
        # There is no other way to a parser's flags than the one that tyro takes for old.
        simplefilter("ignore", DeprecationWarning)
        # argparse's in all but name: tyro has a copy.
        parser: Any = tyro.extras.get_parser(  # pyright: ignore[reportDeprecated]
            _invocation(_settings_of(command, arguments))
        )
    return describe(parser, command.basic)


def _invocation(settings: type) -> type:
    """Return a class with the flags of settings and of output."""
    import tyro

    flat = tyro.conf.OmitArgPrefixes
    return make_dataclass(
        "Invocation",
        [
            ("settings", Annotated[settings, tyro.conf.arg(name="")]),
            ("output", Annotated[OutputOptions, flat], OutputOptions()),
        ],
    )


def parse(
    settings: type, program: str, description: str, arguments: Sequence[str]
) -> tuple[Any, OutputOptions]:
    """Return a command's settings and its output options.

    Raises:
        UserError: If a flag is unknown or missing, or a value has the wrong type or breaks a rule
            of the settings.
    """
    import tyro
    from pydantic import ValidationError

    from manifests.runtime.settings import first_problem

    invocation = _invocation(settings)
    try:
        with one_sentence(program):
            parsed: Any = tyro.cli(
                invocation, prog=program, description=description, args=list(arguments)
            )
    except ValidationError as error:
        raise UserError(first_problem(error)) from error
    return parsed.settings, parsed.output


def arguments_of(settings: Frozen, prefix: str = "", defaults: Frozen | None = None) -> list[str]:
    """Return the arguments that ``parse`` turns into these settings; defaults are left out.

    For scalars, tuples of them, and settings within settings.

    Args:
        settings: The settings.
        prefix: Start of every flag's name.
        defaults: What ``parse`` returns without arguments, if not the defaults of the class.
    """
    from manifests.runtime.settings import Frozen

    arguments: list[str] = []
    for name, flag in named_fields(type(settings), prefix):
        value = getattr(settings, name)
        field = type(settings).model_fields[name]
        default = field.default if defaults is None else getattr(defaults, name)
        if value == default:
            continue
        if isinstance(value, Frozen):
            inner = default if isinstance(default, Frozen) else None
            arguments += arguments_of(value, flag, inner)
        elif isinstance(value, bool):
            arguments.append(switch(flag, on=value))
        elif isinstance(value, tuple):
            arguments += [f"--{flag}", *map(str, cast("tuple[object, ...]", value))]
        else:
            arguments += [f"--{flag}", str(value)]
    return arguments


def value_of(flag: str, arguments: Sequence[str], default: str) -> str:
    """Return the value of a flag before the settings that it decides on are known.

    >>> value_of("--recipe", ["--out", "run", "--recipe=bot"], "short")
    'bot'
    """
    value = default
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=default):
        if argument == flag:
            value = following
        elif argument.startswith(f"{flag}="):
            value = argument.partition("=")[2]
    return value
