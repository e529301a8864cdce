"""One file per pose-transfer system; the file name is the registry."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Sequence
from typing import TypeVar

from pydantic import create_model

from augment.interface.system import PoseTransfer
from manifests.runtime.command_line import value_of
from manifests.runtime.console import UserError
from manifests.runtime.settings import Frozen

Settings = TypeVar("Settings", bound=Frozen)


def names() -> list[str]:
    """Return the systems' names, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def system(name: str) -> type[PoseTransfer]:
    """Return the class of one system.

    Raises:
        UserError: If there is no file of that name.
    """
    if name not in names():
        raise UserError(f"found generator '{name}', expected one of {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    (found,) = (
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, PoseTransfer)
        and value.__module__ == module.__name__
    )
    return found


def with_config(settings: type[Settings], arguments: Sequence[str]) -> type[Settings]:
    """Return settings that have, as ``config``, those of the system that a command line names.

    Args:
        settings: A class with a field ``generator``.
        arguments: The command line; without ``--generator NAME`` the field's default holds.

    Raises:
        UserError: If there is no such system.
    """
    name = value_of("--generator", arguments, str(settings.model_fields["generator"].default))
    config = system(name).Config
    return create_model(settings.__name__, __base__=settings, config=(config, config()))
