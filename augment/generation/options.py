"""Run-time options: fields of the command that the system of the named weights decides on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from pydantic import create_model

from augment.checkpoints import store
from augment.generation.settings import DEFAULT_WEIGHTS
from augment.interface.system import PoseTransfer
from manifests.runtime.command_line import value_of
from manifests.runtime.settings import Frozen

Settings = TypeVar("Settings", bound=Frozen)


def with_options(settings: type[Settings], arguments: Sequence[str]) -> type[Settings]:
    """Return settings that have, as ``options``, those of the system that a command line names.

    Args:
        settings: A class with a field ``weights``; returned as it is if the system has no options.
        arguments: The command line; without ``--weights NAME`` the default weights hold.

    Raises:
        UserError: If there are no such weights.
    """
    name = value_of("--weights", arguments, default=DEFAULT_WEIGHTS)
    options = store.system_of(name).Options
    if not options.model_fields:
        return settings
    return create_model(
        settings.__name__,
        __base__=settings,
        __doc__=settings.__doc__,
        options=(options, options()),
    )


def options_of(settings: Frozen, system: type[PoseTransfer]) -> Frozen:
    """Return the options that settings hold, by default the system's defaults.

    Raises:
        UserError: If they are of another system.
    """
    options: Frozen | None = getattr(settings, "options", None)
    if options is None:
        return system.Options()
    return system.Options.from_json(options.to_json(), where="--options")
