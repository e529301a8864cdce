"""MoveNet: the 17 COCO joints of one person, on one CPU core (Google, Apache-2.0)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float

from augment.pose.estimators.coco import COCO_NAMES, from_coco
from augment.pose.estimators.interface import Detection, Image
from augment.pose.estimators.letterbox import Letterbox
from augment.pose.estimators.litert import LiteRtNetwork
from manifests.io import sha256_file
from manifests.runtime.console import UserError

MIN_SCORE: Final = 0.2


class MoveNet:
    """MoveNet single-pose (Google, Apache-2.0) on the CPU through LiteRT."""

    def __init__(self, path: Path, min_score: float = MIN_SCORE) -> None:
        """Open the file.

        Args:
            path: A ``.tflite`` file with one square RGB uint8 input and 1 x 1 x 17 x 3 outputs
                (y, x, score in [0, 1]).
            min_score: Joints below it are missing.

        Raises:
            UserError: If ``ai-edge-litert`` is not installed or the file is no such network.
        """
        self._network = LiteRtNetwork(path)
        (entry,), (leaving,) = self._network.inputs, self._network.outputs
        shapes = tuple(entry["shape"]), tuple(leaving["shape"])
        _, side, width, _ = shapes[0] if len(shapes[0]) == 4 else (0, 0, 1, 0)
        expected = ((1, side, side, 3), (1, 1, len(COCO_NAMES), 3))
        if shapes != expected or side != width or entry["dtype"] != np.uint8:
            raise UserError(
                f"--estimator: {path} takes {entry['dtype'].__name__} {shapes[0]} and gives "
                f"{shapes[1]}, expected uint8 (1, side, side, 3) and (1, 1, 17, 3)"
            )
        self._side = int(side)
        self._min_score = min_score
        self._name = f"{path.stem}, sha256 {sha256_file(path)[:8]}"

    @property
    def name(self) -> str:
        """The file's name and the first digits of its digest."""
        return self._name

    @property
    def draws_masks(self) -> bool:
        """It draws none."""
        return False

    def detect(self, images: Sequence[Image]) -> list[Detection]:
        """Return the person in each image; see ``Estimator.detect``."""
        return [Detection(from_coco(self._joints(image)[None])[0]) for image in images]

    def _joints(self, image: Image) -> Float[np.ndarray, "17 2"]:
        box = Letterbox.of((image.shape[1], image.shape[0]), self._side)
        (scores,) = self._network.run(box.draw(image)[None])
        found = scores[0, 0]
        # The network counts from edge to edge of the square, we from pixel centre to pixel centre.
        joints = box.back(found[:, 1::-1] * self._side - 0.5)
        joints[found[:, 2] < self._min_score] = np.nan
        return joints
