"""Pose estimators for tests: what they find follows from the crop."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from augment.pose.detect import Choices, write_joints
from augment.pose.estimators.interface import Detection
from manifests.io import Images, open_images, write_images
from manifests.runtime.console import Console
from tests.helpers.poses import upright

ALL = Choices(masks=True, replaces=True)


def last_column(width: int, height: int) -> np.ndarray:
    """Return a pose that stands in the last column of an image."""
    y = np.linspace(0, height - 1, 18, dtype=np.float32)
    return upright(np.stack([np.full_like(y, width - 1), y], axis=1))


class Corner:
    """Finds every joint in the last column, from the head at the top to a foot in the corner."""

    name = "corner"
    draws_masks = True
    provenance: ClassVar[dict[str, object]] = {"network": "corner"}

    def __init__(self) -> None:
        self.seen = 0

    def detect(self, images: Sequence[np.ndarray]) -> list[Detection]:
        self.seen += len(images)
        return [
            Detection(
                last_column(image.shape[1], image.shape[0]),
                float(image[0, 0, 0]) / 255,
                np.arange(image.shape[1])[None] < np.full(image.shape[0], 20)[:, None],
            )
            for image in images
        ]


def written(images: Images, folder: Path, estimator: Corner, choices: Choices = ALL) -> bytes:
    """Do the command's work on a table in a folder; return the bytes of what it wrote."""
    folder.mkdir(exist_ok=True)
    write_images(images, folder / "images.parquet")
    table, out = open_images(folder / "images.parquet"), folder / "out.parquet"
    write_joints(table, out, estimator, choices, Console(quiet=True))
    return out.read_bytes()
