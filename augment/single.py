"""The command ``augment transfer``: one image from one image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from tyro.conf import Positional

from augment.checkpoints import store
from augment.devices import pick_device
from augment.pose.detect import load_estimator
from manifests import io, keypoints, pixels
from manifests.console import Console, Exit, UserError
from manifests.settings import Frozen


class TransferSettings(Frozen):
    """Show one person in another pose."""

    source: Positional[str]
    """The person: an image_id of --images, or an image file with --estimator."""
    pose: str
    """Whose pose: an image_id of --images, or an image file with --estimator."""
    out: Path
    """Where the image goes (.jpg or .png)."""
    images: Path | None = None
    """Images table with keypoints (made by 'augment index')."""
    root: Path | None = None
    """Where the images lie, if not where the table says."""
    estimator: str | None = None
    """Pose estimator for image files: FILE.tflite of MoveNet, or keypointrcnn."""
    weights: str = "patn-market1501"
    """Name of shipped weights, or a file."""
    device: str = "auto"
    """Where the network runs: auto, cpu, cuda or cuda:N."""


@dataclass(frozen=True, slots=True)
class Posed:
    """An image and where its joints are; (x, y) pixels, a missing joint NaN."""

    image: UInt8[np.ndarray, "height width 3"]
    joints: Float[np.ndarray, "18 2"]


def transfer(settings: TransferSettings, console: Console) -> Exit:
    """Write one image.

    Raises:
        UserError: If an image or a pose cannot be had, or the ending of ``out`` is unknown.
    """
    if settings.out.suffix not in (".jpg", ".png"):
        raise UserError(
            f"--out {settings.out}: found ending '{settings.out.suffix}', expected .jpg or .png"
        )
    source, target = (_posed(name, settings) for name in (settings.source, settings.pose))
    network = store.load(settings.weights, pick_device(settings.device))
    height, width = source.image.shape[:2]
    size = (target.image.shape[1], target.image.shape[0])
    target_pose = keypoints.resize(target.joints, size, (width, height))
    made = network.transfer(source.image, source.joints, target_pose)
    encoded = pixels.encode_png(made) if settings.out.suffix == ".png" else pixels.encode_jpeg(made)
    io.write_bytes(encoded, settings.out)
    console.say(f"{settings.out}: {settings.source} in the pose of {settings.pose}")
    return Exit.DONE


def _posed(name: str, settings: TransferSettings) -> Posed:
    """Return an image with its joints, from the table or by the estimator."""
    if settings.images is not None:
        images = io.read_images(settings.images, settings.root)
        ids = images.strings("image_id")
        if name not in ids:
            raise UserError(f"{settings.images}: found no image_id '{name}'")
        row = ids.index(name)
        posed = Posed(pixels.read(images.file(row)), images.keypoints()[row])
        where = f"{settings.images}: '{name}'"
    elif settings.estimator is not None:
        image = pixels.read(Path(name))
        posed = Posed(image, load_estimator(settings.estimator).joints([image])[0])
        where = f"{name}: {settings.estimator}"
    else:
        raise UserError(
            "found neither --images nor --estimator, expected a table with keypoints or a pose "
            "estimator"
        )
    if not keypoints.visible(posed.joints).any():
        raise UserError(f"{where}: found no joint, expected a pose")
    return posed
