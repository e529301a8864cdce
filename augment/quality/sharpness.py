"""How sharp images are, without anything to compare them with."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""ITU-R BT.601."""


def sharpness(images: UInt8[np.ndarray, "batch height width 3"]) -> Float[np.ndarray, " batch"]:
    """Return the variance of the Laplacian of the luma (Pech-Pacheco et al. 2000).

    Comparable among images of one size that were stored in one way; noise counts as sharpness.

    >>> flat = np.full((1, 8, 8, 3), 100, np.uint8)
    >>> edge = flat.copy()
    >>> edge[:, :, 4:] = 200
    >>> (sharpness(flat) < sharpness(edge)).tolist()
    [True]
    """
    luma = images.astype(np.float32) @ _LUMA
    middle = luma[:, 1:-1, 1:-1]
    around = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    return (around - 4 * middle).astype(np.float64).var(axis=(1, 2))
