"""What ``augment detect`` keeps of detections, and counts of what a table then holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from augment.pose.estimators.interface import Estimator
from manifests.io import image_sizes, keypoint_array
from manifests.keypoint_check import KeypointCheck
from manifests.keypoints import visible
from manifests.masks import decode_mask, has_two_large_parts

_SIZED_MASK: Final = ("width", "height", "mask")


@dataclass(frozen=True, slots=True)
class Choices:
    """What is kept of detections."""

    masks: bool = False
    min_confidence: float = 0.0
    replaces: bool = False
    """Whether existing joints are replaced, too."""
    threads: int = 1
    skips_broken: bool = False
    """Whether rows whose image cannot be read are left out."""


JOINTS_ALONE: Final = Choices()


@dataclass(slots=True)
class Counts:
    """What the rows of a table hold."""

    in_images: int = 0
    """Of the table that was read."""
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
            text += f", {self.rows - self.masks:,} with no sound one"
        if choices.min_confidence:
            text += f", {self.unsure:,} below confidence {choices.min_confidence:g}"
        if self.rows < self.in_images:
            text += f"; {self.in_images - self.rows:,} images that cannot be used left out"
        return text
