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
