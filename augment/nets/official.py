"""Translating the authors' parameter names into ours, every tensor accounted for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from manifests.console import UserError

_NUM_NAMED = 4
"""How many tensors an error names."""


def renamed(weights: Mapping[str, Tensor], rules: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the tensors under the names that the first matching rule gives them.

    Args:
        weights: The authors' tensors.
        rules: Regular expression of an authors' name -> our name (``re.sub``).

    Raises:
        UserError: If a name matches no rule.
    """
    result: dict[str, Tensor] = {}
    strangers: list[str] = []
    for name, tensor in weights.items():
        for pattern, replacement in rules.items():
            if re.search(pattern, name):
                result[re.sub(pattern, replacement, name)] = tensor
                break
        else:
            strangers.append(name)
    if strangers:
        raise UserError(
            f"found {len(strangers)} tensors that this system does not have "
            f"({', '.join(strangers[:3])}); expected names like "
            f"{', '.join(list(rules)[:3])}"
        )
    return result


def without_twins(
    weights: Mapping[str, Tensor], twins: Mapping[str, str], system: str
) -> dict[str, Tensor]:
    """Return the tensors without those that are stored again under another name.

    Args:
        weights: The authors' tensors.
        twins: Regular expression of a name -> the name under which the same tensor counts
            (``re.sub``). A file without a twin passes.
        system: Named in errors.

    Raises:
        UserError: If twins differ, which the authors' code cannot have written.
    """
    kept: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        pattern = next((pattern for pattern in twins if re.search(pattern, name)), None)
        counts = name if pattern is None else re.sub(pattern, twins[pattern], name)
        if counts not in weights or counts == name:
            kept[counts] = tensor
        elif not torch.equal(weights[counts], tensor):
            raise UserError(
                f"{system} weights: found different values under '{name}' and '{counts}', "
                "expected one tensor saved twice"
            )
    return kept


def accounted(
    weights: Mapping[str, Tensor], build: Callable[[], nn.Module], children: Iterable[str]
) -> dict[str, Tensor]:
    """Return the tensors if names and shapes are exactly those of a network's children.

    Args:
        weights: Tensors under our names.
        build: Makes the network at its published size; no memory is spent on its weights.
        children: Which of its children the tensors are for.

    Raises:
        UserError: If a tensor is missing, left over, or of another shape.
    """
    with torch.device("meta"):
        network = build()
    system = type(network).__name__
    expected = {
        f"{child}.{name}": tuple(value.shape)
        for child in children
        for name, value in network.get_submodule(child).state_dict().items()
    }
    missing = sorted(expected.keys() - weights.keys())
    extra = sorted(weights.keys() - expected.keys())
    if missing or extra:
        raise UserError(
            f"these are not {system} weights: missing {_some(missing)}; left over {_some(extra)} "
            f"(expected {len(expected)} tensors, found {len(weights)})"
        )
    for name, shape in expected.items():
        found = tuple(weights[name].shape)
        if found != shape:
            raise UserError(
                f"these are not {system} weights: '{name}' has shape {found}, expected {shape}"
            )
    return dict(weights)


def _some(names: list[str]) -> str:
    if not names:
        return "none"
    shown = ", ".join(f"'{name}'" for name in names[:_NUM_NAMED])
    return shown if len(names) <= _NUM_NAMED else f"{shown} and {len(names) - _NUM_NAMED} more"
