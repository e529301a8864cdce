"""One file per pose-transfer system; the file name is the registry."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from augment.transfer import PoseTransfer
from manifests.console import UserError


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
