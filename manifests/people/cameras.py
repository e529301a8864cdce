"""Six made-up cameras: light and tilt, the background behind people, optics and noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from manifests.people.renderer import HEIGHT, WIDTH, Point
from manifests.runtime.random_numbers import KeyedRandom

NUM_CAMERAS: Final = 6
PANORAMA_WIDTH: Final = 900
PANORAMA_HEIGHT: Final = 190
HORIZON: Final = 70
"""Row of the panorama where the ground begins."""

RGB = tuple[int, int, int]
Panorama = UInt8[np.ndarray, "190 900 3"]
Image = UInt8[np.ndarray, "128 64 3"]


@dataclass(frozen=True, slots=True)
class Camera:
    """Settings of one camera: light from ``light`` (view frame), colour gains, then optics."""

    light: Point
    pitch: float
    """Downward tilt in radians."""
    tint: tuple[float, float, float]
    exposure: float
    gamma: float
    contrast: float
    blur_px: float
    noise: float
    """Standard deviation of the sensor noise in grey levels."""
    shadow: float
    draw_panorama: Callable[[KeyedRandom], Panorama]


def _noise_field(
    rng: KeyedRandom, rows: int, columns: int, detail: int
) -> Float[np.ndarray, "_ _"]:
    grid = rng.noise(rows // detail + 2, columns // detail + 2)
    return cv2.resize(grid, (columns, rows), interpolation=cv2.INTER_CUBIC)


def _canvas(rng: KeyedRandom, above: RGB, ground: RGB, rough: float) -> Panorama:
    """Return a wall over a ground that gets brighter towards the viewer, both with grain."""
    image = np.empty((PANORAMA_HEIGHT, PANORAMA_WIDTH, 3), np.float32)
    image[:HORIZON] = above
    image[HORIZON:] = ground
    rows = np.arange(PANORAMA_HEIGHT, dtype=np.float32)[:, None]
    light = 1.0 + np.where(rows > HORIZON, (rows - HORIZON) * 0.0012, (rows - HORIZON) * 0.0016)
    grain = _noise_field(rng, PANORAMA_HEIGHT, PANORAMA_WIDTH, 24) * 0.06
    grain += _noise_field(rng, PANORAMA_HEIGHT, PANORAMA_WIDTH, 3) * rough
    image *= (light * (1.0 + grain))[:, :, None]
    return np.clip(image, 0, 255).astype(np.uint8)


def _tiles(image: Panorama, step: int, colour: RGB) -> None:
    """Draw paving joints that run towards a far point, and rows that get denser with distance."""
    centre = PANORAMA_WIDTH // 2
    for x in range(-3 * PANORAMA_WIDTH, 4 * PANORAMA_WIDTH, step * 2):
        top = centre + (x - centre) // 2
        cv2.line(image, (top, HORIZON), (x, PANORAMA_HEIGHT), colour, 1, cv2.LINE_AA)
    row, gap = float(HORIZON), step * 0.18
    while row < PANORAMA_HEIGHT:
        cv2.line(image, (0, int(row)), (PANORAMA_WIDTH, int(row)), colour, 1)
        row, gap = row + gap, gap * 1.16


def _bicycles(rng: KeyedRandom, image: Panorama, count: int) -> None:
    for _ in range(count):
        x, y = rng.integer(0, PANORAMA_WIDTH), rng.integer(HORIZON - 6, HORIZON + 14)
        frame = rng.choice(((150, 40, 44), (50, 60, 110), (70, 72, 76), (40, 90, 70)))
        for wheel in (x, x + 26):
            cv2.circle(image, (wheel, y), 11, (46, 46, 50), 2, cv2.LINE_AA)
        bars = np.array(
            ((x, y), (x + 9, y - 13), (x + 22, y - 13), (x + 26, y), (x + 11, y), (x + 9, y - 13))
        )
        cv2.polylines(image, [bars], False, frame, 2, cv2.LINE_AA)
        cv2.line(image, (x + 22, y - 13), (x + 21, y - 20), (60, 60, 60), 2, cv2.LINE_AA)


def _plaza(rng: KeyedRandom) -> Panorama:
    image = _canvas(rng, (126, 134, 116), (172, 158, 148), 0.035)
    for _ in range(46):
        x, green = rng.integer(0, PANORAMA_WIDTH), rng.integer(70, 112)
        centre = (x, rng.integer(6, 46))
        axes = (rng.integer(14, 34), rng.integer(10, 24))
        colour = (green - 18, green + 12, green - 26)
        cv2.ellipse(image, centre, axes, 0, 0, 360, colour, -1, cv2.LINE_AA)
    _tiles(image, 34, (146, 132, 124))
    _bicycles(rng, image, 26)
    return image


def _lawn(rng: KeyedRandom) -> Panorama:
    image = _canvas(rng, (188, 196, 202), (112, 136, 84), 0.10)
    cv2.rectangle(image, (0, 34), (PANORAMA_WIDTH, HORIZON + 4), (66, 92, 58), -1)
    for _ in range(24):
        x = rng.integer(0, PANORAMA_WIDTH)
        cv2.rectangle(image, (x, 0), (x + rng.integer(4, 9), HORIZON), (92, 76, 62), -1)
    hedge = 1 + 0.14 * _noise_field(rng, HORIZON + 4, PANORAMA_WIDTH, 4)
    image[: HORIZON + 4] = np.clip(image[: HORIZON + 4] * hedge[:, :, None], 0, 255)
    cv2.rectangle(image, (0, 128), (PANORAMA_WIDTH, PANORAMA_HEIGHT), (176, 170, 158), -1)
    cv2.line(image, (0, 128), (PANORAMA_WIDTH, 128), (206, 202, 192), 3)
    return image


def _entrance(rng: KeyedRandom) -> Panorama:
    image = _canvas(rng, (44, 44, 50), (118, 116, 116), 0.03)
    for x in range(0, PANORAMA_WIDTH, 90):
        shade = rng.integer(14, 34)
        cv2.rectangle(
            image, (x + 6, 4), (x + rng.integer(50, 80), HORIZON), (shade, shade, shade + 5), -1
        )
        cv2.rectangle(image, (x, 0), (x + 6, HORIZON), (108, 100, 92), -1)
    for step in range(4):
        row = HORIZON + 12 * step
        cv2.rectangle(image, (0, row), (PANORAMA_WIDTH, row + 4), (148, 146, 144), -1)
        cv2.line(image, (0, row + 5), (PANORAMA_WIDTH, row + 5), (70, 70, 72), 2)
    return image


def _street(rng: KeyedRandom) -> Panorama:
    image = _canvas(rng, (158, 150, 144), (92, 94, 98), 0.05)
    for x in range(0, PANORAMA_WIDTH, 46):
        cv2.rectangle(image, (x + 8, 6), (x + 32, 36), (78, 90, 104), -1)
    for x in range(-20, PANORAMA_WIDTH, 130):
        colour = rng.choice(((176, 34, 40), (210, 212, 214), (40, 44, 54), (64, 92, 140)))
        cv2.rectangle(image, (x, 44), (x + 104, HORIZON + 14), colour, -1)
        cv2.rectangle(image, (x + 20, 32), (x + 82, 50), (52, 62, 72), -1)
        for wheel in (x + 20, x + 84):
            cv2.circle(image, (wheel, HORIZON + 14), 10, (26, 26, 28), -1, cv2.LINE_AA)
    for x in range(0, PANORAMA_WIDTH, 120):
        stripe = np.array(((x, 150), (x + 60, 150), (x + 48, 162), (x - 14, 162)))
        cv2.fillPoly(image, [stripe], (206, 204, 196), cv2.LINE_AA)
    return image


def _glass(rng: KeyedRandom) -> Panorama:
    image = _canvas(rng, (128, 150, 166), (196, 192, 186), 0.02)
    for x in range(0, PANORAMA_WIDTH, 38):
        pane = rng.integer(-26, 22)
        cv2.rectangle(
            image, (x, 0), (x + 35, HORIZON - 4), (116 + pane, 140 + pane, 158 + pane), -1
        )
        cv2.rectangle(image, (x + 35, 0), (x + 38, HORIZON), (70, 76, 84), -1)
    cv2.rectangle(image, (0, 40), (PANORAMA_WIDTH, 43), (70, 76, 84), -1)
    _tiles(image, 52, (168, 164, 158))
    for x in range(40, PANORAMA_WIDTH, 170):
        cv2.rectangle(image, (x, HORIZON - 14), (x + 44, HORIZON + 12), (86, 66, 52), -1)
        cv2.ellipse(
            image, (x + 22, HORIZON - 20), (26, 14), 0, 0, 360, (58, 96, 60), -1, cv2.LINE_AA
        )
    return image


def _brick(rng: KeyedRandom) -> Panorama:
    image = _canvas(rng, (150, 88, 72), (140, 120, 96), 0.05)
    for row in range(0, HORIZON, 6):
        cv2.line(image, (0, row), (PANORAMA_WIDTH, row), (170, 132, 118), 1)
        for x in range((row // 6 % 2) * 8, PANORAMA_WIDTH, 16):
            cv2.line(image, (x, row), (x, row + 6), (170, 132, 118), 1)
    for x in range(20, PANORAMA_WIDTH, 110):
        poster = rng.choice(((220, 210, 180), (60, 90, 130), (190, 170, 60), (236, 236, 232)))
        cv2.rectangle(image, (x, 14), (x + rng.integer(20, 44), 52), poster, -1)
    for row in range(HORIZON, PANORAMA_HEIGHT, 9):
        cv2.line(image, (0, row), (PANORAMA_WIDTH, row), (96, 80, 62), 1)
    return image


CAMERAS: Final = (
    Camera(
        (-0.50, -0.55, 0.67), 0.16, (1.04, 1.00, 0.95), 1.00, 1.00, 1.00, 0.45, 3.0, 0.35, _plaza
    ),
    Camera((0.55, -0.60, 0.58), 0.10, (1.10, 1.02, 0.82), 1.16, 0.95, 0.95, 0.55, 4.0, 0.45, _lawn),
    Camera(
        (0.10, -0.75, 0.65), 0.22, (0.88, 0.98, 1.14), 0.86, 1.12, 1.05, 0.70, 5.0, 0.20, _entrance
    ),
    Camera(
        (-0.65, -0.45, 0.61), 0.08, (0.96, 1.03, 1.00), 0.95, 1.00, 1.18, 0.40, 4.0, 0.40, _street
    ),
    Camera(
        (0.20, -0.40, 0.89), 0.14, (0.92, 1.00, 1.10), 1.16, 0.92, 0.86, 0.80, 3.0, 0.22, _glass
    ),
    Camera(
        (0.60, -0.35, 0.72), 0.26, (1.14, 0.97, 0.84), 0.88, 1.06, 0.95, 0.85, 5.0, 0.30, _brick
    ),
)
"""The cameras c1 to c6."""


@lru_cache(maxsize=2 * NUM_CAMERAS)
def panorama(seed: int, camera: int) -> Panorama:
    """Return the full background of a camera (0-based), of which every image shows a part."""
    image = CAMERAS[camera].draw_panorama(KeyedRandom(seed, f"scene/{camera}"))
    image = cv2.GaussianBlur(image, (0, 0), 0.8)
    image.flags.writeable = False
    return image


def background(rng: KeyedRandom, seed: int, camera: int, sequence: int, position: float) -> Image:
    """Return what lies behind one detection.

    A sequence looks at one third of the panorama, so that backgrounds vary between sequences.

    Args:
        rng: Decides zoom and height of the crop.
        seed: Of the data set.
        camera: 0-based.
        sequence: 1-based, up to 3.
        position: Where the person stands in the sequence's part, 0 to 1.
    """
    zoom = rng.uniform(0.75, 1.35)
    width, height = round(WIDTH * zoom), round(HEIGHT * zoom)
    third = PANORAMA_WIDTH / 3
    left = round((sequence - 1) * third + position * (third - width))
    top = min(rng.integer(8, 52), PANORAMA_HEIGHT - height)
    left, top = max(left, 0), max(top, 0)
    part = panorama(seed, camera)[top : top + height, left : left + width]
    return cv2.resize(part, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).astype(np.uint8)


def apply_camera(rng: KeyedRandom, scene: Float[np.ndarray, "128 64 3"], camera: int) -> Image:
    """Return a scene as a camera (0-based) records it: exposure, tint, contrast, blur, noise."""
    optics = CAMERAS[camera]
    gain = optics.exposure * (1.0 + rng.bounded_normal(0.06))
    linear = scene * (np.float32(gain / 255.0) * np.array(optics.tint, np.float32))
    seen = np.power(np.clip(linear, 0.0, 1.2), np.float32(optics.gamma)) * 255.0
    seen = 118.0 + (seen - 118.0) * np.float32(optics.contrast)
    seen = cv2.GaussianBlur(seen, (0, 0), optics.blur_px * rng.uniform(0.8, 1.25))
    seen = seen + rng.noise(HEIGHT, WIDTH, 1) * np.float32(optics.noise)
    return np.clip(np.round(seen), 0, 255).astype(np.uint8)
