"""The 17 joints of COCO, and ours from them."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float

from augment.pose.estimators.interface import Joints
from manifests.keypoints import JOINT_NAMES, NUM_JOINTS

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

CocoJoints = Float[np.ndarray, "images 17 2"]


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
