"""A contact sheet of an images table: crops, their joints and their masks."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from PIL.Image import Image

from augment.quality import contact_sheets
from manifests import keypoints, masks, pixels
from manifests.io import Images


def images_sheet(images: Images, rows_per_block: int = 4) -> Image:
    """Return a sheet of all rows: the crop, its joints, and the crop dimmed outside its mask.

    Crops of another size are stretched to the first one's. A row without joints shows an empty
    drawing; one without a mask a black tile, and its label says so.

    Raises:
        UserError: If an image cannot be read, or a mask has another size than its image.
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
    return contact_sheets.contact_sheet(
        [(title, np.stack(tiles)) for title, tiles in columns],
        _labels(images),
        blocks=-(-len(images) // rows_per_block),
    )


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
        + ("" if confidence is None else f", {confidence:.2f}")
        for person, camera, source, confidence in zip(
            *(images.table[name].to_pylist() for name in columns), strict=True
        )
    ]
