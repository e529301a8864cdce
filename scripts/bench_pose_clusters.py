"""Seconds of one thread that groups of like poses take, which are stored nowhere."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from augment.pose.clusters import pose_clusters, pose_medoids
from manifests import keypoints
from manifests.io import read_images

if len(sys.argv) != 2:
    sys.exit("usage: python scripts/bench_pose_clusters.py IMAGES.parquet")
joints = read_images(Path(sys.argv[1])).keypoints()
joints = joints[keypoints.has_torso(joints)]
for count in (1_000, 4_000, 12_000, 17_000, 50_000):
    poses = joints[np.arange(count) % len(joints)]
    began = time.process_time()
    medoids = pose_medoids(poses)
    found = time.process_time()
    pose_clusters(poses, poses[medoids])
    ended = time.process_time()
    print(f"{count:,} poses: medoids {found - began:.2f} s, groups {ended - found:.2f} s")
