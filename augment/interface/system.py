"""The interface that every pose-transfer system implements.

A system says what it computes (``generate``), how it is trained (``stages``, ``run``, ``losses``)
and how the authors' weights become ours (``from_official``). It never trains, saves or loads
itself: one loop, one checkpoint format and one batch job serve all systems.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import chain
from typing import Any, ClassVar, Final, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor, nn

from augment.interface.condition import Condition, Pair, as_pixels, condition_of
from augment.interface.randomness import RowRandom
from augment.interface.schedule import Stage
from augment.pose.pose import Pose
from manifests import keypoints, masks, pixels, scenes
from manifests.keypoint_check import as_joints, check_keypoints
from manifests.runtime.console import UserError
from manifests.runtime.settings import Frozen

Joints = Float[np.ndarray, "18 2"]
ImageLike = Any
"""An image of 8 bits: an array, a tensor or a PIL image (``pixels.as_rgb``)."""
PoseLike = Any
"""18 joints: an array, a tensor or a list (``keypoint_check.as_joints``)."""

Need = Literal["target_image", "mask", "background"]
"""What a system may ask for beside source image and poses, by its name in ``Condition``; the
readers bring it."""


class NoOptions(Frozen):
    """Nothing can be chosen at run time."""


class PoseTransfer(nn.Module, ABC):
    """A person image generator conditioned on a pose."""

    Config: ClassVar[type[Frozen]]
    """The system's settings; their JSON stands in the checkpoint's header."""

    Options: ClassVar[type[Frozen]] = NoOptions
    """What can be chosen when images are generated, such as a number of steps or a guidance scale;
    every option is a number, a text or a truth value and has a default."""

    needs: frozenset[Need] = frozenset()
    """What of the ``Condition`` the system wants filled in beyond source image and poses; of the
    class, or of a network where its settings decide."""

    keeps_pose: ClassVar[bool] = False
    """Whether its images show the source's own pose; the target pose then only brings along what
    it was seen before."""

    factors: ClassVar[tuple[str, ...]] = ()
    """What ``take_apart`` takes images apart into; most systems do not."""

    draws_people: ClassVar[bool] = False
    """Whether ``new_people`` draws people who do not exist; most systems do not."""

    options_beyond_labels: ClassVar[tuple[str, ...]] = ()
    """Options whose images show another person or pose than they are asked for."""

    sampling: ClassVar[tuple[str, ...]]
    """Children that ``generate`` needs: a checkpoint holds these, an EMA follows these."""

    discriminator_names: ClassVar[tuple[str, ...]] = ()
    """Dotted names of the discriminators. A checkpoint may hold each, whole or not at all: a
    training starts from it, sampling leaves it aside."""

    def stages(self) -> tuple[Stage, ...]:
        """Return the training plan; empty for a system that has nothing to train."""
        return ()

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

    def take_apart(
        self, image: Float[Tensor, "batch 3 height width"], pose: Pose
    ) -> dict[str, Tensor]:
        """Return a code for each of ``factors``, float numbers that may be mixed.

        Args:
            image: RGB in [-1, 1], of the network's size.
            pose: Where the people are in it.

        Raises:
            UserError: If the system does not take images apart.
        """
        del image, pose
        raise UserError(
            f"{type(self).__name__}: does not take images apart, expected weights of a system that "
            "has codes of foreground, background and pose"
        )

    def put_together(
        self, codes: Mapping[str, Tensor], pose: Pose | None = None
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return RGB images in [-1, 1] of codes as ``take_apart`` gives them.

        Args:
            codes: One for each of ``factors``.
            pose: The pose itself, in pixels of the network's images, in place of its code.
        """
        raise NotImplementedError

    def new_people(
        self, who: RowRandom, random: RowRandom, target_pose: Pose
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return RGB images in [-1, 1] of people who do not exist.

        Args:
            who: Rows of equal seeds show one person.
            random: All that may differ between two images of a person but the pose.
            target_pose: In pixels of the network's images.
        """
        raise NotImplementedError

    def run(self, pair: Pair, stage: str) -> Mapping[str, Tensor]:
        """Return the outputs that the phases of one step share, with gradients."""
        raise NotImplementedError

    def losses(self, phase: str, pair: Pair, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weighted terms of one phase; the loop minimises their sum."""
        raise NotImplementedError

    @classmethod
    def from_official(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of one authors' file under our names.

        Args:
            weights: The authors' state dict without wrapper prefixes (``module.``, ``model.``):
                the generator's, or one discriminator's.

        Raises:
            UserError: If tensors are missing or left over; the message names some of each. Or if
                the system has no authors' weights.
        """
        del weights
        raise UserError(f"{cls.__name__}: has no authors' weights to convert")

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
        image: ImageLike,
        pose: PoseLike,
        target_pose: PoseLike,
        *,
        target_image: ImageLike | None = None,
        mask: Bool[np.ndarray, "height width"] | None = None,
        target_mask: Bool[np.ndarray, "target_height target_width"] | None = None,
        seed: int = 0,
        options: Frozen | None = None,
    ) -> UInt8[np.ndarray, "network_height network_width 3"]:
        """Return one person in another pose.

        Convention: poses are (x, y) pixels of ``image``, pixel centres at integers, a missing
        joint is NaN. An image of another size is stretched to the network's, the poses with it.

        Args:
            image: RGB, height x width x 3 of uint8, or what ``pixels.as_rgb`` takes for it.
            pose: Where the joints are in ``image``, 18 x 2, or what ``as_joints`` takes for it.
            target_pose: Where they shall be.
            target_image: What the target pose was seen in, of any size; for systems that need it
                or the background behind the pose.
            mask: Where the person is in ``image``; for systems that need it.
            target_mask: Where somebody is in ``target_image`` who is not to be seen; for systems
                that need the background.
            seed: Another one draws another image, if the system draws any; 0 to 2**64 - 1.
            options: Of the class ``Options``; by default the defaults.

        Raises:
            UserError: If something is missing that the system needs, an image or a pose is none,
                or the joints cannot be pixels of the image.
        """
        image, pose, target_pose = _checked(image, pose, target_pose)
        if target_image is not None:
            target_image = pixels.as_rgb(target_image, "target_image")
        for name, given_mask, of in (
            ("mask", mask, image),
            ("target_mask", target_mask, target_image),
        ):
            _check_mask(name, given_mask, of)
        if not 0 <= seed < 2**64:
            raise UserError(f"seed: found {seed}, expected 0 to 2**64 - 1")
        needs = self.needs
        given = {"target_image": target_image, "mask": mask, "target_mask": target_mask}
        needed = {"mask"} & needs
        needed |= {"target_image"} if needs & {"target_image", "background"} else set()
        needed |= {"target_mask"} if "background" in needs else set()
        for name in sorted(needed):
            if given[name] is None:
                raise UserError(
                    f"{type(self).__name__}: found no {name}, expected {_MEANING[name]}"
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
            mask=None if mask is None else scenes.alpha_of(masks.resize_mask(mask, new))[None],
            **_background(target_image, target_mask, new),
        )
        random = RowRandom(np.array([seed], np.uint64), device)
        with torch.inference_mode():
            result = self.generate(condition, random, options or self.Options())
        return as_pixels(result)[0].cpu().numpy()


def _checked(
    image: ImageLike, pose: PoseLike, target_pose: PoseLike
) -> tuple[UInt8[np.ndarray, "height width 3"], Joints, Joints]:
    """Return image and poses as arrays, if the poses can be pixels of the image."""
    picture = pixels.as_rgb(image)
    size = np.array([picture.shape[1::-1]], np.float64)
    joints = [as_joints(pose, "pose"), as_joints(target_pose, "target_pose")]
    for name, found in zip(("pose", "target_pose"), joints, strict=True):
        check_keypoints(found[None], size, name)
    return picture, joints[0], joints[1]


def _check_mask(name: str, mask: Any, image: np.ndarray | None) -> None:
    if mask is None or image is None:
        return
    found = np.asarray(mask)
    if found.dtype != bool or found.shape != image.shape[:2]:
        raise UserError(
            f"{name}: found {' x '.join(map(str, found.shape))} of {found.dtype}, expected "
            f"{image.shape[0]} x {image.shape[1]} of bool, as its image"
        )


_MEANING: Final = {
    "mask": "where the person is in the image (--estimator blazepose and 'augment detect --masks' "
    "find it)",
    "target_image": "the image that the target pose was seen in",
    "target_mask": "where somebody is in the target image (found likewise)",
}


def _background(
    image: UInt8[np.ndarray, "any_height any_width 3"] | None,
    mask: Bool[np.ndarray, "any_height any_width"] | None,
    size: tuple[int, int],
) -> dict[str, np.ndarray]:
    """Return the arguments of ``condition_of`` for one background, none without image and mask."""
    if image is None or mask is None:
        return {}
    mask = masks.resize_mask(mask, size)
    street = scenes.street(pixels.resize(image, size), mask)
    return {"background": street[None], "hole": scenes.hole_of(mask)[None]}
