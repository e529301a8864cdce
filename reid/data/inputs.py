"""The inputs of one command: each table is read once and each file hashed once."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt64

from manifests.io import Images, read_images, sha256_file
from manifests.runtime.storage import StoragePath
from manifests.synthetic import Synthetic, read_synthetic
from reid.data.leakage import difference_hashes
from reid.data.streamed import windows


class Inputs:
    """What a command has read so far, for all of its parts.

    A command that trains and scores, or makes many runs, hands one of these on, so all of it sees
    the same tables.
    """

    def __init__(self) -> None:
        self._images = cache(read_images)
        self._synthetic = cache(read_synthetic)
        self._digest = cache(sha256_file)
        self._hashes: dict[tuple[int, int], dict[Path, int]] = {}

    def images(self, path: Path, root: Path | None = None) -> Images:
        """Return an images table, as ``manifests.io.read_images`` does."""
        return self._images(path, root)

    def synthetic(self, folder: StoragePath) -> Synthetic:
        """Return a finished folder of generated images, as ``read_synthetic`` does."""
        return self._synthetic(folder)

    def digest(self, path: StoragePath) -> str:
        """Return the SHA-256 of a file in hexadecimal."""
        return self._digest(path)

    def keep_hashes(self, images: Images, pixels: UInt8[np.ndarray, "rows height width 3"]) -> None:
        """Remember the difference hashes of images that are decoded at hand."""
        size = (pixels.shape[2], pixels.shape[1])
        files = [images.file(row) for row in range(len(images))]
        hashes = difference_hashes(pixels).tolist()
        self._hashes.setdefault(size, {}).update(zip(files, hashes, strict=True))

    def hashes(self, images: Images, size: tuple[int, int]) -> UInt64[np.ndarray, " rows"]:
        """Return the difference hashes of images at ``size`` (width, height).

        Only those are decoded that nobody had at hand.
        """
        known = self._hashes.setdefault(size, {})
        files = [images.file(row) for row in range(len(images))]
        missing = [row for row, file in enumerate(files) if file not in known]
        if missing:
            rest = images.take(np.array(missing))
            for window, decoded in windows(rest, size):
                self.keep_hashes(window, decoded)
        return np.array([known[file] for file in files], np.uint64)
