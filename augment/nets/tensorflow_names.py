"""Variables of TensorFlow 1 as tensors of ours: names, order of axes, what is left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from torch import Tensor

from augment.nets.official_names import renamed

NEVER_READ: Final = (
    r"/(Adam|Adam_1|RMSProp|RMSProp_1|Momentum)$"
    r"|^beta[12]_power(_\d+)?$"
    r"|^Discriminator\.BN\d\.moving_(mean|variance)$"
)
"""State of optimisers, under the names that TensorFlow gives it, and the running statistics of the
discriminator's batch normalisation, which the authors' code makes and neither updates nor reads."""


def slim_names(scope: str, kind: str, layers: Iterable[str]) -> dict[str, str]:
    """Return rules, as for ``renamed``, for layers that slim numbered as they were made.

    Args:
        scope: Where the variables are.
        kind: ``Conv`` or ``fully_connected``.
        layers: Our names in the order in which the authors' code makes them.

    >>> slim_names("Pose_AE/G", "Conv", ["coarse.entry.0"])["^Pose_AE/G/Conv/weights$"]
    'coarse.entry.0.weight'
    """
    rules: dict[str, str] = {}
    for number, layer in enumerate(layers):
        name = f"{scope}/{kind}_{number}" if number else f"{scope}/{kind}"
        rules[f"^{name}/weights$"] = f"{layer}.weight"
        rules[f"^{name}/biases$"] = f"{layer}.bias"
    return rules


def from_tensorflow(variables: Mapping[str, Tensor], rules: Mapping[str, str]) -> dict[str, Tensor]:
    """Return variables under our names, their axes in PyTorch's order.

    Convolutions come as (height, width, in, out), matrices as (in, out). Names may end in ``:0``.

    Args:
        variables: The authors' variables by name.
        rules: As for ``renamed``.

    Raises:
        UserError: If a name is unknown.
    """
    named = {re.sub(r":0$", "", name): value for name, value in variables.items()}
    read = {name: value for name, value in named.items() if not re.search(NEVER_READ, name)}
    return {name: _in_order(value) for name, value in renamed(read, rules).items()}


def _in_order(value: Tensor) -> Tensor:
    if value.ndim == 4:
        return value.permute(3, 2, 0, 1)
    return value.T if value.ndim == 2 else value
