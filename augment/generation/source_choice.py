"""Which of a person's images a row is made from, and which of its candidate poses it shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from augment.generation.choices import Choices
from augment.pose.bank import PoseBank
from augment.pose.distance import pose_distances
from manifests import keypoints
from manifests.runtime.random_numbers import bounded

_ANOTHER: float = 1e6
"""Added to the distance of a choice that is taken only where there is no better one; no two poses
are that far from each other, in lengths of a torso."""


@dataclass(frozen=True, slots=True)
class SourcePicker:
    """The images that rows may be made from, and how one of them is chosen."""

    choices: Choices
    bank: PoseBank
    bank_cameras: Int64[np.ndarray, " poses"]
    joints: Float32[np.ndarray, "sources 18 2"]
    """In pixels of the generated image."""
    shown: Int64[np.ndarray, " sources"]
    """The row of ``bank`` that a source shows itself, -1 for none."""
    cameras: Int64[np.ndarray, " sources"]
    centrality: Float32[np.ndarray, " sources"] | None = None
    """How near each lies to its person's others, NaN where that is not known; none: not asked."""

    def pools(self, images: range) -> list[list[int]]:
        """Return what the rows of a person draw from in turn, out of the person's images."""
        everything = list(images)
        if self.choices.source == "most-joints":
            joints = self.joints[images.start : images.stop]
            counts = keypoints.visible(joints).sum(axis=-1).tolist()
            most = max(counts)
            return [[i for i, n in zip(everything, counts, strict=True) if n == most]]
        if self.choices.source == "most-central":
            assert self.centrality is not None, "the plan brings it"
            centrality = self.centrality[images.start : images.stop]
            if np.isnan(centrality).all():
                return [everything]
            return [[everything[int(np.nanargmax(centrality))]]]
        if self.choices.source == "each-camera":
            cameras = self.cameras[images.start : images.stop].tolist()
            seen = zip(everything, cameras, strict=True)
            pools: dict[int, list[int]] = {camera: [] for camera in sorted(set(cameras))}
            for image, camera in seen:
                pools[camera].append(image)
            return list(pools.values())
        return [everything]

    def pick(self, images: range, pool: list[int], drawn: list[int], bits: int) -> tuple[int, int]:
        """Return source and pose of a row.

        Args:
            images: All that the person has.
            pool: Those that the row draws from.
            drawn: The row's candidate poses.
            bits: The row's 64 random bits.
        """
        if self.choices.source == "nearest":
            return self._nearest(pool, drawn)
        allowed = self._allowed(pool, drawn[0]) or self._allowed(images, drawn[0])
        image = allowed[bounded(bits, len(allowed))]
        return (image, drawn[0]) if len(drawn) == 1 else self._nearest([image], drawn)

    def _allowed(self, images: range | list[int], pose: int) -> list[int]:
        """Return the images that do not show the pose themselves, of other cameras if possible."""
        others = [image for image in images if self.shown[image] != pose]
        if self.choices.backgrounds == "other-cameras":
            camera = self.bank_cameras[pose]
            return [image for image in others if self.cameras[image] != camera] or others
        return others

    def _nearest(self, images: list[int], drawn: list[int]) -> tuple[int, int]:
        """Return the source and the pose nearest to each other; no source shows its own pose."""
        joints = self.joints[images]
        away = np.stack([pose_distances(joints, self.bank.joints[pose]) for pose in drawn])
        # Poses that share no joint with the source are very far, its own is no choice at all.
        away = np.minimum(away, np.finfo(np.float32).max)
        if self.choices.backgrounds == "other-cameras":
            away = away + _ANOTHER * (self.bank_cameras[drawn][:, None] == self.cameras[images])
        away[self.shown[images] == np.asarray(drawn)[:, None]] = np.inf
        pose, image = np.unravel_index(away.argmin(), away.shape)
        return images[int(image)], drawn[int(pose)]
