"""Which images say best what their person looks like: ``reid centrality``.

The features of a trained network tell how near each train image lies to the centroid of its
person's other images. Occluded, badly cut and mislabelled crops lie far away.
``augment generate --source most-central`` makes images from the nearest one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.compute
from jaxtyping import Int
from pydantic import Field
from tyro.conf import Positional

from manifests.centrality import CentralityFacts, with_centrality
from manifests.compute.devices import pick_device
from manifests.io import Images, read_images, sha256_file, write_images
from manifests.pixels import read_all
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.settings import Count, Frozen
from reid.data.dataset import select
from reid.data.labels import labelled
from reid.data.leakage import check_people
from reid.evaluation.identity_similarity import centroids_of
from reid.models.features import Device, embed, load_network
from reid.models.run_folder import read_run

# pyarrow makes these functions at import time, where type checkers do not see them.
pc: Any = pyarrow.compute


class CentralitySettings(Frozen):
    """Say of every train image how near it lies to the others of its person."""

    run: Positional[Path]
    """Folder of a finished reid train on real images alone: its network looks."""
    images: Path
    """Table of real images, from 'augment index', as it was trained on or with masks added."""
    out: Path
    """Table to write: the same rows with one column more, for augment generate."""
    root: Path | None = None
    """Where the images' relative paths start, if not where the table says."""
    real_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of the train images that have a say, as in reid train."""
    data_seed: Count = 0
    """Chooses that part, as in reid train."""
    device: Device = "auto"
    """auto is cuda where there is one."""


def centrality(settings: CentralitySettings, console: Console) -> Exit:
    """Write the table with a column ``centrality``.

    It is the cosine between an image and the centroid of its person's other images, null where
    there are none, and for images of the test splits and outside the fraction.

    Raises:
        UserError: If an input cannot be used, the run saw synthetic images, people of the table's
            test splits or nobody of its train split, or nobody has two images.
    """
    run = read_run(settings.run)
    images = read_images(settings.images, settings.root)
    train = select(
        images,
        None,
        real_fraction=settings.real_fraction,
        num_validation_people=0,
        data_seed=settings.data_seed,
    ).train
    check_people(images, run.people)
    people, own = labelled(train.strings("person_id"))
    run.check_knows(people)
    rows = np.flatnonzero(np.bincount(own)[own] > 1)
    if not len(rows):
        raise UserError(
            f"{settings.images}: found one image each of {len(people):,} train people, expected "
            "more of some, or nothing is central"
        )
    network = load_network(run, run.default_weights).to(pick_device(settings.device))
    size = (run.recipe["width"], run.recipe["height"])
    features = embed(network, read_all(train, size), "centrality", console)
    found = centroids_of(features, own, len(people)).similarity_left_out(features[rows], own[rows])
    facts = CentralityFacts(
        weights_sha256=sha256_file(run.weights(run.default_weights)),
        real_fraction=settings.real_fraction,
        data_seed=settings.data_seed,
    )
    values = np.full(len(images), np.nan, np.float32)
    values[_places(images, train.take(rows))] = found.similarity
    write_images(with_centrality(images, values, facts), settings.out)
    console.say(
        f"{settings.out}: centrality of {len(rows):,} train images, median "
        f"{np.median(found.similarity):.3f}; {found.share_within(1):.1%} are nearest to their own "
        f"person; {len(train) - len(rows):,} are the only one of theirs and have none",
        event="centrality",
        images=len(rows),
        only_ones=len(train) - len(rows),
        median=float(np.median(found.similarity)),
        nearest_to_own=found.share_within(1),
    )
    return Exit.DONE


def _places(images: Images, some: Images) -> Int[np.ndarray, " some"]:
    """Return where the rows of ``some`` stand among ``images``."""
    found = pc.index_in(some.table["image_id"], value_set=images.table["image_id"])
    return found.to_numpy()
