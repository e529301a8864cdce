"""Rendering one made-up person: a posed skeleton, tapered tubes around it, their projection.

A body is a set of elliptical tubes with textures wrapped around them. A depth buffer decides
which tube is in front, so that near limbs cover far ones in every view, and the same buffer says
which joints are hidden.

Convention: the body frame has x to the person's left, y up, z forward; one unit is the body's
height, the ground lies at y = 0. The view frame has x right, y down and z towards the camera, in
pixels of the image, pixel centres at integers. A person with yaw 0 faces the camera, so their
right side appears on the image's left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import cv2
import numpy as np
from jaxtyping import Float, UInt8

WIDTH: Final = 64
HEIGHT: Final = 128
OVERSAMPLING: Final = 3
"""Drawn pixels per image pixel along each axis."""

PROFILE_ROWS: Final = 16
TEXTURE_ROWS: Final = 40
TEXTURE_COLUMNS: Final = 64

_ANGLE_STEPS = 128
_ANGLES = np.arcsin(np.linspace(-1.0, 1.0, _ANGLE_STEPS)).astype(np.float32)
_EMPTY_DEPTH = -1e6
_AMBIENT = 0.50

Texture = Float[np.ndarray, "40 64 3"]
Profile = Float[np.ndarray, " 16"]
Point = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Tube:
    """One tapered elliptical tube with a texture wrapped around it.

    ``half_width`` runs along the person's left-right axis and ``half_depth`` along their
    front-back axis, both in body heights from ``start`` to ``end``. ``roundness`` is the length
    of the end caps in radii. Texture rows run from start to end, columns from the front over the
    person's left; colours are RGB in 0..255.
    """

    start: Point
    end: Point
    half_width: Profile
    half_depth: Profile
    texture: Texture
    roundness: float = 0.6
    turn: float = 0.0
    """Rotation about the vertical axis against the body, in radians."""


@dataclass(frozen=True, slots=True)
class View:
    """Where the camera sees the person: angles in radians, lengths in pixels."""

    yaw: float
    pitch: float
    height_px: float
    foot_x: float
    foot_y: float
    stretch: float = 1.0
    """Horizontal scale against vertical: detectors' boxes are resized to 64 x 128."""

    def project(self, points: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, "points 3"]:
        """Return body points in the view frame.

        Convention: (x, y, z) pixels, pixel centres at integers, z towards the camera.
        """
        sine, cosine = np.sin(self.yaw), np.cos(self.yaw)
        x = points[:, 0] * cosine + points[:, 2] * sine
        z = points[:, 2] * cosine - points[:, 0] * sine
        y = points[:, 1]
        down = z * np.sin(self.pitch) - y * np.cos(self.pitch)
        near = z * np.cos(self.pitch) + y * np.sin(self.pitch)
        scale = self.height_px
        return np.stack(
            (self.foot_x + scale * self.stretch * x, self.foot_y + scale * down, scale * near),
            axis=1,
        )


@dataclass(frozen=True, slots=True)
class Rendering:
    """A rendered person: colours times coverage, coverage, and the depth buffer."""

    colour: Float[np.ndarray, "128 64 3"]
    coverage: Float[np.ndarray, "128 64"]
    depth: Float[np.ndarray, "384 192"]

    def depth_at(self, x: float, y: float) -> float:
        """Return the depth of the nearest surface around an image point, in pixels.

        Convention: (x, y) pixels of the image, pixel centres at integers.
        """
        column = int((x + 0.5) * OVERSAMPLING)
        row = int((y + 0.5) * OVERSAMPLING)
        return float(self.depth[row, column])


@lru_cache(maxsize=256)
def profile(*knots: float) -> Profile:
    """Return radii along a tube from evenly spaced knots.

    >>> profile(1.0, 2.0)[[0, -1]].tolist()
    [1.0, 2.0]
    """
    radii = np.interp(
        np.linspace(0.0, 1.0, PROFILE_ROWS), np.linspace(0.0, 1.0, len(knots)), knots
    ).astype(np.float32)
    # Shared by all callers.
    radii.flags.writeable = False
    return radii


def render(tubes: Sequence[Tube], view: View, light: Point) -> Rendering:
    """Render tubes with a depth buffer, shaded by one distant light and the sky.

    Args:
        tubes: In any order.
        view: Where the camera is.
        light: Direction towards the light in the view frame, of length 1.
    """
    rows, columns = HEIGHT * OVERSAMPLING, WIDTH * OVERSAMPLING
    colour = np.zeros((rows * columns, 3), np.float32)
    depth = np.full((rows, columns), _EMPTY_DEPTH, np.float32)
    for tube in tubes:
        _draw_tube(tube, view, light, colour, depth)
    covered = depth > _EMPTY_DEPTH / 2
    colour *= _ambient_occlusion(depth, covered, view.height_px).reshape(-1, 1)
    size = (WIDTH, HEIGHT)
    return Rendering(
        colour=cv2.resize(
            colour.reshape(rows, columns, 3), size, interpolation=cv2.INTER_AREA
        ).astype(np.float32),
        coverage=cv2.resize(covered.astype(np.float32), size, interpolation=cv2.INTER_AREA),
        depth=depth,
    )


