"""Contact sheets: rows of people, columns of what was made of them, and poses as drawings."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from manifests.keypoints import LIMBS, NUM_JOINTS, visible

SCALE: Final = 2
"""Tiles are this many times as large as the first column's images."""

BONES: Final = LIMBS[:17]
"""The limbs that people draw; the published body mask adds six that only fill it."""

_SUPERSAMPLING = 4
_GAP_PX = 6
_BLOCK_GAP_PX = 24
_TITLE_PX = 24
_LABEL_PX = 16
_BACKGROUND = (250, 250, 250)
_INK = (40, 40, 40)
_NIGHT = (24, 24, 28)
_OUTSIDE = (0, 20, 90)
_BONE_WIDTH = 1 / 36
_JOINT_RADIUS = 1 / 52
"""Of the image's height."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things stand on a sheet, in pixels; blocks of rows stand side by side."""

    tile: tuple[int, int]
    num_columns: int
    rows_per_block: int
    label_height: int

    @property
    def block_width(self) -> int:
        return self.num_columns * (self.tile[0] + _GAP_PX) - _GAP_PX

    @property
    def row_height(self) -> int:
        return self.tile[1] + self.label_height + _GAP_PX

    def size(self, num_blocks: int) -> tuple[int, int]:
        width = num_blocks * (self.block_width + _BLOCK_GAP_PX) - _BLOCK_GAP_PX + 2 * _GAP_PX
        return width, _TITLE_PX + self.rows_per_block * self.row_height + _GAP_PX

    def corner(self, row: int, column: int) -> tuple[int, int]:
        block, row_in_block = divmod(row, self.rows_per_block)
        x = _GAP_PX + block * (self.block_width + _BLOCK_GAP_PX)
        y = _TITLE_PX + row_in_block * self.row_height
        return x + column * (self.tile[0] + _GAP_PX), y


def contact_sheet(
    columns: Sequence[tuple[str, UInt8[np.ndarray, "rows height width 3"]]],
    labels: Sequence[str] = (),
    blocks: int = 1,
) -> Image.Image:
    """Return a contact sheet.

    Args:
        columns: A title and as many images as there are rows; twice the size of the first
            column's images is the size of every tile.
        labels: A line under each row, or nothing.
        blocks: The rows flow into this many blocks side by side.

    >>> contact_sheet([("source", np.zeros((2, 128, 64, 3), np.uint8))]).size
    (140, 554)
    """
    num_rows, height, width = columns[0][1].shape[:3]
    assert all(len(images) == num_rows for _, images in columns), "columns of one length"
    blocks = max(1, min(blocks, num_rows))
    layout = _Layout(
        tile=(width * SCALE, height * SCALE),
        num_columns=len(columns),
        rows_per_block=-(-num_rows // blocks),
        label_height=_LABEL_PX if labels else 0,
    )
    blocks = -(-num_rows // layout.rows_per_block)
    canvas = Image.new("RGB", layout.size(blocks), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for column, (title, images) in enumerate(columns):
        for block in range(blocks):
            x, _ = layout.corner(block * layout.rows_per_block, column)
            _write(draw, title, (x + layout.tile[0] / 2, _TITLE_PX / 2), 13)
        for row, image in enumerate(images):
            tile = Image.fromarray(image)
            if tile.size != layout.tile:
                tile = tile.resize(layout.tile, Image.Resampling.BICUBIC)
            canvas.paste(tile, layout.corner(row, column))
    for row, label in enumerate(labels):
        x, y = layout.corner(row, 0)
        middle = x + layout.block_width / 2, y + layout.tile[1] + _LABEL_PX / 2
        _write(draw, label, middle, 11)
    return canvas


def draw_pose(
    joints: Float[np.ndarray, "18 2"], size: tuple[int, int], scale: int = 1
) -> UInt8[np.ndarray, "height width 3"]:
    """Return a pose as a coloured skeleton on a dark ground; missing joints take their limbs along.

    For people to look at. The panels of the JPEG strip are ``strip.draw_pose_panels``: they reach
    published scores, so they follow the published script to the pixel.

    Convention: joints are (x, y), pixels of an image of ``size``, pixel centres at integers.

    Args:
        joints: NaN where missing.
        size: (width, height) of the image that the joints belong to.
        scale: The drawing is this many times as large.
    """
    fine = scale * _SUPERSAMPLING
    width, height = size[0] * fine, size[1] * fine
    canvas = Image.new("RGB", (width, height), _NIGHT)
    draw = ImageDraw.Draw(canvas)
    seen = visible(joints)
    points = (np.nan_to_num(joints) + 0.5) * fine
    radius = height * _JOINT_RADIUS
    for bone, (start, end) in enumerate(BONES):
        if seen[start] and seen[end]:
            ends = [tuple(points[start].tolist()), tuple(points[end].tolist())]
            draw.line(ends, fill=_colour(bone, len(BONES), 0.85), width=round(height * _BONE_WIDTH))
    for joint in np.flatnonzero(seen).tolist():
        x, y = points[joint].tolist()
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, fill=_colour(joint, NUM_JOINTS, 1.0))
    small = canvas.resize((size[0] * scale, size[1] * scale), Image.Resampling.BOX)
    return np.asarray(small, np.uint8)


def draw_mask(
    image: UInt8[np.ndarray, "height width 3"], mask: Bool[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Return the image with what lies outside the mask dimmed to a dark blue."""
    dimmed = image // 4 + np.asarray(_OUTSIDE, np.uint8)
    return np.where(mask[..., None], image, dimmed)


def as_png(image: Image.Image) -> bytes:
    """Return the image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _write(draw: ImageDraw.ImageDraw, text: str, middle: tuple[float, float], size_px: int) -> None:
    font = ImageFont.load_default(size_px)
    draw.text(middle, text, fill=_INK, font=font, anchor="mm")


def _colour(index: int, count: int, brightness: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(index / count, 0.75, brightness)
    return round(red * 255), round(green * 255), round(blue * 255)
