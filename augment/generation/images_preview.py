"""A contact sheet of an images table: crops, their joints and their masks."""

from __future__ import annotations

import textwrap
from typing import Any, Final

import numpy as np
from jaxtyping import UInt8
from PIL import ImageDraw, ImageFont
from PIL.Image import Image

from augment.quality import contact_sheets
from manifests import keypoints, masks, pixels
from manifests.io import Images

_LINE_PX: Final = 14
_INK: Final = (40, 40, 40)


def images_sheet(images: Images, rows_per_block: int = 4) -> Image:
    """Return a sheet of all rows: the crop, its joints, and the crop dimmed outside its mask.

    Crops of another size are stretched to the first one's. A row without joints shows an empty
    drawing; one without a mask a black tile, and its label says so. Below the sheet stands what
    made the masks of the table, as its footer has it.

    Raises:
        UserError: If an image cannot be read, a mask has another size than its image, or the footer
            says in another way than ours what made the masks.
    """
    crops = [pixels.read(images.file(row)) for row in range(len(images))]
    size = crops[0].shape[1], crops[0].shape[0]
    shown = [pixels.resize(crop, size) for crop in crops]
    known_masks, is_known = masks.read_masks(images, size)
    poses = [
        _pose(joints, crop, size) for joints, crop in zip(images.keypoints(), crops, strict=True)
    ]
    people = [
        contact_sheets.draw_mask(crop, mask) if known else np.zeros_like(crop)
        for crop, mask, known in zip(shown, known_masks, is_known.tolist(), strict=True)
    ]
    columns = [("crop", shown), ("joints", poses), ("mask", people)]
    sheet = contact_sheets.contact_sheet(
        [(title, np.stack(tiles)) for title, tiles in columns],
        _labels(images),
        blocks=-(-len(images) // rows_per_block),
    )
    return _above(sheet, [_text(maker) for maker in masks.mask_makers(images.provenance)])


def _above(sheet: Image, texts: list[str]) -> Image:
    """Return the sheet with texts below it, in lines as long as the sheet is wide."""
    font = ImageFont.load_default(_LINE_PX - 3)
    letters = int(sheet.width / font.getlength("n"))
    lines = [line for text in texts for line in textwrap.wrap(text, letters)]
    size = sheet.width, sheet.height + _LINE_PX * len(lines)
    taller = sheet.crop((0, 0, 1, 1)).resize(size)
    taller.paste(sheet)
    draw = ImageDraw.Draw(taller)
    for number, line in enumerate(lines):
        place = _LINE_PX / 2, sheet.height + _LINE_PX * number
        draw.text(place, line, fill=_INK, font=font)
    return taller


def _text(maker: dict[str, Any]) -> str:
    facts = {**maker, "sha256": str(maker.get("sha256") or "")[:8]}
    source = facts.pop("source", "?")
    return f"{source}: " + ", ".join(f"{name} {fact}" for name, fact in facts.items() if fact)


def _pose(
    joints: np.ndarray, crop: UInt8[np.ndarray, "height width 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "new_height new_width 3"]:
    own_size = crop.shape[1], crop.shape[0]
    fitting = keypoints.resize(joints, own_size, size)
    return contact_sheets.draw_pose(fitting, size, contact_sheets.SCALE)


def _labels(images: Images) -> list[str]:
    columns = ("person_id", "camera_id", "mask_source", "pose_confidence")
    return [
        f"{person}, camera {camera}, {source or 'no mask'}"
        + ("" if confidence is None else f", confidence {confidence:.2f}")
        for person, camera, source, confidence in zip(
            *(images.table[name].to_pylist() for name in columns), strict=True
        )
    ]
