"""Generated images as a torch data set, for training loops of one's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from manifests import pixels
from manifests.runtime.console import UserError
from manifests.runtime.storage import storage_path
from manifests.synthetic import read_synthetic


class SyntheticImages(Dataset[dict[str, Any]]):
    """The images of a finished OUT of ``augment generate`` or ``reid screen``.

    An item is a dictionary: ``image`` (3 x height x width uint8 RGB, or what ``transform`` makes of
    it), ``person_id``, ``camera_id``, ``image_id`` and ``weight`` (1 where nobody screened). Images
    are read when they are asked for; rows that failed, and those that screening left out, are none.
    """

    def __init__(
        self, out: str | Path, transform: Callable[[torch.Tensor], Any] | None = None
    ) -> None:
        """Read the manifest.

        Args:
            out: Folder or URL.
            transform: Of an image, for example torchvision's v2 transforms.

        Raises:
            UserError: If OUT is missing or not finished, or was made for test time.
        """
        self._rows = read_synthetic(storage_path(str(out))).without_errors()
        splits = set(self._rows.strings("split")) - {"train"}
        if splits:
            raise UserError(
                f"{out}: found images of the splits {' and '.join(sorted(splits))}, made for test "
                "time; expected images of train, to be trained on"
            )
        self._transform = transform
        self._columns = {
            name: self._rows.table[name].to_pylist()
            for name in ("image_id", "person_id", "camera_id")
        }
        # Where nobody screened there is none.
        weights = np.asarray(self._rows.table["weight"].fill_null(1.0), np.float32)
        self._columns["weight"] = np.nan_to_num(weights, nan=1.0).tolist()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Return an item.

        Raises:
            UserError: If its shard is missing or damaged.
        """
        (item,) = self.__getitems__([row])
        return item

    def __getitems__(self, rows: list[int]) -> list[dict[str, Any]]:
        """Return the items of a batch: one pass over the shards that hold them."""
        positions = [range(len(self))[row] for row in rows]
        images = self._rows.read_bytes(np.array(positions, np.int64))
        return [self._item(row, data) for row, data in zip(positions, images, strict=True)]

    def _item(self, row: int, data: bytes) -> dict[str, Any]:
        item = {name: values[row] for name, values in self._columns.items()}
        image = torch.from_numpy(pixels.decode(data, item["image_id"])).permute(2, 0, 1)
        return {"image": image if self._transform is None else self._transform(image), **item}
