"""The interface that every pose-transfer system implements.

A system says what it computes (``generate``), how it is trained (``stages``, ``run``, ``losses``)
and how the authors' weights become ours (``from_official``). It never trains, saves or loads
itself: one loop, one checkpoint format and one batch job serve all systems.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from augment.pose.pose import Pose
from manifests import keypoints, pixels
from manifests.settings import Frozen


class Adam(Frozen):
    """Adam (Kingma and Ba 2015)."""

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.999


class RMSProp(Frozen):
    """RMSProp, as Wasserstein critics use it."""

    learning_rate: float


class Constant(Frozen):
    """The learning rate never changes."""

    kind: Literal["constant"] = "constant"

    def factor(self, step: int) -> float:
        """Return the multiplier of the learning rate for the update after ``step`` updates."""
        del step
        return 1.0


class LinearTail(Frozen):
    """Constant, then linear to zero, changing once per epoch of ``epoch_steps`` updates.

    The published PyTorch rule: after ``e`` finished epochs the factor is
    ``1 - max(0, e + 2 - constant_epochs) / (tail_epochs + 1)``, so the last epoch has rate 0.
    """

    kind: Literal["linear_tail"] = "linear_tail"
    epoch_steps: int
    constant_epochs: int
    tail_epochs: int

    def factor(self, step: int) -> float:
        """Return the multiplier of the learning rate for the update after ``step`` updates."""
        finished = step // self.epoch_steps
        late = max(0, finished + 2 - self.constant_epochs)
        return max(0.0, 1.0 - late / (self.tail_epochs + 1))


class Halving(Frozen):
    """Halved every ``every`` updates."""

    kind: Literal["halving"] = "halving"
    every: int

    def factor(self, step: int) -> float:
        """Return the multiplier of the learning rate for the update after ``step`` updates."""
        return float(0.5 ** (step // self.every))


class Phase(Frozen):
    """One optimiser update."""

    name: str
    trains: tuple[str, ...]
    """Dotted prefixes of parameter names; a leading ``-`` excludes: ``("flow", "-flow.mask")``."""
    optimizer: Adam | RMSProp
    schedule: Constant | LinearTail | Halving = Constant()
    repeat: int = 1
    """Updates per step (Wasserstein critics take several)."""
    batch: Literal["shared", "fresh"] = "shared"
    """Whether the phase uses the step's forward pass or one of its own on new pairs."""
    clamp: float | None = None
    """Largest magnitude of a trained weight after the update (Wasserstein weight clipping)."""


class Stage(Frozen):
    """A part of the training: every step runs the phases in order."""

    name: str
    steps: int
    batch_size: int
    phases: tuple[Phase, ...]


@dataclass(frozen=True, slots=True)
class Condition:
    """This person, in that pose.

    ``image`` is RGB in [-1, 1]. Convention: poses are (x, y) pixels of ``image``.
    """

    image: Float[Tensor, "batch 3 height width"]
    pose: Pose
    target_pose: Pose


@dataclass(frozen=True, slots=True)
class Pair:
    """A condition and its answer: ``target`` is RGB in [-1, 1]."""

    condition: Condition
    target: Float[Tensor, "batch 3 height width"]


class PoseTransfer(nn.Module, ABC):
    """A person image generator conditioned on a pose."""

    Config: ClassVar[type[Frozen]]
    """The system's settings; their JSON stands in the checkpoint's header."""

    sampling: ClassVar[tuple[str, ...]]
    """Children that ``generate`` needs: a checkpoint holds these, an EMA follows these."""

    critics: ClassVar[tuple[str, ...]] = ()
    """Dotted names of the discriminators. A checkpoint may hold each, whole or not at all: a
    training starts from it, sampling leaves it aside."""

    @abstractmethod
    def stages(self) -> tuple[Stage, ...]:
        """Return the training plan."""

    @abstractmethod
    def generate(
        self, condition: Condition, noise: Float[Tensor, "batch width"] | None = None
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return RGB images in [-1, 1]; inference and nothing else.

        Args:
            condition: Who, and in which pose.
            noise: Standard normal, ``noise_width()`` wide; ignored where that is 0.
        """

    @abstractmethod
    def run(self, pair: Pair, stage: str) -> Mapping[str, Tensor]:
        """Return the outputs that the phases of one step share, with gradients."""

    @abstractmethod
    def losses(self, phase: str, pair: Pair, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weighted terms of one phase; the loop minimises their sum."""

    @classmethod
    @abstractmethod
    def from_official(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of one authors' file under our names.

        Args:
            weights: The authors' state dict without wrapper prefixes (``module.``, ``model.``):
                the generator's, or one discriminator's.

        Raises:
            UserError: If tensors are missing or left over; the message names some of each.
        """

    @classmethod
    def official_name(cls, name: str) -> str:
        """Return what the authors' files, without wrapper prefixes, call a tensor of ours.

        Messages name both; a system whose names are the authors' own need not say so.
        """
        return name

    def sampling_state(self) -> dict[str, Tensor]:
        """Return the tensors of the children that ``generate`` needs, by name."""
        return {
            name: value
            for name, value in self.state_dict().items()
            if name.split(".", 1)[0] in self.sampling
        }

    def noise_width(self) -> int:
        """Return how many random numbers one image takes; 0 for deterministic systems."""
        return 0

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images that the network was made for."""
        return 128, 64

    def transfer(
        self,
        image: UInt8[np.ndarray, "height width 3"],
        pose: Float[np.ndarray, "18 2"],
        target_pose: Float[np.ndarray, "18 2"],
    ) -> UInt8[np.ndarray, "network_height network_width 3"]:
        """Return one person in another pose.

        Convention: poses are (x, y) pixels of ``image``, pixel centres at integers, a missing
        joint is NaN. An image of another size is stretched to the network's, the poses with it.

        Args:
            image: RGB, 0 to 255.
            pose: Where the joints are in ``image``.
            target_pose: Where they shall be.
        """
        height, width = self.image_size
        old, new = (image.shape[1], image.shape[0]), (width, height)
        device = next(self.parameters()).device

        def poses(joints: Float[np.ndarray, "18 2"]) -> Pose:
            resized = keypoints.resize(np.asarray(joints, np.float32), old, new)
            return Pose(torch.from_numpy(resized)[None].to(device))

        stretched = image if old == new else pixels.resize(image, new)
        source = as_floats(torch.from_numpy(np.ascontiguousarray(stretched))[None].to(device))
        with torch.inference_mode():
            result = self.generate(
                Condition(source, poses(pose), poses(target_pose)),
                torch.zeros(1, self.noise_width(), device=device) if self.noise_width() else None,
            )
        return as_pixels(result)[0].cpu().numpy()


def as_floats(
    image: UInt8[Tensor, "batch height width 3"],
) -> Float[Tensor, "batch 3 height width"]:
    """Return pixels 0..255 as [-1, 1], channels innermost in memory."""
    return (image.permute(0, 3, 1, 2).float() / 127.5) - 1.0


def as_pixels(
    image: Float[Tensor, "batch 3 height width"],
) -> UInt8[Tensor, "batch height width 3"]:
    """Return [-1, 1] as pixels 0..255, truncated and not rounded, as the published code does."""
    scaled = (image.float().clamp(-1.0, 1.0) + 1.0) / 2.0 * 255.0
    return scaled.to(torch.uint8).permute(0, 2, 3, 1)
