"""What a backbone is, and how to get one by the name that ``--model`` gives it.

``SOURCE/NAME`` is the network NAME of the file ``reid/models/backbones/SOURCE.py``; a plain NAME is
one of torchreid's.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Final, Literal, Protocol, cast, runtime_checkable

from torch import nn

from manifests.runtime.console import UserError
from reid.data.augmentation import IMAGENET, Normalisation
from reid.models import backbones

DEFAULT_SOURCE: Final = "torchreid"


@dataclass(frozen=True, slots=True)
class Backbone:
    """A network from images to one feature vector each, and what one must know to use it."""

    module: nn.Module
    """Normalised N x 3 x height x width to N x ``num_features``, pooled, in both modes."""
    num_features: int
    normalisation: Normalisation = IMAGENET
    """Of the weights that are published for it."""
    input_size: tuple[int, int] | None = None
    """(height, width) of the only images that it takes; none where it takes others as well."""


@dataclass(frozen=True, slots=True)
class BackboneOptions:
    """What a network is built for."""

    num_people: int
    """Classes; only a source whose networks bring a classifier of their own needs it."""
    height: int
    width: int
    last_stride: Literal[1, 2] = 2
    """1 keeps the size of the last feature map but one (Luo et al. 2019, section 3.4)."""


class Source(Protocol):
    """What a file of ``reid.models.backbones`` holds."""

    PACKAGE: str
    """Name of the installed package that the networks come from; its version is recorded."""

    def names(self) -> Sequence[str]:
        """Return the networks that ``build`` knows.

        Raises:
            UserError: If the package is not installed.
        """
        ...

    def build(self, name: str, options: BackboneOptions) -> Backbone:
        """Return a network of ``names`` with fresh weights, drawn from torch's global generator.

        Raises:
            UserError: If the network cannot have the stride or the size.
        """
        ...


@runtime_checkable
class SourceWithHeads(Protocol):
    """A source whose networks can bring a classifier of their own, as torchreid's do."""

    def build_with_head(
        self, name: str, options: BackboneOptions, *, with_features: bool
    ) -> nn.Module:
        """Return a network that gives features in evaluation mode, and logits in training.

        Args:
            name: Of the network.
            options: What it is built for.
            with_features: In training give (logits, features), or a list of each.
        """
        ...


def source_names() -> list[str]:
    """Return the sources there are, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(backbones.__path__))


def split_name(model: str) -> tuple[str, str]:
    """Return the source and the name of a network there.

    >>> split_name("osnet_x0_25"), split_name("timm/resnet18")
    (('torchreid', 'osnet_x0_25'), ('timm', 'resnet18'))
    """
    source, slash, name = model.partition("/")
    return (source, name) if slash else (DEFAULT_SOURCE, model)


def source_of(model: str) -> Source:
    """Return the source of a network, which knows a network of that name.

    Raises:
        UserError: If there is no such source or network (names the nearest ones), or the source's
            package is not installed.
    """
    source, name = split_name(model)
    if source not in source_names():
        raise UserError(
            f"--model {model}: found the source '{source}', expected one of "
            f"{', '.join(source_names())}{did_you_mean(source, source_names())}"
        )
    module = _load(source)
    names = module.names()
    if name not in names:
        near = did_you_mean(model, _names_by_flag(model, source, names))
        known = "" if near else f"; it has {', '.join(names)}"
        raise UserError(f"--model {model}: {source} has no network '{name}'{near}{known}")
    return module


def _load(source: str) -> Source:
    return cast("Source", import_module(f"{backbones.__name__}.{source}"))


def _names_by_flag(model: str, source: str, names: Sequence[str]) -> list[str]:
    """Return what ``--model`` may say: names of the source, of all if none was named."""
    if "/" in model:
        return [f"{source}/{name}" for name in names]
    found = list(names)
    for other in source_names():
        if other != source:
            try:
                found += [f"{other}/{name}" for name in _load(other).names()]
            except UserError:
                # Its package is not installed.
                continue
    return found


def did_you_mean(given: str, known: Sequence[str]) -> str:
    """Return the nearest names as the end of a sentence, nothing if none is near.

    The part after the source counts, so that a network is found in whichever source has it.
    """
    by_name: dict[str, list[str]] = {}
    for name in known:
        by_name.setdefault(name.rpartition("/")[2], []).append(name)
    wanted = given.rpartition("/")[2]
    # A family is named by how its names begin: osnet, mobilenet.
    family = [name for name in by_name if wanted and name.startswith(wanted)]
    close = get_close_matches(wanted, by_name, n=3, cutoff=0.7)
    close = close or get_close_matches(wanted, family, n=3, cutoff=0.0)
    near = [name for short in close for name in by_name[short]]
    return f"; did you mean {' or '.join(near)}?" if near else ""
