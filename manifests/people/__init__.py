"""Made-up people: a renderer of clothed people, and a data set of them with exact keypoints."""
