"""``augment detect``: poses from pixels; estimators behind one interface, joints for tables.

Two estimators, both of the 17 COCO joints: Google's MoveNet as a ``.tflite`` file (runs offline on
one CPU core; the extra ``litert``), and torchvision's Keypoint R-CNN (a file or a download). The
neck, which COCO lacks, is the mean of the shoulders. The published annotation of Market-1501 is
OpenPose's: whoever compares values names the estimator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from manifests import keypoints, pixels
from manifests.compute.devices import pick_device
from manifests.compute.external_weights import optional_module, read_state_dict, weights_file
from manifests.io import Images, keypoint_column, read_images, sha256_file, write_images
from manifests.keypoints import JOINT_NAMES, NUM_JOINTS, visible
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.settings import Frozen

COCO_NAMES: Final = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)

KEYPOINT_RCNN: Final = "keypointrcnn"
KEYPOINT_RCNN_ADDRESS: Final = (
    "https://download.pytorch.org/models/keypointrcnn_resnet50_fpn_coco-fc266e95.pth"
)
RCNN_SIDE_PX: Final = 400
"""The shorter side that Keypoint R-CNN sees; its default of 800 gains nothing on small crops."""
RCNN_MIN_PERSON: Final = 0.5
RCNN_MIN_JOINT: Final = 2.0
"""Least peak of a joint's heat map (a logit), the threshold of the Detectron viewers."""

MOVENET_MIN_SCORE: Final = 0.2

Image = UInt8[np.ndarray, "height width 3"]
CocoJoints = Float[np.ndarray, "images 17 2"]
Joints = Float[np.ndarray, "images 18 2"]

_EXTRA = 'pip install "reid-augment[litert]"'
_DETECT_BATCH = 32


class DetectSettings(Frozen):
    """Add the joints of a pose estimator to an images table."""

    images: Path
    """Images table (made by 'augment index')."""
    out: Path
    """Where the table with joints goes (.parquet)."""
    estimator: str
    """Pose estimator: FILE.tflite of MoveNet, or keypointrcnn."""
    estimator_weights: str | None = None
    """Weights of Keypoint R-CNN: a file, or download."""
    root: Path | None = None
    """Where the images lie, if not where the table says."""
    device: str = "auto"
    """Where Keypoint R-CNN runs: auto, cpu, cuda or cuda:N."""
    replace: bool = False
    """Also replace the joints of rows that have some."""


class Estimator(Protocol):
    """Finds one person's joints in each image."""

    @property
    def name(self) -> str:
        """The estimator's name, as tables give it."""
        ...

    def joints(self, images: Sequence[Image]) -> Joints:
        """Return the joints of the person in each RGB image; missing joints NaN.

        Convention: (x, y) pixels of the image, pixel centres at integers, origin top-left.
        """
        ...


def detect(settings: DetectSettings, console: Console) -> Exit:
    """Write the table with joints.

    Raises:
        UserError: If the table, an image or the estimator cannot be had, or ``out`` is the input.
    """
    if settings.out.resolve() == settings.images.resolve():
        raise UserError(f"--out {settings.out}: is the input, expected another file")
    images = read_images(settings.images, settings.root)
    estimator = load_estimator(
        settings.estimator, pick_device(settings.device), settings.estimator_weights
    )
    found = add_joints(images, estimator, replaces=settings.replace, console=console)
    write_images(found, settings.out)
    numbers = visible(found.keypoints()).sum(axis=1)
    console.say(
        f"{settings.out}: {len(found):,} rows by {estimator.name}, "
        f"{int((numbers == 0).sum()):,} without any joint, "
        f"{float(numbers.mean()) if len(numbers) else 0:.1f} joints on average"
    )
    return Exit.DONE


def load_estimator(
    setting: str, device: torch.device | str = "cpu", weights: str | None = None
) -> Estimator:
    """Return the estimator that a setting names.

    Args:
        setting: The path of a ``.tflite`` file of MoveNet, or ``keypointrcnn``.
        device: Where Keypoint R-CNN runs; MoveNet runs on the CPU.
        weights: Weights of Keypoint R-CNN: a file, ``download``, or None for what an earlier
            download left on this machine.

    Raises:
        UserError: If the setting names no estimator, or its package or weights cannot be had.
    """
    if setting == KEYPOINT_RCNN:
        path = weights_file("estimator-weights", KEYPOINT_RCNN_ADDRESS, weights)
        return KeypointRCNN(path, device)
    if setting.endswith(".tflite"):
        return MoveNet(Path(setting))
    raise UserError(f"--estimator: found '{setting}', expected FILE.tflite or {KEYPOINT_RCNN}")


