"""``augment detect``: poses and person masks from pixels, for the rows of an images table.

Crops are worked on in chunks of 512 rows by several threads; a chunk that is done lies whole, as a
small images table, in a folder beside the table, so the same command goes on after a kill. In the
end the chunks are copied one after the other into the table: a few of them are in memory at a time,
whatever the number of rows. What is found in a crop depends on that crop alone: any number of
threads gives the same bytes. The published annotation of Market-1501 is OpenPose's: whoever
compares values names the estimator.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from jaxtyping import Bool, Int
from pydantic import Field

from augment.pose.detection_counts import JOINTS_ALONE, Choices, Counts
from augment.pose.estimators.interface import Detection, Estimator, Image
from augment.pose.estimators.registry import load_estimator
from manifests import pixels
from manifests.compute.devices import pick_device
from manifests.io import (
    ROOT_KEY,
    Images,
    ImagesFile,
    keypoint_array,
    keypoint_column,
    open_images,
    read_table,
    sha256_file,
    write_images,
    write_tables,
)
from manifests.masks import (
    MAX_SHARE,
    MIN_SHARE,
    encode_mask,
    is_sound,
    with_mask_maker,
)
from manifests.runtime import run_record, storage
from manifests.runtime.cluster import check_one_process
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.one_process import alone_in
from manifests.runtime.settings import Frozen, Positive
from manifests.runtime.thread_pool import thread_pool
from manifests.schema import IMAGES, MASK_COLUMNS, OPTIONAL_COLUMNS

# pyarrow makes these functions at import time, where type checkers do not see them.
pc: Any = pyarrow.compute

CHUNK_ROWS: Final = 512
_BATCH: Final = 16
"""Images that a thread hands to the estimator at once."""

_TABLE: Final = "images.parquet"
"""The whole table, in the folder of the chunks until it is complete."""
_REMEDY: Final = "--skip-broken leaves such images out"
_FOUND: Final = pa.schema([IMAGES.field(name) for name in ("keypoints", *MASK_COLUMNS)])


class DetectSettings(Frozen):
    """Add the joints of a pose estimator, and masks of the people, to an images table."""

    images: Path
    """Images table (made by 'augment index')."""
    out: Path
    """Where the table with joints goes (.parquet); the same command goes on after a stop."""
    estimator: str = "blazepose"
    """Pose estimator: blazepose (its file comes with an installed package), FILE.tflite of
    BlazePose or MoveNet, or keypointrcnn."""
    estimator_weights: str | None = None
    """Weights of Keypoint R-CNN: a file, or download."""
    masks: bool = False
    """Also keep which pixels are the person, where the estimator draws masks (blazepose)."""
    min_confidence: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Rows in which the estimator is less sure of a person get no joint and no mask."""
    threads: Positive = 2
    """Threads that read and estimate; their number changes no byte."""
    root: Path | None = None
    """Where the images lie, if not where the table says."""
    device: str = "auto"
    """Where Keypoint R-CNN runs: auto, cpu, cuda or cuda:N."""
    replace: bool = False
    """Also replace the joints of rows that have some."""
    skip_broken: bool = False
    """Leave out, and count, rows whose image cannot be read."""


def detect(settings: DetectSettings, console: Console) -> Exit:
    """Write the table with joints, and masks if they are asked for.

    Raises:
        UserError: If the table, an image or the estimator cannot be had, ``out`` is the input or
            cannot be written, its folder of chunks is another run's or another process is at work
            there, or masks are asked of an estimator that draws none.
    """
    check_one_process(os.environ)
    if settings.out.resolve() == settings.images.resolve():
        raise UserError(f"--out {settings.out}: is the input, expected another file")
    images = open_images(settings.images, settings.root)
    estimator = load_estimator(
        settings.estimator, pick_device(settings.device), settings.estimator_weights
    )
    if settings.masks and not estimator.draws_masks:
        raise UserError(f"--masks: {estimator.name} draws none; expected --estimator blazepose")
    choices = Choices(
        masks=settings.masks,
        min_confidence=settings.min_confidence,
        replaces=settings.replace,
        threads=settings.threads,
        skips_broken=settings.skip_broken,
    )
    text = write_joints(images, settings.out, estimator, choices, console)
    console.say(f"{settings.out}: {text}")
    return Exit.DONE


