"""The interface that every pose-transfer system implements.

A system says what it computes (``generate``), how it is trained (``stages``, ``run``, ``losses``)
and how the authors' weights become ours (``from_official``). It never trains, saves or loads
itself: one loop, one checkpoint format and one batch job serve all systems.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import chain
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from augment.interface.condition import Condition, Pair, as_pixels, condition_of
from augment.interface.randomness import RowRandom
from augment.interface.schedule import Stage
from manifests import keypoints, pixels
from manifests.runtime.console import UserError
from manifests.runtime.settings import Frozen

Need = Literal["target_image"]
"""What a system may ask for beside source image and poses; the readers bring it."""


class NoOptions(Frozen):
    """Nothing can be chosen at run time."""


class PoseTransfer(nn.Module, ABC):
    """A person image generator conditioned on a pose."""

    Config: ClassVar[type[Frozen]]
    """The system's settings; their JSON stands in the checkpoint's header."""

    Options: ClassVar[type[Frozen]] = NoOptions
    """What can be chosen when images are generated, such as a number of steps or a guidance scale;
    every option is a number, a text or a truth value and has a default."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    """What of the ``Condition`` the system wants filled in beyond source image and poses."""

    sampling: ClassVar[tuple[str, ...]]
    """Children that ``generate`` needs: a checkpoint holds these, an EMA follows these."""

    discriminator_names: ClassVar[tuple[str, ...]] = ()
    """Dotted names of the discriminators. A checkpoint may hold each, whole or not at all: a
    training starts from it, sampling leaves it aside."""

    @abstractmethod
    def stages(self) -> tuple[Stage, ...]:
        """Return the training plan."""

    @abstractmethod
    def generate(
        self, condition: Condition, random: RowRandom, options: Frozen
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return RGB images in [-1, 1]; inference and nothing else.

        Args:
            condition: Who, and in which pose.
            random: All randomness of the images; a deterministic system draws none.
            options: Of the class ``Options``.
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

    @property
    def device(self) -> torch.device:
        """Where the network lies; the CPU for a system without tensors."""
        tensors = chain(self.parameters(), self.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images that the network was made for."""
        return 128, 64

    def transfer(  # noqa: PLR0913 - the call from Python, with a default for most
        self,
        image: UInt8[np.ndarray, "height width 3"],
        pose: Float[np.ndarray, "18 2"],
        target_pose: Float[np.ndarray, "18 2"],
        *,
        target_image: UInt8[np.ndarray, "target_height target_width 3"] | None = None,
        seed: int = 0,
        options: Frozen | None = None,
    ) -> UInt8[np.ndarray, "network_height network_width 3"]:
        """Return one person in another pose.

        Convention: poses are (x, y) pixels of ``image``, pixel centres at integers, a missing
        joint is NaN. An image of another size is stretched to the network's, the poses with it.

        Args:
            image: RGB, 0 to 255.
            pose: Where the joints are in ``image``.
            target_pose: Where they shall be.
            target_image: What the target pose was seen in, of any size; for systems that need it.
            seed: Another one draws another image, if the system draws any; 0 to 2**64 - 1.
            options: Of the class ``Options``; by default the defaults.

        Raises:
            UserError: If the system needs a target image and there is none.
        """
        if "target_image" in self.needs and target_image is None:
            raise UserError(
                f"{type(self).__name__}: found no target_image, expected the image that the target "
                "pose was seen in"
            )
        height, width = self.image_size
        old, new = (image.shape[1], image.shape[0]), (width, height)
        device = self.device

        def stretched(
            picture: UInt8[np.ndarray, "any_height any_width 3"],
        ) -> UInt8[np.ndarray, "1 network_height network_width 3"]:
            return np.ascontiguousarray(pixels.resize(picture, new))[None]

        def resized(joints: Float[np.ndarray, "18 2"]) -> Float32[np.ndarray, "1 18 2"]:
            return keypoints.resize(np.asarray(joints, np.float32), old, new)[None]

        condition = condition_of(
            stretched(image),
            resized(pose),
            resized(target_pose),
            device=device,
            target_image=None if target_image is None else stretched(target_image),
        )
        random = RowRandom(np.array([seed], np.uint64), device)
        with torch.inference_mode():
            result = self.generate(condition, random, options or self.Options())
        return as_pixels(result)[0].cpu().numpy()
