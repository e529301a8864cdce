"""A smaller train split, fewer images of the same people; the digest that names a selection."""

from __future__ import annotations

import hashlib

import numpy as np

from manifests.io import Images
from manifests.runtime.console import UserError
from manifests.runtime.random_numbers import random_bits


def subset_train(images: Images, fraction: float, seed: int) -> Images:
    """Return the table with a fraction of its train rows; the other splits stay whole.

    Every person keeps one row; the others are shared out in proportion to the rows that each
    person has, by largest remainder. Which rows stay follows from (seed, image_id) alone, so the
    order of the table does not matter.

    Args:
        images: Any images table.
        fraction: Above 0, at most 1. The result has ``round(fraction * rows)`` train rows, or one
            per person where that is more.
        seed: Another seed chooses other rows.

    Raises:
        UserError: If the fraction is out of range.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"fraction of the train rows: found {fraction}, expected above 0 up to 1")
    if fraction == 1:
        return images
    image_ids, people = images.strings("image_id"), images.strings("person_id")
    rows_of: dict[str, list[int]] = {}
    kept: list[int] = []
    for row, split in enumerate(images.strings("split")):
        if split == "train":
            rows_of.setdefault(people[row], []).append(row)
        else:
            kept.append(row)
    num_rows = sum(map(len, rows_of.values()))
    shares = _shares(
        {p: len(rows) for p, rows in rows_of.items()}, round(fraction * num_rows), seed
    )
    for person, rows in rows_of.items():
        rows.sort(key=lambda row: (_random_key(seed, image_ids[row]), image_ids[row]))
        kept.extend(rows[: shares[person]])
    return images.take(np.sort(np.asarray(kept, np.int64)))


def _shares(sizes: dict[str, int], total: int, seed: int) -> dict[str, int]:
    """Return how many rows each person keeps: one, and of the rest by largest remainder."""
    spare = sum(sizes.values()) - len(sizes)
    extra = max(0, total - len(sizes))
    if spare == 0 or extra == 0:
        return dict.fromkeys(sizes, 1)
    shares = {person: 1 + extra * (size - 1) // spare for person, size in sizes.items()}
    by_remainder = sorted(
        sizes, key=lambda p: (-(extra * (sizes[p] - 1) % spare), _random_key(seed, p), p)
    )
    for person in by_remainder[: extra + len(sizes) - sum(shares.values())]:
        shares[person] += 1
    return shares


def _random_key(seed: int, label: str) -> int:
    return int(random_bits(seed, f"subset\0{label}")[0])


def sha256_of_images(images: Images) -> str:
    """Return one digest of the images of a table, in order, of their files' own digests.

    ``augment train`` writes that of the train images into its weights, and ``reid`` compares it.
    """
    digests = "\n".join(map(str, images.strings("sha256")))
    return hashlib.sha256(digests.encode()).hexdigest()
