"""The three tables in which real and synthetic images meet.

``images`` holds one row per real image; ``shards`` one row per planned synthetic image, with its
bytes; ``manifest`` the shards' rows without the bytes. Convention for ``keypoints``: (x, y) pixels
of the stored image, pixel centres at integers, a missing joint NaN, no annotation null.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from manifests.keypoints import NUM_JOINTS

SPLITS: Final = ("train", "query", "gallery")

JUNK: Final = "-1"
"""``person_id`` of a gallery row that is never ranked."""

DISTRACTOR: Final = "0000"
"""``person_id`` of a gallery row that shows nobody who is searched for."""

UNKNOWN_CAMERA: Final = -1

CANONICAL: Final = "canonical:"
"""``pose_id`` of a pose that no image shows begins with it: a standard pose of a made-up body."""

KEYPOINTS: Final = pa.list_(pa.list_(pa.float32(), 2), NUM_JOINTS)

_COMMON = (
    pa.field("image_id", pa.string(), nullable=False),
    pa.field("path", pa.string()),
    pa.field("split", pa.string(), nullable=False),
    pa.field("person_id", pa.string(), nullable=False),
    pa.field("camera_id", pa.int16(), nullable=False),
    pa.field("sequence", pa.int32()),
    pa.field("frame", pa.int32()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("keypoints", KEYPOINTS),
    pa.field("sha256", pa.string()),
)

_MASK = (
    pa.field("mask", pa.binary()),
    pa.field("mask_source", pa.string()),
    pa.field("pose_confidence", pa.float32()),
)
"""Which pixels are the person (``manifests.masks``), where that is known from, and how sure the
pose estimator was, 0 to 1."""

CENTRALITY: Final = "centrality"
"""Cosine, -1 to 1, between an image and the centroid of its person's other images, in the features
of a re-ID network ('reid centrality'); also the footer's key of what is known of the network."""

_SYNTHETIC = (
    pa.field("k", pa.int32(), nullable=False),
    pa.field("source_id", pa.string()),
    pa.field("pose_id", pa.string(), nullable=False),
    pa.field("background_id", pa.string()),
    pa.field("seed", pa.uint64(), nullable=False),
    pa.field("generator", pa.string()),
    pa.field("weights_sha256", pa.string()),
    pa.field("weight", pa.float32()),
    pa.field("error", pa.string()),
)

BACKGROUND_COLUMNS: Final = ("background_id",)
"""Columns that a manifest from before there were backgrounds does not have."""

NEW_PERSON: Final = "n{:06d}"
"""``person_id`` of people who do not exist, by their number; such rows have no ``source_id``."""

IMAGE_STRUCT: Final = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
"""The struct that ``datasets.load_dataset("parquet", ...)`` opens as an image."""

SCREEN: Final = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("person_id", pa.string(), nullable=False),
        pa.field("similarity", pa.float32(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("nearest_person", pa.string(), nullable=False),
        pa.field("weight", pa.float32()),
    ]
)
"""What 'reid screen' found, one row per image that it looked at; ``weight`` is null where it was
dropped."""

SCREEN_TABLE: Final = "screen.parquet"
"""Its file, in the folder that the command wrote."""

IMAGES: Final = pa.schema([*_COMMON, *_MASK, pa.field(CENTRALITY, pa.float32())])
MASK_COLUMNS: Final = tuple(field.name for field in _MASK)
"""Columns that a table without masks does not have."""

OPTIONAL_COLUMNS: Final = (MASK_COLUMNS, (CENTRALITY,))
"""Columns of an images table that are there together or not at all."""

SHARD: Final = pa.schema([*_COMMON, *_SYNTHETIC, pa.field("image", IMAGE_STRUCT)])
MANIFEST: Final = pa.schema(
    [
        *_COMMON,
        *_SYNTHETIC,
        pa.field("shard", pa.string(), nullable=False),
        pa.field("shard_row", pa.int32(), nullable=False),
    ]
)
