"""The JPEG compression that published scores went through.

The test scripts of PATN and XingGAN write five panels side by side (source, its pose, target, its
pose, generated image) as one JPEG file, quality 75; the evaluator cuts the generated image *and
the recompressed target* out of it. Those of GFLA and DPTN save the generated image alone.
"""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from manifests.keypoints import NUM_JOINTS

QUALITY = 75
"""Pillow's default, with 4:2:0 colours."""

BLOCK_PX = 16
"""Side of a JPEG block at 4:2:0; blocks are coded independently of each other."""

JOINT_RADIUS_PX = 2

JOINT_COLOURS: Sequence[tuple[int, ...]] = tuple(
    tuple(round(255 * part) for part in colorsys.hsv_to_rgb(joint / NUM_JOINTS, 1.0, 1.0))
    for joint in range(NUM_JOINTS)
)

Pixels = UInt8[np.ndarray, "batch height width 3"]


def through_strip(
    generated: Pixels,
    target: Pixels,
    poses: tuple[Float[np.ndarray, "batch 18 2"], Float[np.ndarray, "batch 18 2"]],
    pool: Executor,
) -> tuple[Pixels, Pixels]:
    """Return the generated images and the targets as the evaluator cuts them from the strips.

    Panels are whole blocks, but decoders smooth the colours over block borders, so the outermost
    columns of a panel depend on its neighbours. Only the blocks that reach the two panels are
    coded: the last of the source's pose, then target, target's pose and generated image; both
    crops are the same as from the whole strip, at half its cost. The published pose panels show
    coloured discs on white limbs; the limbs have no colour, so they reach no other panel and
    are left out.

    Args:
        generated: RGB, 0 to 255, a multiple of 16 wide.
        target: RGB, 0 to 255, of the same size.
        poses: Joints of source and target, (x, y) pixels; missing joints NaN.
        pool: Threads that code and decode.
    """
    height, width = generated.shape[1:3]
    if width % BLOCK_PX:
        raise ValueError(f"images are {width} px wide, expected a multiple of {BLOCK_PX}")
    source_pose, target_pose = (draw_pose_panels(joints, (width, height)) for joints in poses)
    strips = np.concatenate([source_pose[:, :, -BLOCK_PX:], target, target_pose, generated], axis=2)
    decoded = through_jpeg(strips, pool)
    return decoded[:, :, -width:], decoded[:, :, BLOCK_PX : BLOCK_PX + width]


def through_jpeg(images: Pixels, pool: Executor) -> Pixels:
    """Return the images as they come back from one JPEG file each (Pillow's defaults)."""
    return np.stack(list(pool.map(_recompress, images)))


def draw_pose_panels(
    joints: Float[np.ndarray, "batch 18 2"], size: tuple[int, int]
) -> UInt8[np.ndarray, "batch height width 3"]:
    """Return a black panel per pose with a coloured disc of radius 2 around every present joint.

    Part of the published protocol: its pixels reach the neighbouring panels of the JPEG file. What
    people look at is drawn by ``contact_sheets.draw_pose``.

    Convention: joints are (x, y), pixel centres at integers; ``size`` is (width, height).
    """
    width, height = size
    panels = np.zeros((len(joints), height, width, 3), np.uint8)
    columns = joints[:, :, None, 0] - np.arange(width)
    rows = joints[:, :, None, 1] - np.arange(height)
    for joint, colour in enumerate(JOINT_COLOURS):
        squared = columns[:, joint, None, :] ** 2 + rows[:, joint, :, None] ** 2
        panels[squared < JOINT_RADIUS_PX**2] = colour
    return panels


def _recompress(image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width 3"]:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=QUALITY)
    return np.asarray(Image.open(buffer))
