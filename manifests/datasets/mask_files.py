"""Masks that other tools drew: a folder of PNG files named after the images of a table."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa

from manifests import masks, pixels
from manifests.datasets.crops import check_folder
from manifests.io import Images
from manifests.keypoints import has_torso
from manifests.masks import MaskSource
from manifests.runtime.console import UserError
from manifests.schema import IMAGES

_ENDING = ".png"
_CHUNK_ROWS = 1024


@dataclass(frozen=True, slots=True)
class MaskReport:
    """What was found of masks."""

    num_images: int
    num_files: int = 0
    """Images with a mask from a file."""
    num_drawn: int = 0
    """Images with a mask drawn from their joints."""
    num_unknown: int = 0
    """Mask files that name no image."""
    num_scaled: int = 0
    num_empty: int = 0
    num_full: int = 0
    num_small: int = 0
    """Not empty, but less of the crop than a person covers."""
    num_large: int = 0
    """Not full, but more of the crop than a person covers."""

    def text(self) -> str:
        """Return the report as lines for a person."""
        without = self.num_images - self.num_files - self.num_drawn
        by_source = (
            f"{self.num_files:,} images with a mask from a file, {self.num_drawn:,} with one drawn "
            f"from joints, {without:,} without"
        )
        lines = [by_source]
        doubtful = {
            "empty": self.num_empty,
            "full": self.num_full,
            f"below {masks.MIN_SHARE:.0%} of the crop": self.num_small,
            f"above {masks.MAX_SHARE:.0%} of the crop": self.num_large,
        }
        if any(doubtful.values()):
            shown = ", ".join(f"{number:,} {kind}" for kind, number in doubtful.items() if number)
            lines.append(f"doubtful masks, kept as they are: {shown}")
        if self.num_scaled:
            lines.append(f"{self.num_scaled:,} masks of another size, scaled")
        if self.num_unknown:
            lines.append(f"{self.num_unknown:,} mask files name no image, ignored")
        return "\n".join(lines)


def add_masks(
    images: Images,
    folder: Path | None,
    *,
    scales: bool = False,
    from_joints: bool = False,
    threads: int | None = None,
) -> tuple[Images, MaskReport]:
    """Return the table with the masks of a folder, and what was found there.

    The mask of an image ``a/b.jpg`` is ``a/b.png`` or ``a/b.jpg.png``. Masks that look wrong are
    kept and counted: whoever uses them decides (``masks.is_sound``).

    Args:
        images: A table with width and height in every row.
        folder: Of PNG files; None for no files.
        scales: Whether masks of another size are scaled to their image.
        from_joints: Whether images without a file get a mask drawn around their joints, if they
            have both shoulders and both hips.
        threads: That decode files; as many as there are cores where left out.

    Raises:
        UserError: If the folder does not exist, a file is no mask or has another size than its
            image, or two files are masks of one image.
    """
    files, num_unknown = {}, 0
    if folder is not None:
        check_folder(folder)
        files, num_unknown = _files_of(images.strings("image_id"), folder)
    joints = images.keypoints()
    drawable = has_torso(joints) & from_joints
    sizes = list(
        zip(*(images.table[name].to_pylist() for name in ("width", "height")), strict=True)
    )
    stored, sources = list[bytes | None](), list[MaskSource | None]()
    counts: dict[str, int] = defaultdict(int)

    def of_row(row: int) -> tuple[masks.Mask | None, MaskSource | None, bool]:
        if row in files:
            mask = pixels.decode_mask(pixels.read_file(files[row]), str(files[row]))
            fitting = _fitted(mask, sizes[row], files[row], scales=scales)
            return fitting, "files", fitting is not mask
        if drawable[row]:
            return masks.mask_from_joints(joints[row], sizes[row]), "joints", False
        return None, None, False

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        for rows in _chunks(len(images)):
            for mask, source, was_scaled in pool.map(of_row, rows):
                stored.append(None if mask is None else masks.encode_mask(mask))
                sources.append(source)
                counts["num_scaled"] += was_scaled
                if mask is not None:
                    counts["num_files" if source == "files" else "num_drawn"] += 1
                    counts[_kind(mask)] += 1
    counts.pop(_SOUND, None)
    columns = {
        "mask": pa.array(stored, pa.binary()),
        "mask_source": pa.array(sources, pa.string()),
    }
    table = images.table
    for name, column in columns.items():
        table = table.set_column(IMAGES.get_field_index(name), IMAGES.field(name), column)
    report = MaskReport(len(images), num_unknown=num_unknown, **counts)
    return replace(images, table=table), report


_SOUND = "sound"


def _kind(mask: masks.Mask) -> str:
    """Return as what a mask is counted."""
    share = float(mask.mean())
    if masks.is_sound(mask):
        return _SOUND
    if share in {0.0, 1.0}:
        return "num_full" if share else "num_empty"
    return "num_small" if share < masks.MIN_SHARE else "num_large"


def _fitted(mask: masks.Mask, size: tuple[int, int], file: Path, *, scales: bool) -> masks.Mask:
    height, width = mask.shape
    if (width, height) == size:
        return mask
    if not scales:
        raise UserError(
            f"{file}: found a mask of {width} x {height} pixels, expected {size[0]} x {size[1]} as "
            "its image has; --scale-masks scales such masks"
        )
    return masks.resize_mask(mask, size)


def _files_of(ids: list[str], folder: Path) -> tuple[Mapping[int, Path], int]:
    """Return the mask file of each row that has one, and how many files name no image."""
    whole = {name: row for row, name in enumerate(ids)}
    stems: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(ids):
        stems[str(PurePosixPath(name).with_suffix(""))].append(row)
    files: dict[int, Path] = {}
    num_unknown = 0
    for file in _png_files(folder):
        name = file.relative_to(folder).as_posix()[: -len(_ENDING)]
        rows = [whole[name]] if name in whole else stems.get(name, [])
        if not rows:
            num_unknown += 1
            continue
        if len(rows) > 1:
            raise UserError(
                f"{file}: is a mask of '{ids[rows[0]]}' or of '{ids[rows[1]]}'; expected "
                f"'{ids[rows[0]]}{_ENDING}' and '{ids[rows[1]]}{_ENDING}'"
            )
        if rows[0] in files:
            raise UserError(
                f"{file}: found a second mask of '{ids[rows[0]]}', beside {files[rows[0]]}; "
                "expected one"
            )
        files[rows[0]] = file
    return files, num_unknown


def _png_files(folder: Path) -> Iterator[Path]:
    for path, folders, names in os.walk(folder):
        folders.sort()
        yield from (
            Path(path, name) for name in sorted(names) if Path(name).suffix.lower() == _ENDING
        )


def _chunks(count: int) -> Iterator[list[int]]:
    """Give the rows in chunks: a pool takes whatever it is given, and masks take memory."""
    for start in range(0, count, _CHUNK_ROWS):
        yield np.arange(start, min(start + _CHUNK_ROWS, count)).tolist()
