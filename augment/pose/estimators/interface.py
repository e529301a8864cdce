"""What a pose estimator gives: a person's joints in each image, and a mask if it draws one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, UInt8

from manifests.masks import Mask

Image = UInt8[np.ndarray, "height width 3"]
Joints = Float[np.ndarray, "images 18 2"]


@dataclass(frozen=True, slots=True)
class Detection:
    """One person in one image."""

    joints: Float[np.ndarray, "18 2"]
    """(x, y) pixels of the image, pixel centres at integers, origin top-left; missing: NaN."""
    confidence: float | None = None
    """That there is a person, 0 to 1; none where the estimator does not say."""
    mask: Mask | None = None
    """Which pixels are the person; none where the estimator draws no mask or finds nobody."""


class Estimator(Protocol):
    """Finds one person in each image."""

    @property
    def name(self) -> str:
        """The estimator's name, as tables give it."""
        ...

    @property
    def draws_masks(self) -> bool:
        """Whether detections have a mask."""
        ...

    @property
    def provenance(self) -> Mapping[str, Any]:
        """All that detections follow from: the network, its digest, thresholds."""
        ...

    def detect(self, images: Sequence[Image]) -> list[Detection]:
        """Return the person in each RGB image; what is found in one does not depend on the others.

        May be called from several threads at once.
        """
        ...


def joints_of(estimator: Estimator, images: Sequence[Image]) -> Joints:
    """Return the joints of the person in each image; missing joints NaN.

    Convention: (x, y) pixels of the image, pixel centres at integers, origin top-left.
    """
    found = [detection.joints for detection in estimator.detect(images)]
    return np.stack(found).astype(np.float32) if found else np.empty((0, 18, 2), np.float32)
