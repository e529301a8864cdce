"""The inputs and the target of a network, as tensors; pixels to floats and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from augment.pose.pose import Pose
from manifests.compute.devices import upload


@dataclass(frozen=True, slots=True)
class Background:
    """The street of an image without the person who was seen there (``manifests.scenes``)."""

    image: Float[Tensor, "batch 3 height width"]
    """RGB in [-1, 1]; where the person stood it is filled from the rim."""
    hole: Float[Tensor, "batch 1 height width"]
    """1 where it was filled, else 0."""

    def behind(
        self, person: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return an image of somebody before this street: the person in the hole alone."""
        return self.hole * person + (1 - self.hole) * self.image

    def channels(self) -> Float[Tensor, "batch 4 height width"]:
        """Return street and hole as a network takes them in."""
        return torch.cat([self.image, self.hole], dim=1)


@dataclass(frozen=True, slots=True)
class Condition:
    """This person, in that pose.

    Images are RGB in [-1, 1]. Convention: poses are (x, y) pixels of ``image``.
    """

    image: Float[Tensor, "batch 3 height width"]
    pose: Pose
    target_pose: Pose
    target_image: Float[Tensor, "batch 3 height width"] | None = None
    """The image that the target pose was seen in, of any person; for systems that need it.

    In training pairs and test pairs it is the target itself, and a system that needs it takes care
    to look only at what it may know, such as the background.
    """
    mask: Float[Tensor, "batch 1 height width"] | None = None
    """How much of each pixel of ``image`` is the person, in [0, 1]; for systems that need it."""
    background: Background | None = None
    """What the target pose was seen before; for systems that need it."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A condition and its target: ``target`` is RGB in [-1, 1]."""

    condition: Condition
    target: Float[Tensor, "batch 3 height width"]


def condition_of(  # noqa: PLR0913 - what a batch may bring, each by its name
    image: UInt8[np.ndarray, "batch height width 3"] | UInt8[Tensor, "batch height width 3"],
    joints: Float32[np.ndarray, "batch 18 2"] | Float32[Tensor, "batch 18 2"],
    target_joints: Float32[np.ndarray, "batch 18 2"] | Float32[Tensor, "batch 18 2"],
    *,
    device: torch.device | str,
    target_image: UInt8[np.ndarray, "batch height width 3"]
    | UInt8[Tensor, "batch height width 3"]
    | None = None,
    mask: UInt8[np.ndarray, "batch height width"]
    | UInt8[Tensor, "batch height width"]
    | None = None,
    background: UInt8[np.ndarray, "batch height width 3"]
    | UInt8[Tensor, "batch height width 3"]
    | None = None,
    hole: UInt8[np.ndarray, "batch height width"]
    | UInt8[Tensor, "batch height width"]
    | None = None,
) -> Condition:
    """Return the condition of a batch, on a device; the one place where one is built.

    Convention: joints are (x, y) pixels of the images, pixel centres at integers, a missing joint
    is NaN.

    Args:
        image: Sources, RGB, 0 to 255, of the network's size.
        joints: Where their joints are.
        target_joints: Where the joints shall be.
        device: Where the network runs.
        target_image: What the target poses were seen in, if the system needs it.
        mask: How much of each source pixel is the person, 0 to 255 (``manifests.scenes.alpha_of``).
        background: What the target poses were seen before, the people cut out
            (``manifests.scenes.street``).
        hole: Where they were cut out, 255, elsewhere 0; comes with ``background``.
    """
    device = torch.device(device)

    def on_device(values: np.ndarray | Tensor) -> Tensor:
        tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
        return upload(tensor, device)

    def as_share(values: np.ndarray | Tensor) -> Tensor:
        return on_device(values)[:, None].float() / 255

    behind = None
    if background is not None:
        assert hole is not None, "a background comes with its hole"
        behind = Background(as_floats(on_device(background)), as_share(hole))
    return Condition(
        as_floats(on_device(image)),
        Pose(on_device(joints)),
        Pose(on_device(target_joints)),
        None if target_image is None else as_floats(on_device(target_image)),
        None if mask is None else as_share(mask),
        behind,
    )


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
