"""BlazePose: 33 landmarks and a person mask in one pass on one CPU core (Google, Apache-2.0).

Bazarevsky et al. 2020; the network ``pose_landmark_full.tflite`` of the package ``mediapipe``, of
which only that file is read. A crop is put into the middle of a black square 1.25 times as high,
which the network, made for the region around a person, understands better than the bare crop.
"""

from __future__ import annotations

import importlib.util
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Float32
from scipy.special import expit

from augment.pose.estimators.interface import Detection, Image
from augment.pose.estimators.litert import EXTRA, LiteRtNetwork
from manifests import pixels
from manifests.io import sha256_file
from manifests.keypoints import JOINT_NAMES, NUM_JOINTS
from manifests.masks import Mask
from manifests.runtime.console import UserError

FILE: Final = "modules/pose_landmark/pose_landmark_full.tflite"
SHA256: Final = "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f"
RELEASE: Final = "0.10.21"
"""Of ``mediapipe``, which brings the file of that digest."""
_OF_ANOTHER_PYTHON: Final = (
    f"--only-binary=:all: --python-version 3.12 --target {sysconfig.get_path('purelib')} "
    if int(sysconfig.get_python_version().split(".")[1]) >= 13
    else ""
)
"""The release has no wheel for later ones; only a file of it is read, so any will do."""
INSTALL: Final = f"pip install --no-deps {_OF_ANOTHER_PYTHON}mediapipe=={RELEASE} and {EXTRA}"

SIDE_PX: Final = 256
PADDING: Final = 1.25
"""Side of the black square over the longer side of the crop."""
MIN_CONFIDENCE: Final = 0.5
"""Below it there is nobody: no joint and no mask."""
MIN_VISIBILITY: Final = 0.5
"""Below it a joint is missing."""
MASK_THRESHOLD: Final = 0.5
"""Above it a pixel is the person."""

LANDMARKS: Final = {
    "nose": 0,
    "left_eye": 2,
    "right_eye": 5,
    "left_ear": 7,
    "right_ear": 8,
    "left_shoulder": 11,
    "right_shoulder": 12,
    "left_elbow": 13,
    "right_elbow": 14,
    "left_wrist": 15,
    "right_wrist": 16,
    "left_hip": 23,
    "right_hip": 24,
    "left_knee": 25,
    "right_knee": 26,
    "left_ankle": 27,
    "right_ankle": 28,
}
"""Which of the 33 landmarks a joint is; the neck is the mean of the shoulders."""

_OUTPUTS: Final = {"landmarks": (1, 195), "confidence": (1, 1), "mask": (1, 256, 256, 1)}


def packaged_file() -> Path:
    """Return the network's file in the installed package, which is not imported.

    Raises:
        UserError: If it is not there, or that of another release; names the command that installs
            it.
    """
    spec = importlib.util.find_spec("mediapipe")
    for folder in [] if spec is None else list(spec.submodule_search_locations or ()):
        path = Path(folder) / FILE
        if path.is_file():
            _check_digest(path)
            return path
    raise UserError(
        f"--estimator blazepose: found no {Path(FILE).name} on this machine; {INSTALL} bring it, "
        "or give its path"
    )


def _check_digest(path: Path) -> None:
    # The lite and the heavy network take and give the same shapes: only the digest tells them.
    found = sha256_file(path)
    if found != SHA256:
        raise UserError(
            f"--estimator blazepose: {path} has the SHA-256 {found[:8]}..., expected "
            f"{SHA256[:8]}...; {INSTALL} bring that file, or --estimator {path} takes this one"
        )


