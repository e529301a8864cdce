"""``augment detect``: poses and person masks from pixels, for the rows of an images table.

Crops are worked on in chunks of 512 rows by several threads; a chunk that is done lies whole in a
folder beside the table, so the same command goes on after a kill. What is found in a crop depends
on that crop alone: any number of threads gives the same bytes. The published annotation of
Market-1501 is OpenPose's: whoever compares values names the estimator.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int
from pydantic import Field

from augment.pose.estimators.interface import Detection, Estimator
from augment.pose.estimators.registry import load_estimator
from manifests import pixels
from manifests.compute.devices import pick_device
from manifests.io import (
    Images,
    keypoint_array,
    keypoint_column,
    read_images,
    sha256_file,
    write_images,
    write_table,
)
from manifests.keypoints import visible
from manifests.masks import encode_mask, is_sound
from manifests.runtime import run_record
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.settings import Frozen, Positive
from manifests.schema import IMAGES, MASK_COLUMNS

CHUNK_ROWS: Final = 512
_BATCH: Final = 16
"""Images that a thread hands to the estimator at once."""

_PART: Final = pa.schema([IMAGES.field(name) for name in ("image_id", "keypoints", *MASK_COLUMNS)])


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


@dataclass(frozen=True, slots=True)
class Choices:
    """What is kept of detections."""

    masks: bool = False
    min_confidence: float = 0.0
    replaces: bool = False
    """Whether existing joints are replaced, too."""
    threads: int = 1


def detect(settings: DetectSettings, console: Console) -> Exit:
    """Write the table with joints, and masks if they are asked for.

    Raises:
        UserError: If the table, an image or the estimator cannot be had, ``out`` is the input, or
            masks are asked of an estimator that draws none.
    """
    if settings.out.resolve() == settings.images.resolve():
        raise UserError(f"--out {settings.out}: is the input, expected another file")
    images = read_images(settings.images, settings.root)
    estimator = load_estimator(
        settings.estimator, pick_device(settings.device), settings.estimator_weights
    )
    if settings.masks and not estimator.draws_masks:
        raise UserError(f"--masks: {estimator.name} draws none; expected --estimator blazepose")
    choices = Choices(settings.masks, settings.min_confidence, settings.replace, settings.threads)
    parts = settings.out.with_name(f"{settings.out.name}.parts")
    config = settings.model_dump(mode="json", include={"masks", "min_confidence", "replace"}) | {
        "images_sha256": sha256_file(settings.images),
        "estimator": estimator.name,
    }
    run_record.write(parts, config)
    found = add_joints(images, estimator, choices, console=console, parts=parts)
    write_images(found, settings.out)
    shutil.rmtree(parts)
    console.say(f"{settings.out}: {_summary(found, estimator, choices)}")
    return Exit.DONE


def add_joints(
    images: Images,
    estimator: Estimator,
    choices: Choices = Choices(),
    *,
    console: Console | None = None,
    parts: Path | None = None,
) -> Images:
    """Return the table with joints in every row that has no annotation.

    A row in which the estimator finds nobody gets 18 missing joints. The footer names the
    estimator.

    Args:
        images: The table; its image files are read.
        estimator: See ``load_estimator``.
        choices: What is kept.
        console: Where progress goes.
        parts: Folder in which chunks that are done are kept, and found again.

    Raises:
        UserError: If an image cannot be read.
    """
    console = console or Console(quiet=True)
    column = images.table["keypoints"]
    rows = np.flatnonzero(column.is_null().to_numpy())
    if choices.replaces or choices.masks:
        # Rows that keep their joints may still want a mask.
        rows = np.arange(len(images))
    tables: list[pa.Table] = []
    with (
        ThreadPoolExecutor(choices.threads, "detect") as pool,
        console.progress(f"detect ({estimator.name})", len(rows)) as bar,
    ):
        for number, start in enumerate(range(0, len(rows), CHUNK_ROWS)):
            chunk = rows[start : start + CHUNK_ROWS]
            path = parts and parts / f"part-{number:06d}.parquet"
            if path is not None and path.is_file():
                tables.append(pq.read_table(path))
            else:
                table = _table_of(
                    images, chunk, _detections(images, chunk, estimator, pool), choices
                )
                if path is not None:
                    write_table(table, path, {})
                tables.append(table)
            bar.advance(len(chunk))
    found = pa.concat_tables(tables) if tables else _PART.empty_table()
    return _merged(images, rows, found, estimator, choices)


def _detections(
    images: Images, rows: Int[np.ndarray, " rows"], estimator: Estimator, pool: ThreadPoolExecutor
) -> list[Detection]:
    def one_batch(batch: Int[np.ndarray, " batch"]) -> Sequence[Detection]:
        return estimator.detect([pixels.read(images.file(int(row))) for row in batch])

    batches = [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]
    return [detection for batch in pool.map(one_batch, batches) for detection in batch]


def _table_of(
    images: Images,
    rows: Int[np.ndarray, " rows"],
    detections: Iterable[Detection],
    choices: Choices,
) -> pa.Table:
    joints, masks, confidences = [], list[bytes | None](), list[float | None]()
    for detection in detections:
        sure = detection.confidence is None or detection.confidence >= choices.min_confidence
        joints.append(detection.joints if sure else np.full_like(detection.joints, np.nan))
        keep = choices.masks and sure and detection.mask is not None and is_sound(detection.mask)
        masks.append(encode_mask(detection.mask) if keep and detection.mask is not None else None)
        confidences.append(detection.confidence)
    columns = {
        "image_id": images.table["image_id"].take(pa.array(rows)).combine_chunks(),
        "keypoints": keypoint_column(np.stack(joints).astype(np.float32)),
        "mask": pa.array(masks, pa.binary()),
        "mask_source": pa.array([mask and "blazepose" for mask in masks], pa.string()),
        "pose_confidence": pa.array(confidences, pa.float32()),
    }
    return pa.Table.from_arrays([columns[name] for name in _PART.names], schema=_PART)


def _merged(
    images: Images,
    rows: Int[np.ndarray, " rows"],
    found: pa.Table,
    estimator: Estimator,
    choices: Choices,
) -> Images:
    annotated = ~images.table["keypoints"].is_null().to_numpy()
    joints = images.keypoints()
    new = np.ones(len(rows), bool) if choices.replaces else ~annotated[rows]
    joints[rows[new]] = keypoint_array(found["keypoints"])[new]
    annotated[rows] = True
    table = _with_column(images.table, "keypoints", keypoint_column(joints, annotated))
    for name in MASK_COLUMNS:
        values = images.table[name].to_pylist()
        for row, value in zip(rows.tolist(), found[name].to_pylist(), strict=True):
            if value is not None:
                values[row] = value
        table = _with_column(table, name, pa.array(values, IMAGES.field(name).type))
    provenance = {**images.provenance, "keypoints_estimator": estimator.name}
    if choices.masks:
        provenance["masks_estimator"] = estimator.name
    return replace(images, table=table, provenance=provenance)


def _with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), IMAGES.field(name), values)


def _summary(images: Images, estimator: Estimator, choices: Choices) -> str:
    numbers = visible(images.keypoints()).sum(axis=1)
    text = (
        f"{len(images):,} rows by {estimator.name}, {int((numbers == 0).sum()):,} without any "
        f"joint, {float(numbers.mean()) if len(numbers) else 0:.1f} joints on average"
    )
    if choices.masks:
        num_masks = len(images) - images.table["mask"].null_count
        text += f", {num_masks:,} with a mask, {len(images) - num_masks:,} without a sound one"
    if choices.min_confidence:
        confidence = images.table["pose_confidence"].to_numpy(zero_copy_only=False)
        low = int((confidence < choices.min_confidence).sum())
        text += f", {low:,} below confidence {choices.min_confidence:g}"
    return text
