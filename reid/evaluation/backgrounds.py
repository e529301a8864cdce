"""What streets alone give away of the people who were cut out of them: ``reid backgrounds``.

A trained network ranks whole images, and then the same images without their people: each person is
cut out along the mask and the hole filled from its rim (``manifests.scenes.street``). What is still
found is found by the street, or by what of the person the mask left behind; the wider the hole, the
less is that. Holes along the joints (``manifests.masks.mask_from_joints``) say what a better mask
is worth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from pydantic import Field
from tyro.conf import Positional

from manifests.compute.devices import pick_device
from manifests.io import Images, read_images
from manifests.masks import mask_from_joints, read_masks, resize_mask
from manifests.pixels import read_all
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.random_numbers import random_bits
from manifests.runtime.settings import Count, NotNegative, Positive
from manifests.runtime.tables import Number, Table, TableFiles
from manifests.runtime.thread_pool import thread_pool
from manifests.scenes import has_street, street
from manifests.schema import DISTRACTOR, JUNK
from reid.data.dataset import select
from reid.data.labels import labels_of
from reid.data.leakage import check_people
from reid.evaluation.ranking import Protocol, Ranking, distance_of, rank
from reid.evaluation.report import scores
from reid.models.features import Device, embed, load_network
from reid.models.run_folder import TrainingRun, read_run

_THREADS: Final = 2
_JOINTS: Final = "joints"
_CHANCE_WIDTH: Final = 64
"""Of the random features that say what chance finds."""


class BackgroundSettings(TableFiles):
    """Say what a trained network finds by streets alone, people cut out along their masks."""

    run: Positional[Path]
    """Folder of a finished reid train."""
    images: Path
    """Table of real images with masks, from 'augment detect --masks'."""
    root: Path | None = None
    """Where the images' relative paths start, if not where the table says."""
    widenings: Annotated[tuple[NotNegative, ...], Field(min_length=1)] = (0.0, 1.0, 3.0, 5.0)
    """How much wider than the mask the hole is, in pixels of a crop of 128 rows."""
    max_images: Positive = 2000
    """Take whole people, drawn by --seed, until there are so many images."""
    seed: Count = 0
    """Draws these people."""
    protocol: Protocol = "market1501"
    """market1501 ignores images of the own camera, whose street is the same; all-cameras counts
    them as matches."""
    device: Device = "auto"
    """auto is cuda where there is one."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Images to rank, and what the network knows of them."""

    images: Images
    about: str
    """Which images these are, for the reader."""

    def take(self, rows: Int[np.ndarray, " some"]) -> Chosen:
        """Return some of them, in this order."""
        return Chosen(self.images.take(rows), self.about)

    def rank(self, features: Float[np.ndarray, "rows width"], protocol: Protocol) -> Ranking:
        """Rank gallery for query; train images among themselves, each left out of its gallery.

        Raises:
            UserError: If no image has a match.
        """
        splits = np.array(self.images.strings("split"))
        query = np.flatnonzero(splits != "gallery")
        gallery = np.flatnonzero(splits != "query")
        labels = labels_of(self.images)
        distances = distance_of(features[query], features[gallery], "cosine")
        return rank(distances, labels.take(query), labels.take(gallery), protocol)


def backgrounds(settings: BackgroundSettings, console: Console) -> Exit:
    """Print the table on standard output, and write it where asked.

    Raises:
        UserError: If the run is not finished, the table has no masks that leave a street, or no
            image has a match.
    """
    run = read_run(settings.run)
    images = read_images(settings.images, settings.root)
    network = load_network(run, run.default_weights).to(pick_device(settings.device))
    size = (run.recipe["width"], run.recipe["height"])
    chosen = sample(choose(images, run), settings.max_images, settings.seed)
    usable = with_streets(chosen.images, size, max(settings.widenings))
    num_without = images.table["mask"].null_count
    console.say(
        f"{settings.images}: {num_without:,} of {len(images):,} images have no mask; of "
        f"{len(usable):,} {chosen.about} {int((~usable).sum()):,} are left out, without a street "
        "beside the person or without joints",
        event="chosen",
        without_mask=num_without,
        taken=len(usable),
        left_out=int((~usable).sum()),
    )
    chosen = chosen.take(np.flatnonzero(usable))
    left = set(chosen.images.strings("split"))
    if not left:
        raise UserError(f"{settings.images}: no mask leaves a street beside its person")
    if len(left) == 1 and "train" not in left:
        raise UserError(
            f"{settings.images}: all that is left are {left.pop()} images, expected query and "
            "gallery images; 'augment detect' adds joints to those without"
        )
    rows: list[tuple[str, str, str, Number, Number]] = []
    for name, mask, widening, pixels in pictures(chosen.images, size, settings.widenings):
        features = embed(network, pixels, name, console)
        rows.append((name, mask, widening, *_scores(chosen.rank(features, settings.protocol))))
    chance = np.random.default_rng(0).normal(size=(len(chosen.images), _CHANCE_WIDTH))
    rows.append(("chance", "", "", *_scores(chosen.rank(chance, settings.protocol))))
    num_people = len(set(chosen.images.strings("person_id")))
    header = ("image", "mask", "widening_px", "rank-1", "mAP")
    note = (
        f"Percent, over {len(chosen.images):,} {chosen.about}, {num_people:,} people, rule "
        f"{settings.protocol}, cosine distance. chance ranks by random features."
    )
    table = replace(Table.of(header, rows), note=note)
    text = f"{table.to_markdown(padded=True)}\n\n{note}\n"
    console.show(text)
    settings.write(text, [table])
    return Exit.DONE


