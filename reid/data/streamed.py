"""Images of a set that is too large to hold in memory: each step reads its own.

Real images are files, read one by one. Generated ones lie in shards by the thousand, in another
order than that of the steps; so those of many steps are fetched in one pass over the shards, still
encoded, and decoded when their step comes. What a batch looks like is the same as from memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from manifests import pixels
from manifests.io import Images
from manifests.masks import mask_of
from manifests.scenes import alpha_of, rows_with_street, street
from manifests.synthetic import Synthetic

ROWS_AHEAD: Final = 16_384
"""Generated images of coming steps that one pass over the shards fetches, about 3 kB each."""
_WINDOW: Final = 4096


class HeldPixels:
    """All images decoded in memory, on the device where batches are made."""

    def __init__(
        self, decoded: UInt8[np.ndarray, "rows height width 3"], device: torch.device
    ) -> None:
        self._decoded = torch.from_numpy(decoded).to(device)

    def decode(
        self, rows: Int[np.ndarray, " some"], encoded: Mapping[int, bytes]
    ) -> UInt8[Tensor, "some height width 3"]:
        """Return the images of these rows."""
        del encoded
        return self._decoded[torch.from_numpy(rows).to(self._decoded.device)]


class StreamedPixels:
    """Images that are decoded when they are asked for; real rows first."""

    def __init__(
        self,
        real: Images,
        synthetic: Synthetic | None,
        synthetic_rows: Int[np.ndarray, " synthetic"],
        size: tuple[int, int],
    ) -> None:
        """Remember where images lie.

        Args:
            real: The real rows.
            synthetic: The generated images, if there are any.
            synthetic_rows: Rows of its manifest that are used.
            size: (width, height) to which images are stretched.
        """
        self._real = _located(real)
        self._synthetic = synthetic and Synthetic(
            synthetic.table.select(["image_id", "shard", "shard_row"]).take(synthetic_rows),
            synthetic.root,
        )
        self.size = size

    def __len__(self) -> int:
        return len(self._real) + (0 if self._synthetic is None else len(self._synthetic))

    def count_encoded(self, rows: Int[np.ndarray, " some"]) -> int:
        """Return how many of these rows lie in shards."""
        return int((rows >= len(self._real)).sum())

    def encoded(self, rows: Int[np.ndarray, " some"]) -> dict[int, bytes]:
        """Return those of these rows that lie in shards, by row, in one pass over the shards.

        Raises:
            UserError: If a shard is missing or damaged.
        """
        wanted = np.unique(rows[rows >= len(self._real)])
        if self._synthetic is None or not len(wanted):
            return {}
        images = self._synthetic.read_bytes(wanted - len(self._real))
        return dict(zip(wanted.tolist(), images, strict=True))

    def decode(
        self, rows: Int[np.ndarray, " some"], encoded: Mapping[int, bytes]
    ) -> UInt8[Tensor, "some height width 3"]:
        """Return the images of these rows.

        Args:
            rows: Any rows.
            encoded: What ``encoded`` returned of them, and perhaps of others.

        Raises:
            PixelError: If an image cannot be read, or its file is not the one that the table was
                made of.
        """
        found = np.empty((len(rows), self.size[1], self.size[0], 3), np.uint8)
        is_real = rows < len(self._real)
        found[is_real] = pixels.read_all(self._real.take(rows[is_real]), self.size, threads=1)
        for place in np.flatnonzero(~is_real).tolist():
            assert self._synthetic is not None
            row = int(rows[place])
            name = self._synthetic.table["image_id"][row - len(self._real)].as_py()
            image = pixels.decode(encoded[row], f"{self._synthetic.root}: image {name}")
            found[place] = pixels.resize(image, self.size)
        return torch.from_numpy(found)


@dataclass(frozen=True, slots=True)
class StreamedScenes:
    """What ``manifests.scenes.Scenes`` holds of real images, worked out when it is asked for."""

    images: Images
    size: tuple[int, int]
    """(width, height)."""
    usable: Bool[np.ndarray, " rows"]
    """Which rows have a mask that leaves some street."""

    @property
    def rows(self) -> Int[np.ndarray, " usable"]:
        """The usable rows."""
        return np.flatnonzero(self.usable)

    def alpha(self, rows: Int[np.ndarray, " some"]) -> UInt8[np.ndarray, "some height width"]:
        """Return how much of each pixel is the person, of usable rows."""
        return np.stack([alpha_of(mask_of(self.images, row, self.size)) for row in rows.tolist()])

    def streets(self, rows: Int[np.ndarray, " some"]) -> UInt8[np.ndarray, "some height width 3"]:
        """Return usable rows without their people.

        Raises:
            PixelError: If an image cannot be read.
        """
        decoded = pixels.read_all(self.images.take(rows), self.size, threads=1)
        masks = (mask_of(self.images, row, self.size) for row in rows.tolist())
        return np.stack([street(image, mask) for image, mask in zip(decoded, masks, strict=True)])


def streamed_scenes(images: Images, size: tuple[int, int]) -> StreamedScenes:
    """Return people and streets of real images at ``size`` (width, height).

    Raises:
        UserError: If a mask has not the size of its image.
    """
    return StreamedScenes(images, size, rows_with_street(images, size))


def windows(
    images: Images, size: tuple[int, int]
) -> Iterator[tuple[Images, UInt8[np.ndarray, "window height width 3"]]]:
    """Give all images, some thousand at a time, with their pixels at ``size`` (width, height).

    Raises:
        PixelError: If an image cannot be read.
    """
    for start in range(0, len(images), _WINDOW):
        window = images.take(np.arange(start, min(start + _WINDOW, len(images))))
        yield window, pixels.read_all(window, size)


def _located(images: Images) -> Images:
    """Return a table without what is not needed to find and check its files."""
    return replace(images, table=images.table.select(["image_id", "path", "sha256"]))
