"""Eight canonical poses: two phases of a step, seen from front, right, back and left.

As the eight standard poses of Pose2ID (Yuan et al., "From Poses to Identity: Training-Free Person
Re-Identification via Feature Centralization", CVPR 2025), which takes its own from real people.
These are of a made-up body of mean shape (``scripts/write_canonical_poses``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from augment.pose.bank import IMAGE_COLUMNS, PoseBank, bank_digest
from manifests import keypoints
from manifests.io import Images
from manifests.schema import CANONICAL, IMAGES, UNKNOWN_CAMERA

_FILE: Final = Path(__file__).with_name("canonical_poses.json")


def canonical_bank(size: tuple[int, int]) -> PoseBank:
    """Return the eight poses; nobody was seen in them, so that there is neither image nor street.

    Convention: joints are (x, y) pixels of the generated image, pixel centres at integers; what is
    turned away of the face is missing.

    Args:
        size: (width, height) of the generated images.
    """
    found = json.loads(_FILE.read_text("utf-8"))
    names = list(found["poses"])
    joints = np.array(
        [[joint or (np.nan, np.nan) for joint in found["poses"][name]] for name in names],
        np.float32,
    )
    joints = keypoints.resize(joints, (found["width"], found["height"]), size).astype(np.float32)
    columns = {
        "image_id": [CANONICAL + name for name in names],
        "path": [None] * len(names),
        "sha256": [None] * len(names),
        "person_id": [CANONICAL] * len(names),
        "camera_id": [UNKNOWN_CAMERA] * len(names),
    }
    schema = pa.schema([IMAGES.field(name) for name in IMAGE_COLUMNS])
    seen = Images(pa.table(columns, schema=schema), Path(), {})
    return PoseBank(seen, joints, bank_digest(seen.table, joints), canonical=True)
