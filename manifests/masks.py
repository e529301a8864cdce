"""Person masks: which pixels of a crop are the person, as a column of the images table.

A mask is stored as packed bits, one per pixel, row by row, the highest bit first
(``numpy.packbits``): 1,024 bytes for 64 x 128 pixels, about 225 in the compressed table. It has the
size of its row's image.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, Final, Literal

import cv2
import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from manifests.io import Images
from manifests.keypoints import LIMBS, visible
from manifests.runtime.console import UserError

MaskSource = Literal["blazepose", "files", "joints"]
"""Where a mask comes from: a network, files of another tool, or drawn around the joints."""

MIN_SHARE: Final = 0.12
MAX_SHARE: Final = 0.75
"""A sound mask of a person covers this part of a crop at least, and at most."""

LARGE_PART: Final = 0.25
"""A part of a mask is large if it has this share of the largest part's pixels."""

MASK_MAKERS_KEY: Final = "mask_makers"
"""Of the table's footer: a list in JSON of what made its masks, the last the newest."""

CAPSULE_RADIUS_PX: Final = 9.5
"""Of the capsules around the limbs, in a crop of 128 rows, where no better mask is known."""
REFERENCE_HEIGHT: Final = 128
"""Of the crops that widths in pixels are said for; in others they grow with the height."""

Mask = Bool[np.ndarray, "height width"]


def encode_mask(mask: Mask) -> bytes:
    """Return a mask as packed bits.

    >>> encode_mask(np.array([[True, False, False, True]])).hex()
    '90'
    """
    return np.packbits(mask).tobytes()


def decode_mask(data: bytes, size: tuple[int, int], where: str) -> Mask:
    """Return the mask of an image of this (width, height).

    Raises:
        UserError: If it is the mask of an image of another size; names ``where``.
    """
    width, height = size
    expected = -(-width * height // 8)
    if len(data) != expected:
        raise UserError(
            f"{where}: found a mask of {len(data):,} bytes, expected {expected:,} for "
            f"{width} x {height} pixels"
        )
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=width * height)
    return bits.reshape(height, width).astype(bool)


def mask_column(masks: Sequence[Mask | None]) -> pa.Array:
    """Return masks as a ``mask`` column; None becomes null."""
    return pa.array([None if mask is None else encode_mask(mask) for mask in masks], pa.binary())


def resize_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """Return the mask stretched to (width, height): True where it covers half of a pixel."""
    if mask.shape == size[::-1]:
        return mask
    grey = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return np.asarray(grey >= 0.5)


def mask_of(images: Images, row: int, size: tuple[int, int]) -> Mask:
    """Return the mask of a row that has one, at (width, height).

    Raises:
        UserError: If it has not the size of its image.
    """
    table = images.table
    name, width, height, data = (
        table[column][row].as_py() for column in ("image_id", "width", "height", "mask")
    )
    where = f"row '{name}' of the images"
    if width is None or height is None:
        raise UserError(f"{where}: found a mask but no width and height")
    return resize_mask(decode_mask(data, (width, height), where), size)


def is_sound(mask: Mask) -> bool:
    """Return whether a mask covers as much of its crop as a person does."""
    return bool(MIN_SHARE <= mask.mean() <= MAX_SHARE)


def has_two_large_parts(mask: Mask) -> bool:
    """Return whether a mask falls into parts of which the second is a quarter of the first or more.

    It is a mask of two people then, or one of a person that something cuts in two. Two people that
    touch each other are one part and are not found.
    """
    _, _, facts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    # Part 0 is what lies around the mask.
    sizes = np.sort(facts[1:, cv2.CC_STAT_AREA])[::-1]
    return len(sizes) > 1 and bool(sizes[1] >= LARGE_PART * sizes[0])


def with_mask_maker(
    provenance: Mapping[str, str], source: MaskSource, facts: Mapping[str, Any]
) -> dict[str, str]:
    """Return a table's provenance that also tells of the newest maker of its masks.

    Args:
        provenance: Of a table. Makers that it tells of stay: masks of theirs may be left.
        source: As the rows' column ``mask_source`` has it.
        facts: Network, digest, thresholds: whatever is known.
    """
    newest = {"source": source, **facts, "by": f"reid-augment {metadata.version('reid-augment')}"}
    others = [maker for maker in mask_makers(provenance) if maker != newest]
    return {**provenance, MASK_MAKERS_KEY: json.dumps([*others, newest])}


def mask_makers(provenance: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return what is known of the makers of a table's masks, the newest last.

    Raises:
        UserError: If the footer's entry is no list in JSON.
    """
    text = provenance.get(MASK_MAKERS_KEY, "[]")
    try:
        makers = json.loads(text)
    except ValueError:
        makers = None
    if not isinstance(makers, list) or not all(isinstance(maker, dict) for maker in makers):
        raise UserError(
            f"the table's footer: found {MASK_MAKERS_KEY} '{text[:40]}', expected a list in JSON"
        )
    return makers


def mask_from_joints(joints: Float[np.ndarray, "18 2"], size: tuple[int, int]) -> Mask:
    """Return capsules around the limbs; without any joint an empty mask.

    Convention: joints are (x, y) pixels, pixel centres at integers, a missing joint is NaN.

    Args:
        joints: Of one person.
        size: (width, height) of the image.
    """
    width, height = size
    canvas = np.zeros((height, width), np.uint8)
    radius = max(1, round(CAPSULE_RADIUS_PX * height / REFERENCE_HEIGHT))
    seen = visible(joints)
    for a, b in LIMBS:
        if seen[a] and seen[b]:
            ends = [(round(float(x)), round(float(y))) for x, y in (joints[a], joints[b])]
            cv2.line(canvas, ends[0], ends[1], 1, 2 * radius)
    if seen[[2, 5, 8, 11]].all():
        trunk = np.rint(joints[[2, 5, 11, 8]]).astype(np.int32)
        cv2.fillConvexPoly(canvas, cv2.convexHull(trunk), 1)
    return canvas > 0


def read_masks(
    images: Images, size: tuple[int, int]
) -> tuple[Bool[np.ndarray, "rows height width"], Bool[np.ndarray, " rows"]]:
    """Return the masks of all rows at (width, height), and which rows have one.

    Raises:
        UserError: If a mask has not the size of its image.
    """
    width, height = size
    masks = np.zeros((len(images), height, width), bool)
    known = np.zeros(len(images), bool)
    columns = ("image_id", "width", "height", "mask")
    rows = zip(*(images.table[name].to_pylist() for name in columns), strict=True)
    for row, (name, own_width, own_height, data) in enumerate(rows):
        if data is None:
            continue
        if own_width is None or own_height is None:
            raise UserError(f"row '{name}' of the images: found a mask but no width and height")
        mask = decode_mask(data, (own_width, own_height), f"row '{name}' of the images")
        masks[row] = resize_mask(mask, size)
        known[row] = True
    return masks, known
