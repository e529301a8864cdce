"""Images in squares, as the networks take them, and points back from there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from augment.pose.estimators.interface import Image
from manifests import keypoints, pixels


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
