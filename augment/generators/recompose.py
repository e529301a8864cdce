"""Recompose: a person as it is, before the street of another image. Nothing is learned.

The idea is that of background replacement for re-identification (Tian et al., "Eliminating
Background-bias for Robust Person Re-identification", CVPR 2018): what stands behind a person tells
cameras apart, not people. Cutting out and filling are ``manifests.scenes``'.
"""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from augment.interface.condition import Condition
from augment.interface.randomness import RowRandom
from augment.interface.system import Need, PoseTransfer
from manifests.runtime.settings import Frozen, Width


class Recompose(PoseTransfer):
    """The person's own pixels over the background of the target pose."""

    class Config(Frozen):
        """The size of the images."""

        image_height: Width = 128
        """Height of the images in pixels."""
        image_width: Width = 64
        """Width of the images in pixels."""

    needs: frozenset[Need] = frozenset({"mask", "background"})
    keeps_pose: ClassVar[bool] = True
    sampling: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = config or self.Config()

    def generate(
        self, condition: Condition, random: RowRandom, options: Frozen
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return the masked person before the background, RGB in [-1, 1]."""
        del random, options
        assert condition.mask is not None
        assert condition.background is not None
        street = condition.background.image
        return street + condition.mask * (condition.image - street)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images."""
        return self.config.image_height, self.config.image_width
