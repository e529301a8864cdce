"""Who is in an image: person labels for training, people and cameras for ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Int, Shaped

from manifests.io import Images
from manifests.schema import JUNK

NO_IDENTITY: Final = -1
"""Label of a row that shows nobody in particular."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Who is on which camera, one entry per image."""

    people: Shaped[np.ndarray, " rows"]
    cameras: Int[np.ndarray, " rows"]
    images: Shaped[np.ndarray, " rows"] | None = None
    """Image names; needed where queries can be in the gallery themselves."""

    def __len__(self) -> int:
        return len(self.people)

    def take(self, rows: Int[np.ndarray, " some"]) -> Labels:
        """Return the labels of these rows, in this order."""
        images = None if self.images is None else self.images[rows]
        return Labels(self.people[rows], self.cameras[rows], images)


def labelled(names: Sequence[str]) -> tuple[tuple[str, ...], Int[np.ndarray, " rows"]]:
    """Return the people, sorted, and every row's index into them; of "-1" ``NO_IDENTITY``.

    >>> people, labels = labelled(["b", "-1", "a", "b"])
    >>> people, labels.tolist()
    (('a', 'b'), [1, -1, 0, 1])
    """
    people = tuple(sorted(set(names) - {JUNK}))
    index = {person: label for label, person in enumerate(people)} | {JUNK: NO_IDENTITY}
    return people, np.array([index[name] for name in names], np.int64)


def labels_of(images: Images) -> Labels:
    """Return who is on which camera, for ranking."""
    return Labels(
        people=np.array(images.strings("person_id"), dtype=np.str_),
        cameras=images.table.column("camera_id").to_numpy().astype(np.int64),
        images=np.array(images.strings("image_id"), dtype=np.str_),
    )
