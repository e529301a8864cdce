"""Masks that other tools drew: a folder of PNG files named after the images of a table."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa

from manifests import masks, pixels
from manifests.datasets.crops import check_folder
from manifests.datasets.skipped import BROKEN_MASKS, Leniency, Skipped, files_below
from manifests.io import Images
from manifests.keypoints import has_torso
from manifests.masks import MaskSource
from manifests.runtime.console import UserError
from manifests.runtime.thread_pool import thread_pool
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
    num_no_png: int = 0
    """Other files in their folder."""
    skipped: Skipped = field(default_factory=Skipped)
    """What of their folder was not taken."""
    num_scaled: int = 0
    num_empty: int = 0
    num_full: int = 0
    num_small: int = 0
    """Not empty, but less of the crop than a person covers."""
    num_large: int = 0
    """Not full, but more of the crop than a person covers."""
    num_in_two_parts: int = 0
    """Of the rest, those of two people, or of one that something cuts in two."""

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
            "in two large parts (perhaps of two people)": self.num_in_two_parts,
        }
        if any(doubtful.values()):
            shown = ", ".join(f"{number:,} {kind}" for kind, number in doubtful.items() if number)
            lines.append(f"doubtful masks, kept as they are: {shown}")
        if self.skipped.counts:
            lines.append(f"left out of the masks: {self.skipped.text()}")
        if self.num_scaled:
            lines.append(f"{self.num_scaled:,} masks of another size, scaled")
        if self.num_unknown:
            lines.append(f"{self.num_unknown:,} mask files name no image, ignored")
        if self.num_no_png:
            lines.append(f"{self.num_no_png:,} files beside the masks are no .png, ignored")
        return "\n".join(lines)


def add_masks(  # noqa: PLR0913 - the flags of the command
    images: Images,
    folder: Path | None,
    *,
    tool: str | None = None,
    scales: bool = False,
    from_joints: bool = False,
    leniency: Leniency | None = None,
) -> tuple[Images, MaskReport]:
    """Return the table with the masks of a folder, and what was found there.

    The mask of an image ``a/b.jpg`` is ``a/b.png`` or ``a/b.jpg.png``. Masks that look wrong are
    kept and counted: whoever uses them decides (``masks.is_sound``). The footer tells where they
    are from.

    Args:
        images: A table with width and height in every row.
        folder: Of PNG files; None for no files.
        tool: What drew the files, as far as it is known.
        scales: Whether masks of another size are scaled to their image.
        from_joints: Whether images without a file get a mask drawn around their joints, if they
            have both shoulders and both hips.
        leniency: What may be left out of the folder; an image without its mask is kept.

    Raises:
        UserError: If the folder does not exist or has no mask of these images, files are no masks
            or have another size than their image (names the first ones and counts them), or two
            files are masks of one image.
    """
    leniency = leniency or Leniency()
    files, others = {}, {}
    if folder is not None:
        files, others = _files_of(images.strings("image_id"), folder, leniency.skipped)
        leniency.skipped.check(len(files), f"--masks {folder}", allowed=leniency.allow_skipped)
    counts = defaultdict(int, others)
    stored, sources = list[bytes | None](), list[MaskSource | None]()
    digest = hashlib.sha256()
    errors: list[UserError] = []
    for found in _found(images, files, scales=scales, from_joints=from_joints):
        errors += [] if found.error is None else [found.error]
        stored.append(None if found.mask is None else masks.encode_mask(found.mask))
        sources.append(found.source)
        digest.update(found.digest)
        counts["num_scaled"] += found.was_scaled
        if found.mask is not None:
            counts["num_files" if found.source == "files" else "num_drawn"] += 1
            counts[_kind(found.mask)] += 1
    counts.pop(_SOUND, None)
    if errors and not (leniency.skip_broken and counts["num_files"]):
        raise _broken(errors)
    for error in errors:
        leniency.skipped.add(BROKEN_MASKS, str(error))
    columns = {
        "mask": pa.array(stored, pa.binary()),
        "mask_source": pa.array(sources, pa.string()),
    }
    table = images.table
    for name, column in columns.items():
        table = table.set_column(IMAGES.get_field_index(name), IMAGES.field(name), column)
    provenance = images.provenance
    if folder is not None:
        facts = {"tool": tool, "folder": str(folder.resolve()), "sha256": digest.hexdigest()}
        told = {name: counts[name] for name in ("num_files", "num_scaled")}
        provenance = masks.with_mask_maker(provenance, "files", facts | told)
    if from_joints:
        facts = {"radius_px_in_128_rows": masks.CAPSULE_RADIUS_PX, "num_drawn": counts["num_drawn"]}
        provenance = masks.with_mask_maker(provenance, "joints", facts)
    report = MaskReport(len(images), skipped=leniency.skipped, **counts)
    return replace(images, table=table, provenance=provenance), report


@dataclass(frozen=True, slots=True)
class _Found:
    """The mask of a row, if there is one."""

    mask: masks.Mask | None = None
    source: MaskSource | None = None
    was_scaled: bool = False
    digest: bytes = b""
    """Of its file."""
    error: UserError | None = None
    """Why its file cannot be used."""


_WITHOUT = "--skip-broken leaves such masks out"


class _SizeError(UserError):
    """A mask of another size than its image."""


def _broken(errors: Sequence[UserError]) -> UserError:
    is_of_size = any(isinstance(error, _SizeError) for error in errors)
    scale = "--scale-masks scales those of another size, " if is_of_size else ""
    return pixels.broken_images(errors, f"{scale}{_WITHOUT}", "masks")


def _found(
    images: Images, files: Mapping[int, Path], *, scales: bool, from_joints: bool
) -> Iterator[_Found]:
    """Give the mask of every row."""
    joints = images.keypoints()
    drawable = has_torso(joints) & from_joints
    columns = (images.table[name].to_pylist() for name in ("width", "height"))
    sizes = list(zip(*columns, strict=True))

    def of_row(row: int) -> _Found:
        error = None
        if row in files:
            try:
                return _from_file(files[row], sizes[row], scales=scales)
            except UserError as found:
                error = found
        if drawable[row]:
            return _Found(masks.mask_from_joints(joints[row], sizes[row]), "joints", error=error)
        return _Found(error=error)

    with thread_pool(os.cpu_count()) as pool:
        for rows in _chunks(len(images)):
            yield from pool.map(of_row, rows)


def _from_file(file: Path, size: tuple[int, int], *, scales: bool) -> _Found:
    data = pixels.read_file(file)
    mask = pixels.decode_mask(data, str(file))
    fitting = _fitted(mask, size, file, scales=scales)
    return _Found(fitting, "files", fitting is not mask, hashlib.sha256(data).digest())


_SOUND = "sound"


def _kind(mask: masks.Mask) -> str:
    """Return as what a mask is counted."""
    share = float(mask.mean())
    if masks.is_sound(mask):
        return "num_in_two_parts" if masks.has_two_large_parts(mask) else _SOUND
    if share in {0.0, 1.0}:
        return "num_full" if share else "num_empty"
    return "num_small" if share < masks.MIN_SHARE else "num_large"


def _fitted(mask: masks.Mask, size: tuple[int, int], file: Path, *, scales: bool) -> masks.Mask:
    height, width = mask.shape
    if (width, height) == size:
        return mask
    if not scales:
        raise _SizeError(
            f"{file}: found a mask of {width} x {height} pixels, expected {size[0]} x {size[1]} as "
            "its image has"
        )
    return masks.resize_mask(mask, size)


def _files_of(
    ids: list[str], folder: Path, skipped: Skipped
) -> tuple[Mapping[int, Path], Mapping[str, int]]:
    """Return the mask file of each row that has one, and counts of the other files."""
    whole = {name: row for row, name in enumerate(ids)}
    stems: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(ids):
        stems[str(PurePosixPath(name).with_suffix(""))].append(row)
    files: dict[int, Path] = {}
    others = {"num_unknown": 0, "num_no_png": 0}
    first = "nothing"
    check_folder(folder)
    for file in (folder / name for name in files_below(folder, skipped)):
        first = file.name if first == "nothing" else first
        if file.suffix.lower() != _ENDING:
            others["num_no_png"] += 1
            continue
        name = file.relative_to(folder).as_posix()[: -len(_ENDING)]
        rows = [whole[name]] if name in whole else stems.get(name, [])
        if not rows:
            others["num_unknown"] += 1
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
    if ids and not files:
        raise UserError(
            f"--masks {folder}: found no mask of these images among {sum(others.values()):,} files "
            f"('{first}' first), expected names like '{ids[0]}{_ENDING}'"
        )
    return files, others


def _chunks(count: int) -> Iterator[list[int]]:
    """Give the rows in chunks: a pool takes whatever it is given, and masks take memory."""
    for start in range(0, count, _CHUNK_ROWS):
        yield np.arange(start, min(start + _CHUNK_ROWS, count)).tolist()
