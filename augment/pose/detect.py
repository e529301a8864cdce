"""``augment detect``: poses and person masks from pixels, for the rows of an images table.

Crops are worked on in chunks of 512 rows by several threads; a chunk that is done lies whole, as a
small images table, in a folder beside the table, so the same command goes on after a kill. In the
end the chunks are copied one after the other into the table: a few of them are in memory at a time,
whatever the number of rows. What is found in a crop depends on that crop alone: any number of
threads gives the same bytes. The published annotation of Market-1501 is OpenPose's: whoever
compares values names the estimator.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from jaxtyping import Int
from pydantic import Field

from augment.pose.estimators.interface import Detection, Estimator, Image
from augment.pose.estimators.registry import load_estimator
from manifests import pixels
from manifests.compute.devices import pick_device
from manifests.io import (
    ROOT_KEY,
    Images,
    ImagesFile,
    image_sizes,
    keypoint_array,
    keypoint_column,
    open_images,
    read_table,
    sha256_file,
    write_images,
    write_tables,
)
from manifests.keypoint_check import KeypointCheck
from manifests.keypoints import visible
from manifests.masks import (
    MAX_SHARE,
    MIN_SHARE,
    decode_mask,
    encode_mask,
    has_two_large_parts,
    is_sound,
    with_mask_maker,
)
from manifests.runtime import run_record, storage
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.settings import Frozen, Positive
from manifests.schema import IMAGES, MASK_COLUMNS

# pyarrow makes these functions at import time, where type checkers do not see them.
pc: Any = pyarrow.compute

CHUNK_ROWS: Final = 512
_BATCH: Final = 16
"""Images that a thread hands to the estimator at once."""

_TABLE: Final = "images.parquet"
"""The whole table, in the folder of the chunks until it is complete."""
_SIZED_MASK: Final = ("width", "height", "mask")
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
        UserError: If the table, an image or the estimator cannot be had, ``out`` is the input or
            cannot be written, its folder of chunks is another run's, or masks are asked of an
            estimator that draws none.
    """
    if settings.out.resolve() == settings.images.resolve():
        raise UserError(f"--out {settings.out}: is the input, expected another file")
    images = open_images(settings.images, settings.root)
    estimator = load_estimator(
        settings.estimator, pick_device(settings.device), settings.estimator_weights
    )
    if settings.masks and not estimator.draws_masks:
        raise UserError(f"--masks: {estimator.name} draws none; expected --estimator blazepose")
    choices = Choices(settings.masks, settings.min_confidence, settings.replace, settings.threads)
    text = write_joints(images, settings.out, estimator, choices, console)
    console.say(f"{settings.out}: {text}")
    return Exit.DONE


def write_joints(
    images: ImagesFile, out: Path, estimator: Estimator, choices: Choices, console: Console
) -> str:
    """Write what ``add_joints`` returns of a table, and return what was found, for a person.

    Chunks that are done are kept in the folder ``OUT.parts`` until the table is complete.

    Raises:
        UserError: If an image cannot be read, the joints cannot be pixels of their images (chunks
            are kept), ``out`` cannot be written, or the folder of chunks belongs to another run or
            holds other files.
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
    files = list(_write_chunks(images, parts, estimator, choices, console))
    has_masks = any(MASK_COLUMNS[0] in pq.read_schema(file).names for file in files)
    schema = pa.schema([field for field in IMAGES if has_masks or field.name not in MASK_COLUMNS])
    counts = _Counts()
    provenance = _provenance(images.provenance, estimator, choices)
    write_tables(
        (counts.add(table, choices).select(schema.names) for table in map(_chunk, files)),
        schema,
        parts / _TABLE,
        {**provenance, ROOT_KEY: str(images.root)},
    )
    counts.joint_check.finish(f"{out}: joints by {estimator.name}")
    (parts / _TABLE).replace(out)
    storage.sync_folder(out.parent)
    _remove(parts)
    return counts.text(estimator, choices)


def _write_chunks(
    images: ImagesFile, parts: Path, estimator: Estimator, choices: Choices, console: Console
) -> Iterator[Path]:
    """Write the chunks that are not there yet; give the files of all, in order."""
    with (
        ThreadPoolExecutor(choices.threads, "detect") as pool,
        console.progress(f"detect ({estimator.name})", images.num_rows) as bar,
    ):
        for number, chunk in enumerate(images.chunks(CHUNK_ROWS)):
            path = parts / f"part-{number:06d}.parquet"
            if not _holds(path, chunk):
                write_images(_with_joints(chunk, estimator, choices, pool), path)
            bar.advance(len(chunk))
            yield path


def _holds(path: Path, chunk: Images) -> bool:
    """Return whether a file is there, whole, and of the rows of a chunk."""
    try:
        ids = pq.read_table(path, columns=["image_id"])["image_id"]
    except (OSError, pa.ArrowException):
        return False
    return ids.equals(chunk.table["image_id"])


def _chunk(path: Path) -> pa.Table:
    table = read_table(path, IMAGES, "a chunk of 'augment detect'", optional=MASK_COLUMNS)
    return table.replace_schema_metadata(None)


def _remove(parts: Path) -> None:
    """Remove the folder of the chunks; without its record, the last to go, it were nobody's."""
    for path in sorted(parts.iterdir()):
        if path.name != run_record.RUN_RECORD:
            path.unlink()
    (parts / run_record.RUN_RECORD).unlink()
    parts.rmdir()


