"""From a command line to a function: a table of subcommands, settings as flags, an exit code."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, make_dataclass
from functools import partial
from importlib import import_module
from itertools import zip_longest
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, cast

from manifests.runtime.console import Console, Exit, LogFormat, UserError, exit_with
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
            sys.stdout.write(self.help())
            return lambda: Exit.DONE if arguments else Exit.REFUSED
        name, *rest = arguments
        if name not in self.commands:
            raise UserError(f"found command '{name}', expected one of {', '.join(self.commands)}")
        command = self.commands[name]
        module = import_module(command.module)
        settings = getattr(module, command.settings)
        if not inspect.isclass(settings):
            settings = settings(rest)
        parsed, output = parse(settings, f"{self.name} {name}", command.summary, rest)
        console = Console(quiet=output.quiet, log_format=output.log_format)
        return partial(getattr(module, command.function), parsed, console)

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

    flat = tyro.conf.OmitArgPrefixes
    both = make_dataclass(
        "Invocation",
        [
            ("settings", Annotated[settings, tyro.conf.arg(name="")]),
            ("output", Annotated[OutputOptions, flat], OutputOptions()),
        ],
    )
    # Help is no error, and as wide as the terminal.
    errors = nullcontext() if HELP & set(arguments) else one_sentence(program)
    try:
        with errors:
            parsed = tyro.cli(both, prog=program, description=description, args=list(arguments))
    except ValidationError as error:
        raise UserError(first_problem(error)) from error
    return parsed.settings, parsed.output


def arguments_of(settings: Frozen, prefix: str = "", defaults: Frozen | None = None) -> list[str]:
    """Return the arguments that ``parse`` turns into these settings; defaults are left out.

    For settings whose flags are named as their fields: scalars, tuples of them, and settings
    within settings.

    Args:
        settings: The settings.
        prefix: Start of every flag's name.
        defaults: What ``parse`` returns without arguments, if not the defaults of the class.
    """
    from manifests.runtime.settings import Frozen

    arguments: list[str] = []
    for name, field in type(settings).model_fields.items():
        value, flag = getattr(settings, name), prefix + name.replace("_", "-")
        default = field.default if defaults is None else getattr(defaults, name)
        if value == default:
            continue
        if isinstance(value, Frozen):
            inner = default if isinstance(default, Frozen) else None
            arguments += arguments_of(value, f"{flag}.", inner)
        elif isinstance(value, bool):
            *above, last = flag.split(".")
            arguments.append("--" + ".".join([*above, last if value else f"no-{last}"]))
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
