"""Translating the authors' parameter names into ours, every tensor accounted for."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from manifests.runtime.console import UserError


def renamed(weights: Mapping[str, Tensor], rules: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the tensors under the names that the first matching rule gives them.

    Args:
        weights: The authors' tensors.
        rules: Regular expression of an authors' name -> our name (``re.sub``).

    Raises:
        UserError: If a name matches no rule.
    """
    result: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in weights.items():
        for pattern, replacement in rules.items():
            if re.search(pattern, name):
                result[re.sub(pattern, replacement, name)] = tensor
                break
        else:
            unknown.append(name)
    if unknown:
        known = [re.sub(r"[\\^$]", "", rule.replace(r"(\d+)", "0")) for rule in list(rules)[:3]]
        raise UserError(
            f"found {len(unknown)} tensors that this system does not have "
            f"({', '.join(unknown[:3])}); expected names that begin with {', '.join(known)}"
        )
    return result


def original(name: str, rules: Mapping[str, str]) -> str:
    r"""Return the authors' name of a tensor of ours: ``renamed`` backwards.

    Args:
        name: Our name; it comes back as it is where no rule leads to it.
        rules: As for ``renamed``. Patterns may hold ``^``, ``$``, ``\.`` and groups without groups
            in them; of alternatives that our name does not keep, the first is taken.

    >>> original("blocks.3.key.bias", {r"^att\.(\d+)\.(query|key)_conv\.": r"blocks.\1.\2."})
    'att.3.key_conv.bias'
    """
    for pattern, replacement in rules.items():
        groups = re.findall(r"\((.*?)\)", pattern)
        ours = re.escape(replacement)
        for number, group in enumerate(groups, start=1):
            ours = ours.replace(rf"\\{number}", f"(?P<g{number}>{group})")
        matched = re.match(ours, name)
        if matched is None:
            continue
        theirs = re.sub(r"[\\^$]", "", re.sub(r"\(.*?\)", "()", pattern))
        for number, group in enumerate(groups, start=1):
            kept = matched.groupdict().get(f"g{number}", group.partition("|")[0])
            theirs = theirs.replace("()", kept, 1)
        return theirs + name[matched.end() :]
    return name


def without_tied_weights(
    weights: Mapping[str, Tensor], tied_weights: Mapping[str, str]
) -> dict[str, Tensor]:
    """Return the tensors without those that are stored again under another name.

    Args:
        weights: The authors' tensors.
        tied_weights: Regular expression of a name -> the name under which the same tensor counts
            (``re.sub``). A file that stores it once passes.

    Raises:
        UserError: If tied weights differ, which the authors' code cannot have written.
    """
    kept: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        pattern = next((pattern for pattern in tied_weights if re.search(pattern, name)), None)
        counts = name if pattern is None else re.sub(pattern, tied_weights[pattern], name)
        if counts not in weights or counts == name:
            kept[counts] = tensor
        elif not torch.equal(weights[counts], tensor):
            raise UserError(
                f"found different values in '{name}' and '{counts}', expected one tensor that the "
                "authors' network saves twice"
            )
    return kept