def add_joints(images: Images, estimator: Estimator, choices: Choices = Choices()) -> Images:
    """Return the table with joints in every row that has no annotation.

    A row in which the estimator finds nobody gets 18 missing joints. The footer names the
    estimator, and what made the masks.

    Args:
        images: The table; its image files are read.
        estimator: See ``load_estimator``.
        choices: What is kept.

    Raises:
        UserError: If an image cannot be read.
    """
    with ThreadPoolExecutor(choices.threads, "detect") as pool:
        return _with_joints(images, estimator, choices, pool)


def _with_joints(
    images: Images, estimator: Estimator, choices: Choices, pool: ThreadPoolExecutor
) -> Images:
    unannotated = images.table["keypoints"].is_null().to_numpy()
    # Rows that keep their joints may still want a mask.
    wanted = np.full(len(images), choices.replaces or choices.masks) | unannotated
    rows = np.flatnonzero(wanted)
    found = _table_of(_detections(images, rows, estimator, choices, pool), choices)
    joints = images.keypoints()
    new = unannotated | choices.replaces
    joints[new] = keypoint_array(found["keypoints"])[new[rows]]
    columns = {"keypoints": keypoint_column(joints)}
    row_in_found = pa.array(np.cumsum(wanted) - 1, mask=~wanted)
    for name in MASK_COLUMNS:
        columns[name] = pc.coalesce(found[name].take(row_in_found), images.table[name])
    table = images.table
    for name, column in columns.items():
        table = table.set_column(IMAGES.get_field_index(name), IMAGES.field(name), column)
    provenance = _provenance(images.provenance, estimator, choices)
    return replace(images, table=table, provenance=provenance)


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
) -> Iterator[Detection]:
    def one_batch(batch: Int[np.ndarray, " batch"]) -> Sequence[Detection]:
        return estimator.detect([_read(images, row, choices) for row in batch.tolist()])

    batches = [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]
    return (detection for batch in pool.map(one_batch, batches) for detection in batch)


def _read(images: Images, row: int, choices: Choices) -> Image:
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


@dataclass(slots=True)
class _Counts:
    """What the rows of a table hold."""

    rows: int = 0
    without_joints: int = 0
    joints: int = 0
    masks: int = 0
    in_two_parts: int = 0
    unsure: int = 0
    joint_check: KeypointCheck = field(default_factory=KeypointCheck)

    def add(self, table: pa.Table, choices: Choices) -> pa.Table:
        """Count rows, and return them."""
        joints = keypoint_array(table["keypoints"])
        self.joint_check.add(joints, image_sizes(table))
        numbers = visible(joints).sum(axis=1)
        self.rows += len(table)
        self.without_joints += int((numbers == 0).sum())
        self.joints += int(numbers.sum())
        confidence = table["pose_confidence"].to_numpy()
        self.unsure += int((confidence < choices.min_confidence).sum())
        if choices.masks:
            sized = zip(*(table[name].to_pylist() for name in _SIZED_MASK), strict=True)
            for width, height, mask in sized:
                if mask is not None:
                    self.masks += 1
                    person = decode_mask(mask, (width, height), "a mask of the table")
                    self.in_two_parts += has_two_large_parts(person)
        return table

    def text(self, estimator: Estimator, choices: Choices) -> str:
        """Return a line for a person."""
        text = (
            f"{self.rows:,} rows by {estimator.name}, {self.without_joints:,} without any joint, "
            f"{self.joints / max(1, self.rows):.1f} joints on average"
        )
        if choices.masks:
            text += f", {self.masks:,} with a mask"
            if self.in_two_parts:
                text += f" ({self.in_two_parts:,} in two large parts: perhaps of two people)"
            text += f", {self.rows - self.masks:,} without a sound one"
        if choices.min_confidence:
            text += f", {self.unsure:,} below confidence {choices.min_confidence:g}"
        return text
