"""``augment report``: a page about a synthetic set or a training, to look at in a browser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tyro.conf import Positional

from augment.generation.preview import source_images
from augment.generation.synthetic_page import Choices, write_synthetic_page
from manifests.pages.page import check_page
from manifests.pages.training_page import Training, is_training, write_training_page
from manifests.runtime.console import Console, Exit
from manifests.runtime.settings import Count, Frozen, Positive
from manifests.runtime.storage import StoragePathFlag
from manifests.schema import JUNK
from manifests.synthetic import read_synthetic


class ReportSettings(Frozen):
    """Write a page about a synthetic set: sheets of people, poses, scores, errors, settings.

    Of the folder of a training, which may still run, it shows curves, sample sheets and settings.
    """

    run: Positional[StoragePathFlag]
    """Folder of augment generate, or its URL; that of reid screen, or of augment train."""
    html: Path
    """Page to write; its folder exists."""
    images: Path | None = None
    """Table of the real images, if it is not where it was when the run began."""
    root: Path | None = None
    """Where the real images lie, if not where the table says."""
    embed_images: bool = False
    """Put images into the page; without it real images are linked, generated ones are blank."""
    people: Positive = 12
    """How many people have a sheet."""
    max_images: Positive = 2_000
    """How many images of each kind are measured, drawn by --seed."""
    seed: Count = 0
    """Another seed shows other people and measures other images."""


def report(settings: ReportSettings, console: Console) -> Exit:
    """Write the page.

    Raises:
        UserError: If the page cannot be written there, the run is not finished, or the table of
            its real images is not there.
    """
    check_page(settings.html)
    if isinstance(settings.run, Path) and is_training(settings.run):
        training = Training(settings.run, "augment")
        write_training_page(settings.html, training, console, embed=settings.embed_images)
        return Exit.DONE
    synthetic = read_synthetic(settings.run)
    images = source_images(settings.run, settings.images, settings.root)
    choices = Choices(settings.embed_images, settings.people, settings.max_images, settings.seed)
    splits = sorted(set(synthetic.strings("split")))
    is_shown = np.isin(images.strings("split"), splits)
    is_shown &= np.asarray(images.strings("person_id"), object) != JUNK
    real = images.take(np.flatnonzero(is_shown))
    write_synthetic_page(settings.html, synthetic, real, choices, console)
    return Exit.DONE