def choose(images: Images, run: TrainingRun) -> Chosen:
    """Return images with a mask, if there are any those that the network was not trained on.

    Query and gallery where both have masks; else the train images of people who were not trained
    on; else the other train images of those who were; else all train images.

    Raises:
        UserError: If no image of a person has a mask, or a test image shows somebody who was
            trained on.
    """
    people = np.array(images.strings("person_id"))
    splits = np.array(images.strings("split"))
    masked = images.table["mask"].is_valid().to_numpy() & ~np.isin(people, (JUNK, DISTRACTOR))
    if not masked.any():
        raise UserError(
            "--images: found no image of a person with a mask, expected some; 'augment detect "
            "--estimator blazepose --masks' adds them"
        )
    test = masked & (splits != "train")
    if {"query", "gallery"} <= set(splits[test].tolist()):
        check_people(images, run.people)
        return Chosen(images.take(np.flatnonzero(test)), "query and gallery images")
    train = masked & (splits == "train")
    known = np.isin(people, sorted(run.people))
    if (train & ~known).any():
        about = "train images of people whom the network was not trained on"
        return Chosen(images.take(np.flatnonzero(train & ~known)), about)
    other = train & ~_trained_on(images, run)
    if other.any():
        about = "train images that the network was not trained on, of people whom it was trained on"
        return Chosen(images.take(np.flatnonzero(other)), about)
    about = "train images that the network may have been trained on"
    return Chosen(images.take(np.flatnonzero(train)), about)


def _trained_on(images: Images, run: TrainingRun) -> Bool[np.ndarray, " rows"]:
    """Return which images a run was trained on; all, if the table is not that of the run.

    A table with the same people and as many images of its fraction is taken for the run's: masks
    may have been added to it since.
    """
    recipe = run.recipe
    train = select(
        images,
        None,
        real_fraction=recipe["real_fraction"],
        num_validation_people=recipe["val_people"],
        data_seed=recipe["data_seed"],
    ).train
    same = set(train.strings("person_id")) == set(run.facts["people"])
    if not same or len(train) != run.facts["num_real"]:
        return np.ones(len(images), bool)
    return np.isin(images.strings("image_id"), train.strings("image_id"))


def sample(chosen: Chosen, max_images: int, seed: int) -> Chosen:
    """Return the images of whole people, drawn by a seed, so that no image loses its matches.

    People are taken until the next one would bring more than ``max_images``.
    """
    names, of_person = np.unique(chosen.images.strings("person_id"), return_inverse=True)
    order = np.argsort(random_bits(seed, "people before streets", len(names)), kind="stable")
    counts = np.cumsum(np.bincount(of_person)[order])
    drawn = order[: max(1, int((counts <= max_images).sum()))]
    return chosen.take(np.flatnonzero(np.isin(of_person, drawn)))


def masks_of(
    images: Images, size: tuple[int, int]
) -> dict[str, Bool[np.ndarray, "rows height width"]]:
    """Return the masks of images at (width, height), by where they come from.

    Those of the table, and those around the joints, if any image has some; these are one kind where
    the table's are all drawn around joints.

    Convention: joints are (x, y) pixels of the stored image, pixel centres at integers.
    """
    sources = ", ".join(sorted(set(images.strings("mask_source"))))
    found = {sources: read_masks(images, size)[0]}
    joints = images.keypoints()
    if np.isfinite(joints).any():
        own = zip(*(images.table[name].to_pylist() for name in ("width", "height")), strict=True)
        drawn = [mask_from_joints(*one) for one in zip(joints, own, strict=True)]
        found[_JOINTS] = np.stack([resize_mask(mask, size) for mask in drawn])
    return found


def with_streets(
    images: Images, size: tuple[int, int], widening_px: float
) -> Bool[np.ndarray, " rows"]:
    """Return whose person every mask cuts out and leaves a street, also where it is widened."""
    usable = [
        [bool(mask.any()) and has_street(mask, widening_px) for mask in masks]
        for masks in masks_of(images, size).values()
    ]
    return np.all(usable, axis=0)


def pictures(
    images: Images, size: tuple[int, int], widenings: Sequence[float]
) -> Iterator[tuple[str, str, str, UInt8[np.ndarray, "rows height width 3"]]]:
    """Yield what, mask, widening in pixels, and the images: whole ones, then streets alone."""
    whole = read_all(images, size)
    yield "whole", "", "", whole
    with thread_pool(_THREADS) as pool:
        for source, masks in masks_of(images, size).items():
            for widening in widenings:
                streets = pool.map(street, whole, masks, repeat(widening))
                yield "street", source, f"{widening:g}", np.stack(list(streets))


def _scores(ranking: Ranking) -> tuple[Number, Number]:
    found = scores(ranking)
    return Number(100 * found["rank_1"], ".1f"), Number(100 * found["mAP"], ".1f")