def _draw_tube(
    tube: Tube,
    view: View,
    light: Point,
    colour: Float[np.ndarray, "pixels 3"],
    depth: Float[np.ndarray, "rows columns"],
) -> None:
    ends = view.project(np.array((tube.start, tube.end)))
    ends[:, :2] = (ends[:, :2] + 0.5) * OVERSAMPLING - 0.5
    (ax, ay, az), (bx, by, bz) = ends.tolist()
    length = max(float(np.hypot(bx - ax, by - ay)), 1.0)
    dx, dy = ((bx - ax) / length, (by - ay) / length) if length > 1.0 else (0.0, 1.0)
    yaw = view.yaw + tube.turn
    scale = view.height_px * OVERSAMPLING
    wide, deep = tube.half_width, tube.half_depth
    radius = scale * np.hypot(wide * np.cos(yaw), deep * np.sin(yaw))
    # A limb's apparent radius is stretched with the image only as far as it stands upright.
    radius = (radius * (1.0 + (view.stretch - 1.0) * abs(dy))).astype(np.float32)
    towards = np.hypot(wide * np.sin(yaw), deep * np.cos(yaw)) * view.height_px

    caps = float(radius[0]) * tube.roundness, float(radius[-1]) * tube.roundness
    reach = float(radius.max())
    left = max(int(min(ax - caps[0], bx - caps[1], min(ax, bx) - reach)), 0)
    right = min(int(max(ax + caps[0], bx + caps[1], max(ax, bx) + reach)) + 2, depth.shape[1])
    top = max(int(min(ay, by) - max(*caps, reach * abs(dx))) - 1, 0)
    bottom = min(int(max(ay, by) + max(*caps, reach * abs(dx))) + 2, depth.shape[0])
    if left >= right or top >= bottom:
        return

    x = np.arange(left, right, dtype=np.float32) - np.float32(ax)
    y = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(ay)
    along = x * np.float32(dx) + y * np.float32(dy)
    across = x * np.float32(dy) - y * np.float32(dx)
    inner = np.clip(along, 0.0, np.float32(length))
    row = (inner * np.float32((PROFILE_ROWS - 1) / length)).astype(np.intp)
    local = radius[row]
    side = across / local
    over = (along - inner) / (local * np.float32(max(tube.roundness, 0.02)))
    facing2 = 1.0 - side * side - over * over
    facing = np.sqrt(np.maximum(facing2, 0.0))
    surface = (
        np.float32(az)
        + inner * np.float32((bz - az) / length)
        + facing * towards.astype(np.float32)[row]
    )
    window = depth[top:bottom, left:right]
    shown = (facing2 > 0.0) & (surface > window)
    rows, columns = np.nonzero(shown)
    if not len(rows):
        return
    window[rows, columns] = surface[rows, columns]

    picked = rows * shown.shape[1] + columns
    side, over, facing, along = (field.take(picked) for field in (side, over, facing, along))
    front = math.atan2(float(deep.mean()) * math.sin(yaw), float(wide.mean()) * math.cos(yaw))
    angle = _ANGLES - np.float32(front)
    texture_columns = (np.round(angle * (TEXTURE_COLUMNS / (2 * np.pi))) % TEXTURE_COLUMNS).astype(
        np.intp
    )
    column = texture_columns[((side + 1.0) * np.float32((_ANGLE_STEPS - 1) / 2)).astype(np.intp)]
    texel = (along + caps[0]) * np.float32(TEXTURE_ROWS / (length + sum(caps)))
    texel = np.clip(texel.astype(np.intp), 0, TEXTURE_ROWS - 1)
    lambert = (
        side * np.float32(dy * light[0] - dx * light[1])
        + over * np.float32(dx * light[0] + dy * light[1])
        + facing * np.float32(light[2])
    )
    shade = np.float32(_AMBIENT) + np.float32(1.15 - _AMBIENT) * np.maximum(lambert, 0.0)
    shade *= 0.72 + 0.28 * np.sqrt(facing)
    pixels = (rows + top) * depth.shape[1] + columns + left
    colour[pixels] = tube.texture[texel, column] * shade[:, None]


def _ambient_occlusion(
    depth: Float[np.ndarray, "rows columns"],
    covered: np.ndarray,
    height_px: float,
) -> Float[np.ndarray, "rows columns"]:
    """Return how much light reaches each point: less where something close stands in front."""
    level = float(depth[covered].mean()) if covered.any() else 0.0
    filled = np.where(covered, depth, np.float32(level - 0.05 * height_px))
    size = 6 * OVERSAMPLING + 1
    around = cv2.blur(filled, (size, size))
    hidden = np.clip((around - filled) * np.float32(6.0 / height_px), 0.0, 0.4)
    return (1.0 - hidden).astype(np.float32)


def composite(
    rendering: Rendering, background: UInt8[np.ndarray, "128 64 3"], shadow: float, view: View
) -> Float[np.ndarray, "128 64 3"]:
    """Return the person over a background, with a soft shadow on the ground (0 none, 1 black)."""
    ground = np.zeros((HEIGHT, WIDTH), np.float32)
    centre = (round(view.foot_x), round(view.foot_y - 1))
    axes = (round(0.15 * view.height_px), max(round(0.028 * view.height_px), 1))
    cv2.ellipse(ground, centre, axes, 0, 0, 360, (shadow,), -1)
    ground = cv2.GaussianBlur(ground, (0, 0), 2.0)
    below = background.astype(np.float32) * (1.0 - ground)[:, :, None]
    return below * (1.0 - rendering.coverage)[:, :, None] + rendering.colour
