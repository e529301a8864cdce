"""RMSProp as TensorFlow 1 computes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import torch
from torch import Tensor

DECAY: Final = 0.9
EPSILON: Final = 1e-10


class TensorFlowRMSProp(torch.optim.Optimizer):
    """``m = 0.9 m + 0.1 g^2`` from 1 on, then ``lr g / sqrt(m + 1e-10)``; no momentum.

    Torch's own begins with m = 0, so that its first update does not depend on the gradient's
    size, and adds epsilon outside the root.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the parameters that have a gradient."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                square = self.state[parameter].setdefault("square", torch.ones_like(parameter))
                square.mul_(DECAY).addcmul_(gradient, gradient, value=1 - DECAY)
                root = (square + EPSILON).sqrt_()
                parameter.addcdiv_(gradient, root, value=-group["lr"])
