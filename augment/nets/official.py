"""Translating the authors' parameter names into ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from manifests.console import UserError


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
