"""MoveNet: the 17 COCO joints of one person, on one CPU core (Google, Apache-2.0)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from augment.pose.estimators.interface import Detection, Image
from augment.pose.estimators.letterbox import Letterbox
from augment.pose.estimators.litert import LiteRtNetwork
from manifests.io import sha256_file
from manifests.keypoints import COCO_NAMES, from_coco
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
        self._side = _side(self._network, path)
        self._min_score = min_score
        self._file, self._sha256 = path, sha256_file(path)

    @property
    def name(self) -> str:
        """The file's name and the first digits of its digest."""
        return f"{self._file.stem}, sha256 {self._sha256[:8]}"

    @property
    def draws_masks(self) -> bool:
        """It draws none."""
        return False

    @property
    def provenance(self) -> Mapping[str, Any]:
        """The file's name and digest, and the threshold."""
        return {
            "network": self._file.name,
            "sha256": self._sha256,
            "runtime": self._network.runtime,
            "min_score": self._min_score,
        }

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


def _side(network: LiteRtNetwork, path: Path) -> int:
    """Return the side of the square that a network takes, if it is MoveNet."""
    takes = [f"{entry['dtype'].__name__} {_shape(entry)}" for entry in network.inputs]
    gives = [_shape(leaving) for leaving in network.outputs]
    side = _shape(network.inputs[0])[1:2]
    expected = [f"uint8 {(1, *side, *side, 3)}"], [(1, 1, len(COCO_NAMES), 3)]
    if (takes, gives) != expected:
        raise UserError(
            f"--estimator: {path} takes {', '.join(takes)} and gives "
            f"{', '.join(map(str, gives))}, expected the file of MoveNet, uint8 (1, side, side, 3) "
            "to (1, 1, 17, 3), or of BlazePose, float32 (1, 256, 256, 3) to (1, 195) and a mask"
        )
    return side[0]


def _shape(tensor: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(length) for length in tensor["shape"])
