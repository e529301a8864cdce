"""The command ``augment transfer``: one image from one, or from the factors of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from tyro.conf import Positional

from augment.checkpoints import store
from augment.generation.options import options_of, with_options
from augment.generation.settings import DEFAULT_WEIGHTS
from augment.interface.factors import PosedImage, interpolated, swapped
from augment.interface.system import PoseTransfer
from augment.pose.estimators.registry import load_estimator
from manifests import io, keypoints, pixels
from manifests.compute.devices import pick_device
from manifests.masks import Mask, mask_of
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.settings import Frozen


class TransferSettings(Frozen):
    """Show one person in another pose, or before another background, or becoming somebody else."""

    source: Positional[str]
    """The person: an image_id of --images, or an image file with --estimator."""
    pose: str | None = None
    """Whose pose: an image_id of --images, or an image file with --estimator."""
    background: str | None = None
    """Whose background, named likewise, for systems that take images apart (dpig); default: the
    source's."""
    towards: str | None = None
    """In place of --pose: draw a strip of images from the source to this one, named likewise, for
    systems that take images apart."""
    steps: Annotated[int, Field(ge=2)] = 8
    """Images of that strip, both ends among them."""
    out: Path
    """Where the image goes (.jpg or .png)."""
    images: Path | None = None
    """Images table with keypoints (made by 'augment index')."""
    root: Path | None = None
    """Where the images lie, if not where the table says."""
    estimator: str | None = None
    """Pose estimator for image files: blazepose, which finds masks too, as the default weights need
    them; FILE.tflite of MoveNet, or keypointrcnn."""
    estimator_weights: str | None = None
    """Weights of Keypoint R-CNN: a file, or download."""
    weights: str = DEFAULT_WEIGHTS
    """Name of shipped weights, or a file."""
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    """Another seed draws another image, if the system draws any."""
    device: str = "auto"
    """Where the networks run: auto, cpu, cuda or cuda:N."""


@dataclass(frozen=True, slots=True)
class Posed:
    """An image and where its joints are; (x, y) pixels, a missing joint NaN."""

    image: UInt8[np.ndarray, "height width 3"]
    joints: Float[np.ndarray, "18 2"]
    mask: Mask | None = None
    """Where the person is, if that is known."""

    @property
    def posed(self) -> PosedImage:
        """The image and its joints."""
        return PosedImage(self.image, self.joints)


def settings_for(arguments: Sequence[str]) -> type[TransferSettings]:
    """Return the settings of ``augment transfer``, with the options of the system that is named.

    Raises:
        UserError: If there are no such weights.
    """
    return with_options(TransferSettings, arguments)


def transfer(settings: TransferSettings, console: Console) -> Exit:
    """Write one image.

    Raises:
        UserError: If an image or a pose cannot be had, or the ending of ``out`` is unknown.
    """
    if settings.out.suffix not in (".jpg", ".png"):
        raise UserError(
            f"--out {settings.out}: found ending '{settings.out.suffix}', expected .jpg or .png"
        )
    names = _other_images(settings)
    device = pick_device(settings.device)
    posed = _source_of_poses(settings, device)
    found = {name: posed(name) for name in (settings.source, *names)}
    for name, one in found.items():
        if not keypoints.visible(one.joints).any():
            where = settings.images or settings.estimator
            raise UserError(f"{where}: found no joint in '{name}', expected a pose")
    network = store.load(settings.weights, device)
    options = options_of(settings, type(network))
    if (settings.background or settings.towards) and options != type(options)():
        raise UserError(
            "found --options beside --background or --towards, which draw nothing at random; "
            "expected one or the other"
        )
    source, *others = (found[name].posed for name in (settings.source, *names))
    if settings.towards is not None:
        made = np.concatenate(list(interpolated(network, source, others[0], settings.steps)), 1)
        what = f"from {settings.source} to {settings.towards}"
    elif settings.background is not None:
        pose, background = others
        made = swapped(network, source, background, pose)
        what = f"{settings.source} before the background of {settings.background} in the pose of"
        what = f"{what} {settings.pose}"
    else:
        made = _transferred(network, found[settings.source], found[names[0]], settings, options)
        what = f"{settings.source} in the pose of {settings.pose}"
    encoded = pixels.encode_png(made) if settings.out.suffix == ".png" else pixels.encode_jpeg(made)
    io.write_bytes(encoded, settings.out)
    console.say(f"{settings.out}: {what}")
    return Exit.DONE


def _other_images(settings: TransferSettings) -> list[str]:
    """Return the images beside the source: the last, or that of the pose and of the background.

    Raises:
        UserError: If there is none, or there are some of both kinds.
    """
    if settings.towards is not None:
        if settings.pose is not None or settings.background is not None:
            raise UserError(
                "found --towards beside --pose or --background, expected one or the other: a strip "
                "goes from the source to one image in all factors"
            )
        return [settings.towards]
    if settings.pose is None:
        raise UserError("found neither --pose nor --towards, expected one of them")
    return [settings.pose, *([settings.background] if settings.background is not None else [])]


def _transferred(
    network: PoseTransfer,
    source: Posed,
    target: Posed,
    settings: TransferSettings,
    options: Frozen,
) -> UInt8[np.ndarray, "height width 3"]:
    height, width = source.image.shape[:2]
    size = (target.image.shape[1], target.image.shape[0])
    return network.transfer(
        source.image,
        source.joints,
        keypoints.resize(target.joints, size, (width, height)),
        target_image=target.image,
        mask=source.mask,
        target_mask=target.mask,
        seed=settings.seed,
        options=options,
    )


def _source_of_poses(settings: TransferSettings, device: torch.device) -> Callable[[str], Posed]:
    """Return what gives an image with its joints by name: the table or the estimator."""
    if settings.images is not None and settings.estimator is not None:
        raise UserError("found --images and --estimator, expected one of them")
    if settings.images is not None:
        images = io.read_images(settings.images, settings.root)
        rows = {name: row for row, name in enumerate(images.strings("image_id"))}
        joints = images.keypoints()

        def of_table(name: str) -> Posed:
            if name not in rows:
                raise UserError(f"{settings.images}: found no image_id '{name}'")
            row = rows[name]
            image = pixels.read(images.file(row))
            known = images.table["mask"][row].is_valid
            size = (image.shape[1], image.shape[0])
            return Posed(image, joints[row], mask_of(images, row, size) if known else None)

        return of_table
    if settings.estimator is not None:
        estimator = load_estimator(settings.estimator, device, settings.estimator_weights)

        def of_estimator(name: str) -> Posed:
            image = pixels.read(Path(name))
            (found,) = estimator.detect([image])
            return Posed(image, found.joints, found.mask)

        return of_estimator
    raise UserError(
        "found neither --images nor --estimator, expected a table with keypoints or a pose "
        "estimator (--estimator blazepose)"
    )
