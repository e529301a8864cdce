"""Pose estimators by the name or the file that a setting gives."""

from __future__ import annotations

from pathlib import Path

import torch

from augment.pose.estimators import blazepose, keypointrcnn
from augment.pose.estimators.blazepose import BlazePose
from augment.pose.estimators.interface import Estimator
from augment.pose.estimators.litert import LiteRtNetwork
from augment.pose.estimators.movenet import MoveNet
from manifests.compute.external_weights import weights_file
from manifests.runtime.console import UserError


def load_estimator(
    setting: str, device: torch.device | str = "cpu", weights: str | None = None
) -> Estimator:
    """Return the estimator that a setting names.

    Args:
        setting: ``blazepose``, whose file comes with an installed package; the path of a
            ``.tflite`` file of BlazePose or MoveNet; or ``keypointrcnn``.
        device: Where Keypoint R-CNN runs; the others run on the CPU.
        weights: Weights of Keypoint R-CNN: a file, ``download``, or None for what an earlier
            download left on this machine.

    Raises:
        UserError: If the setting names no estimator, or its package or weights cannot be had.
    """
    if setting == "blazepose":
        return BlazePose(blazepose.packaged_file())
    if setting == "keypointrcnn":
        path = weights_file("estimator-weights", keypointrcnn.ADDRESS, weights)
        return keypointrcnn.KeypointRCNN(path, device)
    if setting.endswith(".tflite"):
        path = Path(setting)
        return BlazePose(path) if blazepose.is_blazepose(LiteRtNetwork(path)) else MoveNet(path)
    raise UserError(
        f"--estimator: found '{setting}', expected blazepose, FILE.tflite or keypointrcnn"
    )
