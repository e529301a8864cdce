"""The colour statistics of ImageNet, by which networks trained on it expect images normalised."""

from __future__ import annotations

from typing import Final

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
"""Per channel (red, green, blue), of values in [0, 1]."""

IMAGENET_STD: Final = (0.229, 0.224, 0.225)
