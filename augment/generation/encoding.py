"""Encoding: images of the network to files, files and plan to the rows of a shard."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, UInt8

from augment.generation.plan import GenerationPlan, PlannedRows, synthetic_id
from augment.generation.run_config import Encoding, RunConfig
from manifests import pixels
from manifests.io import keypoint_column
from manifests.schema import IMAGE_STRUCT, IMAGES, SHARD, UNKNOWN_CAMERA


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """Encoded images of one batch, without the padding."""

    images: list[bytes | None]
    errors: list[str | None]


def encode_batch(
    images: UInt8[np.ndarray, "batch height width 3"],
    finite: Bool[np.ndarray, " batch"],
    errors: list[str | None],
    encoding: Encoding,
) -> EncodedBatch:
    """Return the encoded images of the rows before the padding; failed rows have none."""
    encoded: list[bytes | None] = []
    errors = list(errors)
    for row, error in enumerate(errors):
        if error is None and not finite[row]:
            errors[row] = "the network's output is not finite"
        encoded.append(None if errors[row] else encode(images[row], encoding))
    return EncodedBatch(encoded, errors)


def encode(image: UInt8[np.ndarray, "height width 3"], encoding: Encoding) -> bytes:
    """Return the file of one image."""
    if encoding.image_format == "png":
        return pixels.encode_png(image)
    assert encoding.quality is not None
    assert encoding.subsampling is not None
    return pixels.encode_jpeg(image, encoding.quality, encoding.subsampling)


def shard_table(
    run: RunConfig, plan: GenerationPlan, rows: PlannedRows, batches: list[EncodedBatch]
) -> pa.Table:
    """Return the rows of a shard with their images, as ``schema.SHARD`` says."""
    content = run.content
    images = [image for batch in batches for image in batch.images]
    errors = [error for batch in batches for error in batch.errors]
    source = _sources(plan, rows)
    source_ids = source["image_id"].to_pylist()
    named_after = rows.people if plan.are_new else source_ids
    names = [
        synthetic_id(name, k, content.encoding.ending)
        for name, k in zip(named_after, rows.k.tolist(), strict=True)
    ]
    digests = [None if image is None else hashlib.sha256(image).hexdigest() for image in images]
    count = len(rows)
    seen = plan.bank.images.table.take(pa.array(rows.pose))
    # Before a street an image looks like one of the camera that saw it.
    camera_of = seen if plan.bank.streets else source
    pose_ids, joints = seen["image_id"], plan.target_joints(rows)
    if plan.keeps_pose:
        pose_ids, joints = source["image_id"], plan.source_joints[rows.source]
    background_ids = pa.nulls(count, pa.string())
    if plan.own_streets:
        background_ids = source["image_id"]
    elif plan.bank.streets:
        background_ids = seen["image_id"]
    columns = {
        "image_id": pa.array(names),
        "path": pa.nulls(count, pa.string()),
        "split": source["split"],
        "person_id": pa.array(rows.people, pa.string()),
        "camera_id": camera_of["camera_id"],
        **{
            name: pa.nulls(count, pa.int32()) if plan.bank.streets else source[name]
            for name in ("sequence", "frame")
        },
        "width": pa.repeat(pa.scalar(content.width, pa.int32()), count),
        "height": pa.repeat(pa.scalar(content.height, pa.int32()), count),
        "keypoints": keypoint_column(joints),
        "sha256": pa.array(digests, pa.string()),
        "k": pa.array(rows.k.astype(np.int32)),
        "source_id": pa.array(source_ids, pa.string()),
        "pose_id": pose_ids,
        "background_id": background_ids,
        "seed": pa.array(rows.seed),
        "generator": pa.repeat(pa.scalar(content.generator), count),
        "weights_sha256": pa.repeat(pa.scalar(content.weights_sha256), count),
        "weight": pa.repeat(pa.scalar(1.0, pa.float32()), count),
        "error": pa.array(errors, pa.string()),
        "image": _image_column(images, names),
    }
    return pa.Table.from_arrays([_one_chunk(columns[name]) for name in SHARD.names], schema=SHARD)


def _sources(plan: GenerationPlan, rows: PlannedRows) -> pa.Table:
    """Return the rows of the sources; of new people nothing is known but that no camera is."""
    if not plan.are_new:
        return plan.sources.take(rows.source).table
    empty = {
        name: pa.nulls(len(rows), IMAGES.field(name).type)
        for name in ("image_id", "sequence", "frame")
    }
    unknown = pa.scalar(UNKNOWN_CAMERA, IMAGES.field("camera_id").type)
    known = {"camera_id": unknown, "split": pa.scalar("train")}
    return pa.table({**empty, **{name: pa.repeat(one, len(rows)) for name, one in known.items()}})


def _image_column(images: list[bytes | None], names: list[str]) -> pa.Array:
    parts = [pa.array(images, pa.binary()), pa.array(names, pa.string())]
    missing = pa.array([image is None for image in images])
    return pa.StructArray.from_arrays(parts, fields=list(IMAGE_STRUCT), mask=missing)


def _one_chunk(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
