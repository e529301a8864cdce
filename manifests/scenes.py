"""A person apart from the scene: the street without the person, the person before another street.

The idea is that of background replacement for re-identification (Tian et al., CVPR 2018): what
stands behind a person tells cameras apart, not people. Masks come from ``manifests.masks``. Widths
in pixels are those of a crop of 128 rows and grow with the crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from jaxtyping import Bool, Int, UInt8

from manifests.io import Images
from manifests.masks import REFERENCE_HEIGHT, mask_of
from manifests.runtime.thread_pool import thread_pool

CUT_WIDENING_PX: Final = 3.0
"""How much wider than the mask the hole in a street is: shadows and the rim of clothes go too."""
PERSON_WIDENING_PX: Final = 1.0
"""How much wider than the mask the person is carried: a rim of the old street costs less than a
clipped arm."""
FILL_HEIGHT: Final = 64
"""Rows of the crop, made smaller, in which the hole is filled: what is invented has no detail, and
inpainting is by far the dearest step of taking an image apart."""
FILL_RADIUS_PX: Final = 2.0
"""How far the filling looks around, in pixels of that small crop."""
EDGE_SIGMA_PX: Final = 0.8
"""Of the Gaussian that softens the person's edge."""
MIN_STREET: Final = 0.1
"""Share of the crop that must be street for the hole to be filled from."""

_LEAST_SEEN: Final = 1e-3
"""Share of a small pixel that must be street for it to be known."""
_THREADS: Final = 2


def widen(
    mask: Bool[np.ndarray, "height width"], widening_px: float
) -> Bool[np.ndarray, "height width"]:
    """Return the mask grown by a disc of this radius, in pixels of a crop of 128 rows.

    >>> dot = np.zeros((128, 64), bool); dot[50, 20] = True
    >>> int(widen(dot, 1.0).sum())
    5
    """
    radius = round(widening_px * mask.shape[0] / REFERENCE_HEIGHT)
    if radius < 1:
        return mask
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate(mask.astype(np.uint8), disc) > 0


def has_street(
    mask: Bool[np.ndarray, "height width"], widening_px: float = CUT_WIDENING_PX
) -> bool:
    """Return whether enough of a crop lies outside the person for its street to be of use."""
    return bool(widen(mask, widening_px).mean() <= 1.0 - MIN_STREET)


def hole_of(
    mask: Bool[np.ndarray, "height width"], widening_px: float = CUT_WIDENING_PX
) -> UInt8[np.ndarray, "height width"]:
    """Return where ``street`` fills the crop: 255 there, elsewhere 0."""
    return np.where(widen(mask, widening_px), np.uint8(255), np.uint8(0))


def rows_with_street(images: Images, size: tuple[int, int]) -> Bool[np.ndarray, " rows"]:
    """Return which rows have a mask that shows a person and leaves some street beside it.

    Args:
        images: An images table.
        size: (width, height) at which the street will be used.

    Raises:
        UserError: If a mask has not the size of its image.
    """
    found = np.asarray(images.table["mask"].is_valid())
    for row in np.flatnonzero(found).tolist():
        mask = mask_of(images, row, size)
        found[row] = mask.any() and has_street(mask)
    return found


@dataclass(frozen=True, slots=True)
class Scenes:
    """Images taken apart: the person, and the street without the person."""

    usable: Bool[np.ndarray, " rows"]
    """Which rows have a mask that leaves some street; of the others all is 0."""
    alpha: UInt8[np.ndarray, "rows height width"]
    """How much of each pixel is the person (``alpha_of``)."""
    streets: UInt8[np.ndarray, "rows height width 3"]
    holes: UInt8[np.ndarray, "rows height width"]
    """Where the street was filled: 255, elsewhere 0."""

    @property
    def rows(self) -> Int[np.ndarray, " usable"]:
        """The usable rows."""
        return np.flatnonzero(self.usable)


def take_apart(
    pixels: UInt8[np.ndarray, "rows height width 3"],
    masks: Bool[np.ndarray, "rows height width"],
    known: Bool[np.ndarray, " rows"],
) -> Scenes:
    """Return people and streets of images whose mask is known and leaves some street.

    Args:
        pixels: The decoded images, stretched to one size.
        masks: True where the person is (``manifests.masks.read_masks``); of rows without a mask,
            anything.
        known: Which rows have a mask.
    """
    usable = known & masks.any(axis=(1, 2))
    for row in np.flatnonzero(usable).tolist():
        usable[row] = has_street(masks[row])
    scenes = Scenes(
        usable,
        np.zeros(pixels.shape[:3], np.uint8),
        np.zeros_like(pixels),
        np.zeros(pixels.shape[:3], np.uint8),
    )

    def take(row: int) -> None:
        scenes.alpha[row] = alpha_of(masks[row])
        scenes.streets[row] = street(pixels[row], masks[row])
        scenes.holes[row] = hole_of(masks[row])

    with thread_pool(_THREADS) as pool:
        for _ in pool.map(take, scenes.rows.tolist()):
            pass
    return scenes


def street(
    image: UInt8[np.ndarray, "height width 3"],
    mask: Bool[np.ndarray, "height width"],
    widening_px: float = CUT_WIDENING_PX,
) -> UInt8[np.ndarray, "height width 3"]:
    """Return the crop without its person: the hole is filled from its rim (Telea 2004).

    Args:
        image: RGB.
        mask: True where the person is.
        widening_px: How much wider than the mask the hole is.
    """
    hole = widen(mask, widening_px)
    height, width = hole.shape
    shrink = min(1.0, FILL_HEIGHT / height)
    small = (max(1, round(width * shrink)), round(height * shrink))
    # Pixels of the person must not run into the small street.
    seen = cv2.resize((~hole).astype(np.float32), small, interpolation=cv2.INTER_AREA)
    behind = np.where(hole[..., None], np.float32(0), image)
    behind = cv2.resize(behind, small, interpolation=cv2.INTER_AREA)
    behind = behind / np.maximum(seen, _LEAST_SEEN)[..., None]
    filled = cv2.inpaint(
        np.rint(np.minimum(behind, 255)).astype(np.uint8),
        (seen < _LEAST_SEEN).astype(np.uint8),
        FILL_RADIUS_PX,
        cv2.INPAINT_TELEA,
    )
    filled = cv2.resize(filled, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.where(hole[..., None], filled, image)


def alpha_of(
    mask: Bool[np.ndarray, "height width"], widening_px: float = PERSON_WIDENING_PX
) -> UInt8[np.ndarray, "height width"]:
    """Return how much of each pixel is the person, 0 to 255: the mask, wider and soft-edged."""
    sigma = EDGE_SIGMA_PX * mask.shape[0] / REFERENCE_HEIGHT
    wide = np.where(widen(mask, widening_px), np.float32(255), np.float32(0))
    return np.rint(cv2.GaussianBlur(wide, (0, 0), sigma)).astype(np.uint8)


def compose(
    person: UInt8[np.ndarray, "*batch height width 3"],
    alpha: UInt8[np.ndarray, "*batch height width"],
    background: UInt8[np.ndarray, "*batch height width 3"],
) -> UInt8[np.ndarray, "*batch height width 3"]:
    """Return people before other streets: ``alpha`` of the person over the background.

    >>> red, green = (np.full((2, 2, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 255, 0)))
    >>> compose(red, np.array([[0, 255], [51, 128]], np.uint8), green)[1].tolist()
    [[51, 204, 0], [128, 127, 0]]
    """
    share = alpha[..., None].astype(np.float32) / np.float32(255)
    mixed = background + share * (person.astype(np.float32) - background)
    return np.rint(mixed).astype(np.uint8)
