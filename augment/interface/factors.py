"""Images made of the factors of several: swapped, or on the way from one to the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8

from augment.interface.condition import Condition, as_pixels, condition_of
from augment.interface.system import PoseTransfer
from manifests import keypoints, pixels
from manifests.runtime.console import UserError


@dataclass(frozen=True, slots=True)
class PosedImage:
    """An image of any size and where its joints are.

    Convention: joints are (x, y) pixels of the image, pixel centres at integers, a missing joint is
    NaN.
    """

    image: UInt8[np.ndarray, "height width 3"]
    joints: Float[np.ndarray, "18 2"]


@torch.inference_mode()
def swapped(
    network: PoseTransfer, person: PosedImage, background: PosedImage, pose: PosedImage
) -> UInt8[np.ndarray, "network_height network_width 3"]:
    """Return one image's person before another's background in the pose of a third.

    Args:
        network: Of a system with ``factors``.
        person: Its foreground is taken.
        background: What is behind its person is taken.
        pose: Its joints are taken, as they are.

    Raises:
        UserError: If the system does not take images apart.
    """
    of_person, of_background, of_pose = (_seen(network, one) for one in (person, background, pose))
    codes = network.take_apart(of_person.image, of_person.pose)
    behind = network.take_apart(of_background.image, of_background.pose)
    mixed = codes | {"background": behind["background"]}
    return as_pixels(network.put_together(mixed, of_pose.pose))[0].cpu().numpy()


@torch.inference_mode()
def interpolated(
    network: PoseTransfer, first: PosedImage, last: PosedImage, count: int
) -> UInt8[np.ndarray, "count network_height network_width 3"]:
    """Return images on the straight line between the codes of two, both ends among them.

    Args:
        network: Of a system with ``factors``.
        first: What the line begins with, put together from its codes.
        last: What it ends with.
        count: How many images, at least 2.

    Raises:
        UserError: If there are fewer than 2, or the system does not take images apart.
    """
    if count < 2:
        raise UserError(f"found {count} images of a line, expected at least 2: its ends")
    begin, end = (
        network.take_apart(seen.image, seen.pose)
        for seen in (_seen(network, first), _seen(network, last))
    )
    share = torch.linspace(0, 1, count, device=network.device)[:, None]
    codes = {name: torch.lerp(begin[name], end[name], share) for name in begin}
    return as_pixels(network.put_together(codes)).cpu().numpy()


def _seen(network: PoseTransfer, given: PosedImage) -> Condition:
    """Return an image and its joints stretched to the network's size."""
    height, width = network.image_size
    size = (given.image.shape[1], given.image.shape[0])
    image = np.ascontiguousarray(pixels.resize(given.image, (width, height)))[None]
    joints = keypoints.resize(np.asarray(given.joints, np.float32), size, (width, height))[None]
    return condition_of(image, joints, joints, device=network.device)
