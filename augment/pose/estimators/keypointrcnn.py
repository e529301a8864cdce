"""Keypoint R-CNN: the 17 COCO joints of the surest person (He et al. 2017), from torchvision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Bool, Float

from augment.pose.estimators.interface import Detection, Image
from manifests.compute.external_weights import optional_module, read_state_dict
from manifests.io import sha256_file
from manifests.keypoints import COCO_NAMES, from_coco
from manifests.runtime.console import UserError

ADDRESS: Final = "https://download.pytorch.org/models/keypointrcnn_resnet50_fpn_coco-fc266e95.pth"
SIDE_PX: Final = 400
"""The shorter side that Keypoint R-CNN sees; its default of 800 gains nothing on small crops."""
MIN_PERSON: Final = 0.5
MIN_JOINT: Final = 2.0
"""Least peak of a joint's heat map (a logit), the threshold of the Detectron viewers."""


class KeypointRCNN:
    """Keypoint R-CNN (He et al. 2017) with a ResNet-50, from torchvision."""

    def __init__(self, weights: Path, device: torch.device | str = "cpu") -> None:
        """Fill the network.

        Raises:
            UserError: If the file does not hold torchvision's weights.
        """
        detection: Any = optional_module("torchvision.models.detection", "torchvision")
        self._network: Any = detection.keypointrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, min_size=SIDE_PX, max_size=4 * SIDE_PX
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
        self._sha256 = sha256_file(weights)

    @property
    def name(self) -> str:
        """The architecture's name."""
        return "Keypoint R-CNN ResNet-50"

    @property
    def draws_masks(self) -> bool:
        """It draws none."""
        return False

    @property
    def provenance(self) -> Mapping[str, Any]:
        """The weights' digest and the thresholds."""
        return {
            "network": self.name,
            "sha256": self._sha256,
            "min_person": MIN_PERSON,
            "min_joint": MIN_JOINT,
        }

    def detect(self, images: Sequence[Image]) -> list[Detection]:
        """Return the surest person of each image; see ``Estimator.detect``."""
        inputs = [
            torch.from_numpy(image).to(self._device).permute(2, 0, 1).float() / 255
            for image in images
        ]
        with torch.inference_mode():
            found = self._network(inputs)
        return [
            Detection(from_coco(surest_person(people)[None])[0], _confidence(people))
            for people in found
        ]


def surest_person(people: dict[str, torch.Tensor]) -> Float[np.ndarray, "17 2"]:
    """Return the joints of the person with the highest score, all NaN if nobody is sure enough.

    Convention: torchvision counts from the edge of the image, we from the first pixel's centre.

    Args:
        people: ``scores``, ``keypoints`` (x, y, visibility) and ``keypoints_scores`` of one image,
            best person first, as torchvision gives them.
    """
    if len(people["scores"]) == 0 or float(people["scores"][0]) < MIN_PERSON:
        return np.full((len(COCO_NAMES), 2), np.nan, np.float32)
    joints = people["keypoints"][0, :, :2].cpu().numpy().astype(np.float32) - np.float32(0.5)
    unsure: Bool[np.ndarray, " 17"] = people["keypoints_scores"][0].cpu().numpy() < MIN_JOINT
    joints[unsure] = np.nan
    return joints


def _confidence(people: dict[str, torch.Tensor]) -> float:
    return float(people["scores"][0]) if len(people["scores"]) else 0.0
