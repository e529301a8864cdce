"""Real and synthetic images of people in one table of labels, decoded once or step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from manifests import pixels
from manifests.io import Images
from manifests.rules import check_new_people
from manifests.runtime.console import UserError
from manifests.runtime.random_numbers import random_bits
from manifests.runtime.thread_pool import thread_pool
from manifests.schema import JUNK
from manifests.subset import subset_train
from manifests.synthetic import Synthetic
from reid.data.labels import labelled
from reid.data.leakage import check_origin, check_people, leakage_block
from reid.data.streamed import StreamedPixels

_WINDOW: Final = 4096


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Everything that training draws from; real rows first."""

    pixels: UInt8[np.ndarray, "rows height width 3"] | StreamedPixels
    """Decoded, or what decodes them when they are asked for."""
    labels: Int[np.ndarray, " rows"]
    """Index into ``people``, or ``NO_IDENTITY``."""
    synthetic: Bool[np.ndarray, " rows"]
    weight: Float[np.ndarray, " rows"]
    people: tuple[str, ...]
    """Person of every label, sorted."""

    @property
    def num_synthetic(self) -> int:
        """Return how many rows are synthetic."""
        return int(self.synthetic.sum())


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows of a run before any image is read."""

    train: Images
    validation: Images
    """Train images of people set aside; empty without a validation split."""
    synthetic_rows: Int[np.ndarray, " synthetic"]
    """Rows of the synthetic manifest that are used."""
    leakage: dict[str, Any]
    """What was checked, and what could not be."""


def select(
    images: Images,
    synthetic: Synthetic | None,
    *,
    real_fraction: float,
    num_validation_people: int,
    data_seed: int,
) -> Selection:
    """Return the rows of a run: validation people set aside, then the fraction of the rest.

    Raises:
        UserError: If there is nothing to train on, a person stands in train and in a test split,
            a synthetic row belongs to another split, comes from a test image, shows a person
            without train images or has a weight that is none, no synthetic row is left, or more
            validation people are asked for than there are.
    """
    train = images.only("train")
    people = np.array(train.strings("person_id"))
    names = np.unique(people)
    if len(names) < 2:
        raise UserError(
            f"{images.root}: the train split has {len(names)} people; training needs at least 2"
        )
    check_people(images, set(names.tolist()))
    if synthetic is not None:
        check_origin(images, synthetic)
        check_new_people(images, synthetic)
    if num_validation_people > len(names) - 2:
        raise UserError(
            f"--val-people {num_validation_people} leaves fewer than 2 of {len(names)} people "
            "to train on"
        )
    keys = random_bits(data_seed, "validation people", len(names))
    aside = np.sort(names[np.argsort(keys, kind="stable")[:num_validation_people]])
    is_aside = np.isin(people, aside)
    kept = train.take(np.flatnonzero(~is_aside))
    if real_fraction < 1:
        kept = subset_train(kept, real_fraction, data_seed)
    rows = np.empty(0, np.int64)
    if synthetic is not None:
        rows = _synthetic_rows(synthetic, set(names.tolist()), set(aside.tolist()))
        if not len(rows):
            num_failed = len(synthetic) - synthetic.table["error"].null_count
            raise UserError(
                f"{synthetic.root}: none of its {len(synthetic)} rows can be trained on: "
                f"{num_failed} failed, the others show validation people; expected some, or no "
                "--synthetic"
            )
    used = None if synthetic is None else synthetic.take(rows)
    return Selection(
        kept, train.take(np.flatnonzero(is_aside)), rows, leakage_block(images, kept, used)
    )


def _synthetic_rows(synthetic: Synthetic, train: set[str], aside: set[str]) -> np.ndarray:
    """Return the finished rows of the people that are trained on."""
    table = synthetic.table
    columns = {name: table.column(name).to_pylist() for name in ("person_id", "error", "image_id")}
    who = zip(columns["person_id"], columns["image_id"], synthetic.are_new(), strict=True)
    for person, name, is_new in who:
        if not is_new and person != JUNK and person not in train:
            raise UserError(
                f"{synthetic.root}: synthetic image {name} shows person {person}, who has no "
                "train image in the images table; was it made from another data set?"
            )
    weights = table["weight"].to_numpy(zero_copy_only=False)
    for row in np.flatnonzero((weights < 0) | np.isinf(weights))[:1]:
        raise UserError(
            f"{synthetic.root}: synthetic image {columns['image_id'][row]} has the weight "
            f"{weights[row]:g}; expected a number from 0 on, or none"
        )
    usable = [
        error is None and person not in aside
        for error, person in zip(columns["error"], columns["person_id"], strict=True)
    ]
    return np.flatnonzero(usable)


def load_training_set(
    selection: Selection,
    synthetic: Synthetic | None,
    size: tuple[int, int],
    max_decoded_bytes: float = math.inf,
) -> TrainingSet:
    """Return the rows of a selection with their pixels at ``size`` (width, height).

    Where these would take more than ``max_decoded_bytes``, they are read when a step asks for them.

    A person's label is the same whether his image is real or synthetic; people who do not exist
    are people like others. A synthetic row of person "-1" has no identity.

    Raises:
        PixelError: If an image cannot be read; it names the file or row.
    """
    real = selection.train
    names = real.strings("person_id")
    weights = np.ones(len(real))
    rows = selection.synthetic_rows
    streams = (len(real) + len(rows)) * size[0] * size[1] * 3 > max_decoded_bytes
    stack: np.ndarray | StreamedPixels
    stack = StreamedPixels(real, synthetic, rows, size) if streams else pixels.read_all(real, size)
    if synthetic is not None and len(rows):
        table = synthetic.table.take(rows)
        names = names + table.column("person_id").to_pylist()
        weight = table.column("weight").to_numpy(zero_copy_only=False).astype(np.float64)
        weights = np.concatenate([weights, np.where(np.isnan(weight), 1.0, weight)])
        if not isinstance(stack, StreamedPixels):
            stack = np.concatenate([stack, decode_rows(synthetic, rows, size)])
    people, labels = labelled(names)
    return TrainingSet(
        pixels=stack,
        labels=labels,
        synthetic=np.arange(len(names)) >= len(real),
        weight=weights.astype(np.float32),
        people=people,
    )


def decode_rows(
    synthetic: Synthetic, rows: Int[np.ndarray, " rows"], size: tuple[int, int]
) -> UInt8[np.ndarray, "rows height width 3"]:
    """Return the pixels of synthetic rows at ``size`` (width, height).

    Raises:
        PixelError: If an image cannot be read; it names the row.
        UserError: If a row has no image, or a shard is missing or damaged.
    """
    names = synthetic.take(rows).strings("image_id")
    width, height = size
    out = np.empty((len(rows), height, width, 3), np.uint8)

    def put(row: int, data: bytes) -> None:
        out[row] = pixels.resize(pixels.decode(data, f"{synthetic.root}: image {names[row]}"), size)

    # Windows bound what waits between the reader and the decoders.
    with thread_pool(2) as pool:
        for start in range(0, len(rows), _WINDOW):
            window = range(start, min(start + _WINDOW, len(rows)))
            for _ in pool.map(put, window, synthetic.read_bytes(rows[start : window.stop])):
                pass
    return out