def from_coco(joints: CocoJoints) -> Joints:
    """Return the 18 joints of COCO's 17; the neck is the mean of both shoulders, if both are there.

    Convention: (x, y) in any frame; a missing joint is NaN.

    >>> coco = np.zeros((1, 17, 2))
    >>> coco[0, 5], coco[0, 6] = (10, 20), (30, 22)
    >>> from_coco(coco)[0, 1].tolist()
    [20.0, 21.0]
    """
    ours = np.full((len(joints), NUM_JOINTS, 2), np.nan, np.float32)
    for place, name in enumerate(COCO_NAMES):
        ours[:, JOINT_NAMES.index(name)] = joints[:, place]
    shoulders = [COCO_NAMES.index("left_shoulder"), COCO_NAMES.index("right_shoulder")]
    ours[:, JOINT_NAMES.index("neck")] = joints[:, shoulders].mean(axis=1)
    return ours


def add_joints(
    images: Images, estimator: Estimator, *, replaces: bool = False, console: Console | None = None
) -> Images:
    """Return the table with joints in every row that has no annotation.

    A row in which the estimator finds nobody gets 18 missing joints. The footer names the
    estimator.

    Args:
        images: The table; its image files are read.
        estimator: See ``load_estimator``.
        replaces: Whether existing annotation is replaced, too.
        console: Where progress goes.

    Raises:
        UserError: If an image cannot be read.
    """
    console = console or Console(quiet=True)
    column = images.table["keypoints"]
    rows = np.arange(len(images)) if replaces else np.flatnonzero(column.is_null().to_numpy())
    joints = images.keypoints()
    with console.progress(f"detect ({estimator.name})", len(rows)) as bar:
        for start in range(0, len(rows), _DETECT_BATCH):
            batch = rows[start : start + _DETECT_BATCH]
            joints[batch] = estimator.joints([pixels.read(images.file(int(row))) for row in batch])
            bar.advance(len(batch))
    place = images.table.schema.get_field_index("keypoints")
    annotated = ~column.is_null().to_numpy()
    annotated[rows] = True
    table = images.table.set_column(place, "keypoints", keypoint_column(joints, annotated))
    provenance = {**images.provenance, "keypoints_estimator": estimator.name}
    return replace(images, table=table, provenance=provenance)


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Where an image lies in a square that it was scaled and centred into."""

    side: int
    size: tuple[int, int]
    """Width and height of the image before."""
    scaled: tuple[int, int]
    """Width and height of the image in the square."""
    corner: tuple[int, int]
    """Column and row of its top-left pixel in the square."""

    @classmethod
    def of(cls, size: tuple[int, int], side: int) -> Letterbox:
        """Return the largest place with (nearly) the image's proportions."""
        scale = side / max(size)
        scaled = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        return cls(side, size, scaled, ((side - scaled[0]) // 2, (side - scaled[1]) // 2))

    def draw(self, image: Image) -> UInt8[np.ndarray, "side side 3"]:
        """Return the square; black beside the image."""
        square = np.zeros((self.side, self.side, 3), np.uint8)
        (left, top), (width, height) = self.corner, self.scaled
        square[top : top + height, left : left + width] = pixels.resize(image, self.scaled)
        return square

    def back(self, points: Float[np.ndarray, "*batch 2"]) -> Float[np.ndarray, "*batch 2"]:
        """Return points of the square as points of the image; those beside the image are NaN.

        Convention: (x, y), pixel centres at integers, in both.

        >>> Letterbox.of((64, 128), 192).back(np.array([[48.25, 0.25], [20.0, 50.0]])).tolist()
        [[0.0, 0.0], [nan, nan]]
        """
        inside = keypoints.resize(points - np.asarray(self.corner), self.scaled, self.size)
        high = np.asarray(self.size) - 0.5
        there = ((inside >= -0.5) & (inside <= high)).all(axis=-1, keepdims=True)
        return np.where(there, inside, np.nan)


class MoveNet:
    """MoveNet single-pose (Google, Apache-2.0) on the CPU through LiteRT."""

    def __init__(self, path: Path, min_score: float = MOVENET_MIN_SCORE) -> None:
        """Open the file.

        Args:
            path: A ``.tflite`` file with one square RGB uint8 input and 1 x 1 x 17 x 3 outputs
                (y, x, score in [0, 1]).
            min_score: Joints below it are missing.

        Raises:
            UserError: If ``ai-edge-litert`` is not installed or the file is no such network.
        """
        if not path.is_file():
            raise UserError(f"--estimator: found no file at {path}")
        litert = optional_module("ai_edge_litert.interpreter", "ai-edge-litert", _EXTRA)
        try:
            self._network: Any = litert.Interpreter(str(path), num_threads=1)
            self._network.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise UserError(f"--estimator: {path} is no .tflite network ({error})") from error
        (entry,), (leaving,) = self._network.get_input_details(), self._network.get_output_details()
        shapes = tuple(entry["shape"]), tuple(leaving["shape"])
        _, side, width, _ = shapes[0] if len(shapes[0]) == 4 else (0, 0, 1, 0)
        expected = ((1, side, side, 3), (1, 1, len(COCO_NAMES), 3))
        if shapes != expected or side != width or entry["dtype"] != np.uint8:
            raise UserError(
                f"--estimator: {path} takes {entry['dtype'].__name__} {shapes[0]} and gives "
                f"{shapes[1]}, expected uint8 (1, side, side, 3) and (1, 1, 17, 3)"
            )
        self._side = int(side)
        self._places = entry["index"], leaving["index"]
        self._min_score = min_score
        self._name = f"{path.stem}, sha256 {sha256_file(path)[:8]}"

    @property
    def name(self) -> str:
        """The file's name and the first digits of its digest."""
        return self._name

    def joints(self, images: Sequence[Image]) -> Joints:
        """Return the joints of each image; see ``Estimator.joints``."""
        coco = np.full((len(images), len(COCO_NAMES), 2), np.nan, np.float32)
        for row, image in enumerate(images):
            coco[row] = self._one(image)
        return from_coco(coco)

    def _one(self, image: Image) -> Float[np.ndarray, "17 2"]:
        box = Letterbox.of((image.shape[1], image.shape[0]), self._side)
        self._network.set_tensor(self._places[0], box.draw(image)[None])
        self._network.invoke()
        found = self._network.get_tensor(self._places[1])[0, 0]
        # The network counts from edge to edge of the square, we from pixel centre to pixel centre.
        joints = box.back(found[:, 1::-1] * self._side - 0.5)
        joints[found[:, 2] < self._min_score] = np.nan
        return joints


class KeypointRCNN:
    """Keypoint R-CNN (He et al. 2017) with a ResNet-50, from torchvision."""

    def __init__(self, weights: Path, device: torch.device | str = "cpu") -> None:
        """Fill the network.

        Raises:
            UserError: If the file does not hold torchvision's weights.
        """
        detection: Any = optional_module("torchvision.models.detection", "torchvision")
        self._network: Any = detection.keypointrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, min_size=RCNN_SIDE_PX, max_size=4 * RCNN_SIDE_PX
        )
        state = read_state_dict(weights, "--estimator-weights")
        try:
            self._network.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(
                f"--estimator-weights: {weights} does not fit keypointrcnn_resnet50_fpn"
            ) from error
        self._network.eval().to(device)
        self._device = torch.device(device)

    @property
    def name(self) -> str:
        """The architecture's name."""
        return "Keypoint R-CNN ResNet-50"

    def joints(self, images: Sequence[Image]) -> Joints:
        """Return the joints of the surest person of each image; see ``Estimator.joints``."""
        inputs = [
            torch.from_numpy(image).to(self._device).permute(2, 0, 1).float() / 255
            for image in images
        ]
        with torch.inference_mode():
            found = self._network(inputs)
        return from_coco(np.stack([surest_person(people) for people in found]))


def surest_person(people: dict[str, torch.Tensor]) -> Float[np.ndarray, "17 2"]:
    """Return the joints of the person with the highest score, all NaN if nobody is sure enough.

    Convention: torchvision counts from the edge of the image, we from the first pixel's centre.

    Args:
        people: ``scores``, ``keypoints`` (x, y, visibility) and ``keypoints_scores`` of one image,
            best person first, as torchvision gives them.
    """
    if len(people["scores"]) == 0 or float(people["scores"][0]) < RCNN_MIN_PERSON:
        return np.full((len(COCO_NAMES), 2), np.nan, np.float32)
    joints = people["keypoints"][0, :, :2].cpu().numpy().astype(np.float32) - np.float32(0.5)
    unsure: Bool[np.ndarray, " 17"] = people["keypoints_scores"][0].cpu().numpy() < RCNN_MIN_JOINT
    joints[unsure] = np.nan
    return joints