class BlazePose:
    """BlazePose full, through LiteRT."""

    def __init__(self, path: Path, min_confidence: float = MIN_CONFIDENCE) -> None:
        """Open the file.

        Args:
            path: ``pose_landmark_full.tflite``.
            min_confidence: Below it there is nobody in the image.

        Raises:
            UserError: If ``ai-edge-litert`` is not installed or the file is no such network.
        """
        self._network = LiteRtNetwork(path)
        if not is_blazepose(self._network):
            shapes = [tuple(output["shape"]) for output in self._network.outputs]
            raise UserError(
                f"--estimator: {path} gives {shapes}, expected among them "
                f"{list(_OUTPUTS.values())}, as {Path(FILE).name} does"
            )
        self._order = {tuple(output["shape"]): i for i, output in enumerate(self._network.outputs)}
        self._min_confidence = min_confidence
        self._file, self._sha256 = path, sha256_file(path)

    @property
    def name(self) -> str:
        """The file's name and the first digits of its digest."""
        return f"{self._file.stem}, sha256 {self._sha256[:8]}"

    @property
    def draws_masks(self) -> bool:
        """It draws them."""
        return True

    @property
    def provenance(self) -> Mapping[str, Any]:
        """The file's name, digest and package, and what is done before and after it."""
        return {
            "network": self._file.name,
            "sha256": self._sha256,
            "package": f"mediapipe {RELEASE}" if self._sha256 == SHA256 else None,
            "runtime": self._network.runtime,
            "padding": PADDING,
            "confidence_threshold": self._min_confidence,
            "visibility_threshold": MIN_VISIBILITY,
            "mask_threshold": MASK_THRESHOLD,
        }

    def detect(self, images: Sequence[Image]) -> list[Detection]:
        """Return the person in each image; see ``Estimator.detect``."""
        return [self._detect(image) for image in images]

    def _detect(self, image: Image) -> Detection:
        height, width = image.shape[:2]
        side = round(PADDING * max(height, width))
        left, top = (side - width) // 2, (side - height) // 2
        square = np.zeros((side, side, 3), np.uint8)
        square[top : top + height, left : left + width] = image
        shrunk = pixels.resize(square, (SIDE_PX, SIDE_PX))
        outputs = self._network.run(shrunk[None].astype(np.float32) / 255)
        landmarks, confidence, mask = (outputs[self._order[shape]] for shape in _OUTPUTS.values())
        sure = float(confidence[0, 0])
        if sure < self._min_confidence:
            return Detection(np.full((NUM_JOINTS, 2), np.nan, np.float32), sure)
        own = landmarks.reshape(39, 5)[:33]
        # The network counts from edge to edge of the square, we from pixel centre to pixel centre.
        points = own[:, :2] * (side / SIDE_PX) - 0.5 - np.array([left, top])
        points[expit(own[:, 3]) < MIN_VISIBILITY] = np.nan
        return Detection(
            _joints(points, (width, height)),
            sure,
            _crop(mask[0, :, :, 0], side, (left, top), image),
        )


def is_blazepose(network: LiteRtNetwork) -> bool:
    """Return whether a network takes and gives what BlazePose does."""
    shapes = {tuple(output["shape"]) for output in network.outputs}
    entry = network.inputs[0]
    takes = tuple(entry["shape"]) == (1, SIDE_PX, SIDE_PX, 3) and entry["dtype"] == np.float32
    return takes and shapes >= set(_OUTPUTS.values())


def _joints(
    points: Float[np.ndarray, "33 2"], size: tuple[int, int]
) -> Float32[np.ndarray, "18 2"]:
    """Return our joints; those beside the image are missing."""
    joints = np.full((NUM_JOINTS, 2), np.nan, np.float32)
    for name, landmark in LANDMARKS.items():
        joints[JOINT_NAMES.index(name)] = points[landmark]
    shoulders = [LANDMARKS["left_shoulder"], LANDMARKS["right_shoulder"]]
    joints[JOINT_NAMES.index("neck")] = points[shoulders].mean(axis=0)
    inside = ((joints >= -0.5) & (joints <= np.asarray(size) - 0.5)).all(axis=1)
    joints[~inside] = np.nan
    return joints


def _crop(
    logits: Float32[np.ndarray, "256 256"], side: int, corner: tuple[int, int], image: Image
) -> Mask:
    import cv2

    left, top = corner
    height, width = image.shape[:2]
    share = cv2.resize(expit(logits), (side, side), interpolation=cv2.INTER_LINEAR)
    return np.asarray(share[top : top + height, left : left + width] > MASK_THRESHOLD)
