"""Settings and their flags: which flag has which value, and a YAML file in the place of flags.

``--config FILE`` stands for the flags that the file holds. Every run leaves such a file of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from manifests.runtime.console import UserError

if TYPE_CHECKING:
    from manifests.runtime.settings import Frozen
    from manifests.runtime.storage import StoragePath

CONFIG: Final = "--config"
RECORD: Final = "settings.yaml"
"""What a run leaves of its command line, in its folder."""

_MOST_BYTES: Final = 1 << 20
"""Of a file of settings; a device has no end."""

_OF_ONE_CALL: Final = {"worker", "dry-run", "retry-failed", "tables-only", "print", "wait"}
"""Flags that say what one process does, and nothing of the run."""


def switch(flag: str, *, on: bool) -> str:
    """Return the argument that turns a flag on or off.

    >>> switch("quiet", on=True), switch("config.attention", on=False)
    ('--quiet', '--config.no-attention')
    """
    *above, last = flag.split(".")
    return "--" + ".".join([*above, last if on else f"no-{last}"])


def flags_of(settings: Frozen, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Give the flags of settings and of those within them, each with its value.

    A positional argument goes by the name of its field. Hidden ones are left out.
    """
    from manifests.runtime.settings import Frozen

    for field, flag in named_fields(type(settings), prefix):
        value = getattr(settings, field)
        if isinstance(value, Frozen):
            yield from flags_of(value, flag)
        else:
            yield flag, value


def named_fields(settings: type[Frozen], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Give the fields of settings that are not hidden, each with its flag.

    Of settings within them it is the start of their flags, which ends with a dot or is ``prefix``.
    """
    from tyro.conf import OmitArgPrefixes, Suppress, arg

    from manifests.runtime.settings import Frozen

    named: Any = type(arg(name=""))
    for field, info in settings.model_fields.items():
        if Suppress in info.metadata:
            continue
        own = [mark.name for mark in info.metadata if isinstance(mark, named)]
        name = own[0] if own and own[0] is not None else field.replace("_", "-")
        kind = info.annotation
        if not (isinstance(kind, type) and issubclass(kind, Frozen)):
            yield field, prefix + name
        elif not name or OmitArgPrefixes in info.metadata:
            yield field, prefix
        else:
            yield field, f"{prefix}{name}."


def positional_names(settings: type[Frozen]) -> list[str]:
    """Return the fields that stand on a command line without a flag, in their order."""
    from tyro.conf import Positional

    fields = settings.model_fields.items()
    return [name for name, info in fields if Positional in info.metadata]


@dataclass(frozen=True, slots=True)
class Typed:
    """A command line, and what the files hold that it names by ``--config``."""

    arguments: list[str]
    """What was typed beside."""
    entries: Mapping[str, Any]

    def whole(self, positional: Sequence[str] = ()) -> list[str]:
        """Return a command line in which the files have become the flags in them.

        They come before the flags that were typed, which win.

        Args:
            positional: Entries of the files that are no flags; left out where some are typed.
        """
        entries = dict(self.entries)
        # What is typed before the first flag; one with several values would swallow it behind.
        flags = (place for place, one in enumerate(self.arguments) if one.startswith("-"))
        num_first = next(flags, len(self.arguments))
        first = self.arguments[:num_first]
        values = [entries.pop(name.replace("_", "-"), None) for name in positional]
        if not first:
            first = [str(one) for value in values for one in _listed(value)]
        return [*first, *_arguments(entries), *self.arguments[num_first:]]


def read_files(arguments: Sequence[str]) -> Typed:
    """Return a command line with its files read, once: one may be a pipe.

    Raises:
        UserError: If a file is missing, or holds no settings.
    """
    typed: list[str] = []
    entries: dict[str, Any] = {}
    rest = iter(arguments)
    for argument in rest:
        if argument == CONFIG or argument.startswith(f"{CONFIG}="):
            _, equals, name = argument.partition("=")
            entries |= _read(Path(name if equals else next(rest, "")))
        else:
            typed.append(argument)
    return Typed(typed, entries)


def _read(path: Path) -> dict[str, Any]:
    """Return the entries of a file, flat: one per flag."""
    import yaml

    try:
        with path.open("rb") as file:  # perhaps a pipe of the shell's
            text = file.read(_MOST_BYTES).decode("utf-8")
        found: Any = yaml.safe_load(text)
        # One that stands for a collection may make it endless.
        has_alias = any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise UserError(
            f"{CONFIG} {path}: cannot be read ({reason}); expected a YAML file of settings, as a "
            f"run leaves in its {RECORD}"
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        where = " ".join(str(error).split())
        raise UserError(f"{CONFIG} {path}: found no YAML ({where})") from error
    if has_alias:
        raise UserError(f"{CONFIG} {path}: found an alias (*NAME), expected the values themselves")
    if not isinstance(found, dict):
        raise UserError(f"{CONFIG} {path}: expected flags with their values, as in 'per-id: 10'")
    return dict(_flat(found, ""))


def _flat(entries: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in entries.items():
        name = prefix + str(key).replace("_", "-")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _arguments(entries: Mapping[str, Any]) -> Iterator[str]:
    for flag, value in entries.items():
        if isinstance(value, bool):
            yield switch(flag, on=value)
        elif isinstance(value, list):
            yield f"--{flag}"
            yield from map(str, value)
        else:
            yield f"--{flag}={value}"


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def write_record(settings: Frozen, command: str) -> None:
    """Leave the settings in the folder of the run that a command has made, if they are not there.

    Args:
        settings: With a flag ``out``.
        command: For the first line, for example ``augment generate``.
    """
    import yaml

    flags = dict(flags_of(settings))
    out: Any = flags.get("out")
    if flags.get("dry-run") or not hasattr(out, "is_dir"):
        return
    entries = {
        name: _plain(value)
        for name, value in flags.items()
        if name not in _OF_ONE_CALL and value is not None
    }
    text = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=100)
    about = f"# {command} {CONFIG} {RECORD} --out NEW makes this run again.\n"
    _create(out, (about + text).encode())


def _create(folder: StoragePath, data: bytes) -> None:
    from manifests.runtime.storage import create

    # The run is complete without it.
    with suppress(UserError, OSError):
        if folder.is_dir():
            create(folder / RECORD, data)


def _plain(value: object) -> object:
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return str(value)
