"""``augment preview``: a contact sheet of a run, of a screened set, or of an images table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64
from PIL.Image import Image
from tyro.conf import Positional

from augment.generation.images_preview import images_sheet
from augment.quality import contact_sheets
from manifests import pixels
from manifests.io import Images, read_images, write_bytes
from manifests.runtime import run_record
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.random_numbers import random_bits
from manifests.runtime.settings import Count, Frozen
from manifests.runtime.storage import StoragePath, StoragePathFlag
from manifests.synthetic import Synthetic, read_synthetic


class PreviewSettings(Frozen):
    """Draw some rows of a finished run, or of an images table with joints and masks.

    Of a set that 'reid screen' left: kept images on the left, dropped ones on the right.
    """

    run: Positional[StoragePathFlag]
    """Folder of the run, or its URL; folder of 'reid screen'; or an images table (.parquet)."""
    out: Path = Path("preview.png")
    """PNG file."""
    rows: int = 12
    """How many images to show."""
    seed: Count = 0
    """Another seed shows others."""
    images: Path | None = None
    """Table of the source images, if it is not where it was when the run began."""
    root: Path | None = None
    """Where the images lie, if not where the table says."""


def preview(settings: PreviewSettings, console: Console) -> Exit:
    """Write the contact sheet.

    Raises:
        UserError: If the run is not finished, all its rows failed, an image cannot be read, there
            is nothing to show, or ``out`` is no PNG.
    """
    if settings.out.suffix.lower() != ".png":
        raise UserError(f"--out {settings.out}: found '{settings.out.suffix}', expected .png")
    sheet, num_shown, num_images = _images_sheet(settings) or _run_sheet(settings)
    write_bytes(contact_sheets.as_png(sheet), settings.out)
    console.say(f"{settings.out}: {num_shown:,} of {num_images:,} images", event="preview")
    return Exit.DONE


def _images_sheet(settings: PreviewSettings) -> tuple[Image, int, int] | None:
    """Return the sheet of an images table, how many rows it shows, and of how many."""
    path = settings.run
    if not isinstance(path, Path) or path.suffix != ".parquet":
        return None
    if settings.images is not None:
        raise UserError(f"{path}: is a table already; expected no --images beside it")
    images = read_images(path, settings.root)
    _check_rows(settings, len(images))
    rows = choose(len(images), settings.rows, settings.seed)
    return images_sheet(images.take(rows)), len(rows), len(images)


def _run_sheet(settings: PreviewSettings) -> tuple[Image, int, int]:
    """Return the sheet of a run, how many rows it shows, and of how many."""
    made = read_synthetic(settings.run)
    synthetic, dropped = made.without_errors(), made.screened_out()
    _check_rows(settings, len(synthetic))
    sources = source_images(settings.run, settings.images, settings.root)
    if len(dropped):
        count = max(1, min(len(synthetic), len(dropped), settings.rows // 2))
        both = [part.take(choose(len(part), count, settings.seed)) for part in (synthetic, dropped)]
        whole = replace(made, table=pa.concat_tables([part.table for part in both]))
        sheet = contact_sheet(whole, np.arange(2 * count), sources, blocks=2)
        return sheet, 2 * count, len(synthetic) + len(dropped)
    rows = choose(len(synthetic), settings.rows, settings.seed)
    return contact_sheet(synthetic, rows, sources), len(rows), len(synthetic)


def _check_rows(settings: PreviewSettings, num_images: int) -> None:
    if not num_images or settings.rows < 1:
        raise UserError(f"{settings.run}: found no image to show, expected at least one")


def choose(count: int, num_shown: int, seed: int) -> Int64[np.ndarray, " rows"]:
    """Return ``num_shown`` different rows of ``count``, in order, or all.

    >>> choose(5, 9, 0).tolist()
    [0, 1, 2, 3, 4]
    """
    order = np.argsort(random_bits(seed, "preview", count), kind="stable")
    return np.sort(order[:num_shown])


def contact_sheet(
    synthetic: Synthetic,
    rows: Int64[np.ndarray, " rows"],
    sources: Images,
    blocks: int | None = None,
) -> Image:
    """Return source, target pose and result of some rows; people who do not exist have no source.

    Args:
        synthetic: Rows that have an image; of dropped ones the sheet says so.
        rows: Which are shown.
        sources: The table of the source images.
        blocks: They flow into so many blocks side by side; by default four rows in each.

    Raises:
        UserError: If a source is not in the table or cannot be read.
    """
    shown = synthetic.take(rows)
    results = [
        pixels.decode(data, name)
        for data, name in zip(synthetic.read_bytes(rows), shown.strings("image_id"), strict=True)
    ]
    size = results[0].shape[1], results[0].shape[0]
    row_of = {name: row for row, name in enumerate(sources.strings("image_id"))}
    originals: list[np.ndarray] = []
    are_new = shown.are_new()
    for name, is_new in zip(shown.strings("source_id"), are_new, strict=True):
        if is_new:
            originals.append(np.full_like(results[0], 255))
            continue
        if name not in row_of:
            raise UserError(f"source image '{name}': not in the images table; name it by --images")
        originals.append(pixels.resize(pixels.read(sources.file(row_of[name])), size))
    poses = [
        contact_sheets.draw_pose(joints, size, contact_sheets.SCALE) for joints in shown.keypoints()
    ]
    labels = [
        person
        + ("" if is_new else f", camera {camera}")
        + f", no. {k}"
        + ("" if error is None else ": dropped")
        for person, camera, k, error, is_new in zip(
            *(shown.table[name].to_pylist() for name in ("person_id", "camera_id", "k", "error")),
            are_new,
            strict=True,
        )
    ]
    columns = [("target pose", np.stack(poses)), ("result", np.stack(results))]
    if not are_new.all():
        columns.insert(0, ("source", np.stack(originals)))
    return contact_sheets.contact_sheet(
        columns,
        labels,
        blocks=blocks or -(-len(rows) // 4),
    )


def source_images(run: StoragePath, images: Path | None, root: Path | None) -> Images:
    """Return the real images that a run was made from.

    Args:
        run: Its folder.
        images: The table, if it is not where it was when the run began.
        root: Where the images lie, if not where the table says.

    Raises:
        UserError: If the table is not there.
    """
    if images is not None:
        return read_images(images, root)
    path = run / run_record.RUN_RECORD
    record: Any = run_record.read(path) if path.is_file() else {"config": {}}
    if "content" not in record["config"]:
        raise UserError(
            f"{run}: is no folder of 'augment generate', but what 'reid screen' left of one, say; "
            "expected --images with the table of its source images"
        )
    made_from = record.get("settings", {})
    name, stored = made_from.get("images"), made_from.get("root")
    if not isinstance(name, str) or not isinstance(stored, str | None):
        raise UserError(
            f"{path}: does not say which table the images are from; expected it by --images"
        )
    table = Path(name)
    if not table.is_file():
        raise UserError(
            f"{run}: was made from the table {table}, which is not there (seen from this "
            "folder); expected it by --images"
        )
    return read_images(table, root or (None if stored is None else Path(stored)))
