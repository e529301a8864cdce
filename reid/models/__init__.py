"""Re-identification networks: backbones, weights to start from, features, export."""
