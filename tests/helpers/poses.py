"""Random poses that stand on their feet: what reads keypoints refuses others."""

import numpy as np

from manifests.keypoints import JOINT_NAMES

_FROM_TOP = ("eye", "ear", "nose", "neck", "shoulder", "elbow", "hip", "wrist", "knee", "ankle")
_ORDER = sorted(
    range(len(JOINT_NAMES)),
    key=lambda joint: next(
        place for place, part in enumerate(_FROM_TOP) if part in JOINT_NAMES[joint]
    ),
)


def upright(joints):
    """Return poses of the same numbers, with the joints' y from head to ankles."""
    sorted_poses = np.array(joints)
    sorted_poses[..., _ORDER, 1] = np.sort(sorted_poses[..., 1], axis=-1)
    return sorted_poses


def standing(view, stride=0.0):
    """Return a standing person seen from the front, from behind or from a side, 18 x 2."""
    width = {"front": 10.0, "back": -10.0, "side": 1.0}[view]
    across = {"shoulder": 1.0, "hip": 0.6, "eye": 0.2, "ear": 0.3}
    down = dict(zip(_FROM_TOP, (10, 11, 12, 20, 24, 40, 60, 58, 88, 116), strict=True))
    joints = np.empty((18, 2), np.float32)
    for place, name in enumerate(JOINT_NAMES):
        side, _, part = name.rpartition("_")
        sign = {"right": -1.0, "left": 1.0}.get(side, 0.0)
        step = stride if part in {"knee", "ankle"} else 0.0
        joints[place] = 32 + sign * width * across.get(part, 0.8) + sign * step, down[part]
    return joints
