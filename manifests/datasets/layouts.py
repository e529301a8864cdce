"""The layouts of data set folders; the file name is the registry.

A file of this package with a ``LAYOUT`` is a layout, named after the file.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from manifests import datasets
from manifests.datasets.keypoint_files import KeypointOptions
from manifests.runtime.console import UserError

if TYPE_CHECKING:
    from manifests.datasets.crops import Report
    from manifests.io import Images

DEFAULT: Final = "market1501"


@dataclass(frozen=True, slots=True)
class LayoutOptions:
    """Flags of ``augment index`` that not every layout takes."""

    keypoints: KeypointOptions = field(default_factory=KeypointOptions)
    table: Path | None = None
    pattern: str | None = None
    columns: tuple[str, ...] = ()
    """NAME=COLUMN each: what a column of ``table`` is called there."""
    test_people: float = 0.0
    """Draw this share of the people for query and gallery; 0 keeps splits as they are."""
    allow_skipped: bool = False
    """Take the rest where more than a few images are none of the data set by their names."""
    skip_broken: bool = False
    """Leave out, and count, images that cannot be read."""


NO_OPTIONS: Final = LayoutOptions()


@dataclass(frozen=True, slots=True)
class Layout:
    """How the folder of a data set is read."""

    summary: str
    """One line for the help."""
    read: Callable[[Path, LayoutOptions], tuple[Images, Report]]
    """From the folder to its images table; raises a ``UserError`` for what is wrong in there."""
    options: tuple[str, ...] = ()
    """The fields of ``LayoutOptions`` that it takes; others are refused."""


def layouts() -> dict[str, Layout]:
    """Return all layouts by name, sorted."""
    modules = {
        name: importlib.import_module(f"{datasets.__name__}.{name}")
        for name in sorted(module.name for module in pkgutil.iter_modules(datasets.__path__))
    }
    return {name: module.LAYOUT for name, module in modules.items() if hasattr(module, "LAYOUT")}


def layout(name: str) -> Layout:
    """Return one layout.

    Raises:
        UserError: If there is none of this name.
    """
    known = layouts()
    if name not in known:
        raise UserError(f"--layout: found '{name}', expected one of {', '.join(known)}")
    return known[name]
