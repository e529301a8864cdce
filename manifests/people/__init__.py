"""Made-up people: a renderer of clothed bodies, and a data set of them with exact keypoints."""