def write_joints(
    images: ImagesFile, out: Path, estimator: Estimator, choices: Choices, console: Console
) -> str:
    """Write what ``add_joints`` returns of a table, and return what was found, for a person.

    Chunks that are done are kept in the folder ``OUT.parts`` until the table is complete.

    Raises:
        UserError: If images cannot be read (all of them are counted, and chunks without them kept),
            the joints cannot be pixels of their images (chunks are kept), ``out`` cannot be
            written, or the folder of chunks belongs to another run or process, or holds other
            files.
    """
    if out.is_dir():
        raise UserError(f"--out {out}: found a folder, expected the name of a table (.parquet)")
    parts = out.with_name(f"{out.name}.parts")
    config = {
        "images_sha256": sha256_file(images.path),
        "estimator": dict(estimator.provenance),
        "masks": choices.masks,
        "min_confidence": choices.min_confidence,
        "replace": choices.replaces,
    }
    if not run_record.is_home_of(parts, config, "the chunks of this command, or another --out"):
        run_record.write(parts, config)
    with alone_in(parts):
        return _write_table(images, out, parts, estimator, choices, console)


def _write_table(  # noqa: PLR0913, PLR0917 - what a run is
    images: ImagesFile,
    out: Path,
    parts: Path,
    estimator: Estimator,
    choices: Choices,
    console: Console,
) -> str:
    files = list(_write_chunks(images, parts, estimator, choices, console))
    found = {name for file in files for name in pq.read_schema(file).names}
    absent = {name for group in OPTIONAL_COLUMNS if not found & set(group) for name in group}
    schema = pa.schema([field for field in IMAGES if field.name not in absent])
    counts = Counts(in_images=images.num_rows)
    provenance = _provenance(images.provenance, estimator, choices)
    write_tables(
        (counts.add(table, choices).select(schema.names) for table in map(_chunk, files)),
        schema,
        parts / _TABLE,
        {**provenance, ROOT_KEY: str(images.root)},
    )
    if images.num_rows and not counts.rows:
        raise UserError(f"{images.path}: none of {images.num_rows:,} images can be used")
    counts.joint_check.finish(f"{out}: joints by {estimator.name}")
    (parts / _TABLE).replace(out)
    storage.sync_folder(out.parent)
    _remove(parts)
    return counts.text(estimator, choices)


def _write_chunks(
    images: ImagesFile, parts: Path, estimator: Estimator, choices: Choices, console: Console
) -> Iterator[Path]:
    """Write the chunks that are not there yet; give the files of all, in order.

    A chunk with broken images is left to another time, unless they are skipped.
    """
    broken: list[UserError] = []
    with (
        thread_pool(choices.threads, "detect") as pool,
        console.progress(f"detect ({estimator.name})", images.num_rows) as bar,
    ):
        for number, chunk in enumerate(images.chunks(CHUNK_ROWS)):
            path = parts / f"part-{number:06d}.parquet"
            if not _holds(path, chunk, choices):
                found, errors = _with_joints(chunk, estimator, choices, pool)
                broken += errors
                if not errors or choices.skips_broken:
                    write_images(found, path)
            bar.advance(len(chunk))
            yield path
    if broken and not choices.skips_broken:
        raise pixels.broken_images(broken, _REMEDY)


def _holds(path: Path, chunk: Images, choices: Choices) -> bool:
    """Return whether a file is there, whole, and of the rows of a chunk that belong into it."""
    try:
        ids = pq.read_table(path, columns=["image_id"])["image_id"]
    except (OSError, pa.ArrowException):
        return False
    if not choices.skips_broken or len(ids) == len(chunk):
        return ids.equals(chunk.table["image_id"])
    is_there = pc.is_in(chunk.table["image_id"], value_set=ids.combine_chunks())
    missing = np.flatnonzero(~np.asarray(is_there))
    left = chunk.table["image_id"].filter(is_there)
    return ids.equals(left) and all(
        isinstance(_read(chunk, row, choices), UserError) for row in missing.tolist()
    )


def _chunk(path: Path) -> pa.Table:
    table = read_table(path, IMAGES, "a chunk of 'augment detect'", optional=OPTIONAL_COLUMNS)
    return table.replace_schema_metadata(None)


def _remove(parts: Path) -> None:
    """Remove the folder of the chunks; without its record, the last to go, it were nobody's."""
    for path in sorted(parts.iterdir()):
        if path.name != run_record.RUN_RECORD:
            path.unlink()
    (parts / run_record.RUN_RECORD).unlink()
    parts.rmdir()


def add_joints(images: Images, estimator: Estimator, choices: Choices = JOINTS_ALONE) -> Images:
    """Return the table with joints in every row that has no annotation.

    A row in which the estimator finds nobody gets 18 missing joints. The footer names the
    estimator, and what made the masks.

    Args:
        images: The table; its image files are read.
        estimator: See ``load_estimator``.
        choices: What is kept.

    Raises:
        UserError: If images cannot be read, and are not skipped.
    """
    with thread_pool(choices.threads, "detect") as pool:
        found, errors = _with_joints(images, estimator, choices, pool)
    if errors and not choices.skips_broken:
        raise pixels.broken_images(errors, _REMEDY)
    return found


