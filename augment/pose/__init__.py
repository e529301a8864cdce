"""Body poses: batches of keypoints, the maps drawn from them, the bank and the plan."""
