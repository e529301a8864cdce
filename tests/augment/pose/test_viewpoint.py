"""From where people are seen, and which poses are like each other."""

import numpy as np
import pytest

from augment.pose.clusters import pose_clusters, pose_medoids
from augment.pose.distance import pose_distances
from augment.pose.viewpoint import VIEWPOINTS, viewpoints
from manifests.keypoints import JOINT_NAMES, MIRROR
from tests.helpers.poses import standing


@pytest.mark.parametrize("view", VIEWPOINTS)
def test_a_person_is_seen_from_where_the_shoulders_say_wherever_it_stands_and_how_large(view):
    pose = standing(view)
    found = viewpoints(np.stack([pose, 0.5 * pose + 7, 4 * pose]))
    assert [VIEWPOINTS[place] for place in found] == [view] * 3


def test_a_mirror_image_is_seen_from_the_same_viewpoint():
    pose = standing("front")
    mirrored = pose[list(MIRROR)] * (-1, 1)
    assert viewpoints(np.stack([pose, mirrored])).tolist() == [0, 0]


def test_without_shoulders_nobody_knows():
    pose = standing("front")
    pose[JOINT_NAMES.index("left_shoulder")] = np.nan
    assert viewpoints(pose[None]).tolist() == [-1]


def walkers():
    """Return 60 poses: three viewpoints, standing or walking, each ten times with some noise."""
    rng = np.random.default_rng(0)
    kinds = [standing(view, stride) for view in VIEWPOINTS for stride in (0.0, 14.0)]
    return np.repeat(kinds, 10, axis=0) + rng.normal(0, 0.3, (60, 18, 2)).astype(np.float32)


def test_groups_are_of_like_poses():
    poses = walkers()
    groups = pose_clusters(poses, poses[pose_medoids(poses, 6)])
    assert [len(set(part.tolist())) for part in np.split(groups, 6)] == [1] * 6
    assert len(set(groups.tolist())) == 6


def test_a_medoid_is_the_middle_of_its_group():
    poses = walkers()
    medoids = pose_medoids(poses, 6)
    groups = pose_clusters(poses, poses[medoids])
    for place, medoid in enumerate(medoids.tolist()):
        own = np.flatnonzero(groups == place)
        sums = [pose_distances(poses[own], poses[other]).sum() for other in own]
        assert own[int(np.argmin(sums))] == medoid


def test_medoids_are_of_any_number_of_poses():
    poses = walkers()
    assert pose_medoids(poses[:2], 6).tolist() == pose_medoids(poses[:2], 2).tolist()
    many = np.tile(poses, (40, 1, 1))
    assert len(pose_medoids(many, 6)) == 6
    assert pose_medoids(many, 6).max() < len(many)
    nothing = np.full((1, 18, 2), np.nan, np.float32)
    assert pose_clusters(nothing, poses[:3]).tolist() == [-1]