def _with_joints(
    images: Images, estimator: Estimator, choices: Choices, pool: ThreadPoolExecutor
) -> tuple[Images, list[UserError]]:
    """Return the rows whose image can be read, with joints, and what is wrong with the others."""
    rows = np.flatnonzero(_wanted(images, choices))
    broken: dict[int, UserError] = {}

    def sound() -> Iterator[Detection]:
        detections = _detections(images, rows, estimator, choices, pool)
        for row, found in zip(rows.tolist(), detections, strict=True):
            if isinstance(found, UserError):
                broken[row] = found
            else:
                yield found

    found = _table_of(sound(), choices)
    if broken:
        images = images.take(np.setdiff1d(np.arange(len(images)), list(broken)))
    return _joined(images, found, estimator, choices), list(broken.values())


def _wanted(images: Images, choices: Choices) -> Bool[np.ndarray, " rows"]:
    """Return which rows are looked at: those that keep their joints may still want a mask."""
    unannotated = images.table["keypoints"].is_null().to_numpy()
    return np.full(len(images), choices.replaces or choices.masks) | unannotated


def _joined(images: Images, found: pa.Table, estimator: Estimator, choices: Choices) -> Images:
    """Return the table with what was found in the wanted rows."""
    unannotated = images.table["keypoints"].is_null().to_numpy()
    wanted = _wanted(images, choices)
    rows = np.flatnonzero(wanted)
    joints = images.keypoints()
    new = unannotated | choices.replaces
    joints[new] = keypoint_array(found["keypoints"])[new[rows]]
    columns = {"keypoints": keypoint_column(joints)}
    row_in_found = pa.array(np.cumsum(wanted) - 1, mask=~wanted)
    for name in MASK_COLUMNS:
        column = found[name].take(row_in_found)
        keeps_old = not (choices.masks and choices.replaces)
        columns[name] = pc.coalesce(column, images.table[name]) if keeps_old else column
    table = images.table
    for name, column in columns.items():
        table = table.set_column(IMAGES.get_field_index(name), IMAGES.field(name), column)
    return replace(
        images, table=table, provenance=_provenance(images.provenance, estimator, choices)
    )


def _provenance(
    before: Mapping[str, str], estimator: Estimator, choices: Choices
) -> dict[str, str]:
    provenance = {**before, "keypoints_estimator": estimator.name}
    if not choices.masks:
        return provenance
    facts = {
        **estimator.provenance,
        "min_confidence": choices.min_confidence,
        "min_share": MIN_SHARE,
        "max_share": MAX_SHARE,
    }
    return with_mask_maker(provenance, "blazepose", facts)


def _detections(
    images: Images,
    rows: Int[np.ndarray, " rows"],
    estimator: Estimator,
    choices: Choices,
    pool: ThreadPoolExecutor,
) -> Iterator[Detection | UserError]:
    def one_batch(batch: Int[np.ndarray, " batch"]) -> Sequence[Detection | UserError]:
        crops = [_read(images, row, choices) for row in batch.tolist()]
        sound = [crop for crop in crops if not isinstance(crop, UserError)]
        found = iter(estimator.detect(sound) if sound else ())
        return [crop if isinstance(crop, UserError) else next(found) for crop in crops]

    batches = [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]
    return (detection for batch in pool.map(one_batch, batches) for detection in batch)


def _read(images: Images, row: int, choices: Choices) -> Image | UserError:
    """Return a crop, or why it cannot be used."""
    try:
        return _crop(images, row, choices)
    except UserError as error:
        return error


def _crop(images: Images, row: int, choices: Choices) -> Image:
    """Return a crop, if it has the size that its row says: joints and masks are of that size."""
    file = images.file(row)
    crop = pixels.read(file)
    size = tuple(images.table[name][row].as_py() for name in ("width", "height"))
    if None in size:
        if choices.masks:
            raise UserError(f"{file}: its row has no width and height; expected both for a mask")
    elif size != crop.shape[1::-1]:
        raise UserError(
            f"{file}: found {crop.shape[1]} x {crop.shape[0]} pixels, expected {size[0]} x "
            f"{size[1]} as its row says; 'augment index' makes a new table"
        )
    return crop


def _table_of(detections: Iterable[Detection], choices: Choices) -> pa.Table:
    joints, masks, confidences = list[np.ndarray](), list[bytes | None](), list[float | None]()
    for detection in detections:
        sure = detection.confidence is None or detection.confidence >= choices.min_confidence
        joints.append(detection.joints if sure else np.full_like(detection.joints, np.nan))
        keep = choices.masks and sure and detection.mask is not None and is_sound(detection.mask)
        masks.append(encode_mask(detection.mask) if keep and detection.mask is not None else None)
        confidences.append(detection.confidence)
    columns = [
        keypoint_column(np.array(joints, np.float32)),
        pa.array(masks, pa.binary()),
        pa.array([mask and "blazepose" for mask in masks], pa.string()),
        pa.array(confidences, pa.float32()),
    ]
    return pa.Table.from_arrays(columns, schema=_FOUND)
