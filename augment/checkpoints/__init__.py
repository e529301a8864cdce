"""Weights on disk: safetensors with the settings in the header, and the authors' formats."""
