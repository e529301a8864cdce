"""Train, score and compare re-identification models on real and synthetic images."""
