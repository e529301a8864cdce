"""Rank the gallery for every query with a trained network: ``reid score``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float
from tyro.conf import Positional

from manifests.console import Console, Exit, UserError
from manifests.io import Images, read_images
from manifests.pixels import read_all
from manifests.schema import JUNK
from manifests.settings import Frozen
from reid.dataset import labels_of
from reid.embed import Device, choose_device, embed, load_network
from reid.ranking import Distance, Protocol, distance_of, rank
from reid.report import protocol_block, scores, write_report
from reid.runs import read_run


class ScoreSettings(Frozen):
    """Score a trained run: every query against the gallery, Market-1501 rules."""

    run: Positional[Path]
    """Folder of a finished reid train."""
    images: Path
    """Table of real images with query and gallery rows, from 'augment index'."""
    root: Path | None = None
    """Where the images' relative paths start, if not where the table says."""
    protocol: Protocol = "market1501"
    """all-cameras ignores only the query's own image, for data of one camera."""
    distance: Distance = "cosine"
    """Between features."""
    flip_test: bool = False
    """Average the features of an image and its mirror image."""
    which: Literal["auto", "last", "best"] = "auto"
    """Weights to score: auto is best where the run set validation people aside, else last."""
    device: Device = "auto"
    """auto is cuda where there is one."""


def score(settings: ScoreSettings, console: Console) -> Exit:
    """Write RUN/report.json and RUN/queries.parquet.

    Raises:
        UserError: If the run is not finished, there is nothing to rank, or a feature is not
            finite.
    """
    run = read_run(settings.run)
    which = run.default_weights if settings.which == "auto" else settings.which
    images = read_images(settings.images, settings.root)
    query, gallery = images.only("query"), images.only("gallery")
    if not len(query) or not len(gallery):
        raise UserError(
            f"{settings.images} has {len(query)} query and {len(gallery)} gallery rows; expected "
            "some of each (train with --no-score to skip this)"
        )
    network = load_network(run, which).to(choose_device(settings.device))
    size = (run.recipe["width"], run.recipe["height"])

    def features(part: Images, label: str) -> Float[np.ndarray, "rows width"]:
        return embed(
            network,
            read_all(part, size),
            label,
            console,
            flip_test=settings.flip_test,
        )

    query_labels, every_label = labels_of(query), labels_of(gallery)
    # Junk is never ranked, so its features are not needed.
    ranked = np.flatnonzero(every_label.people != JUNK)
    gallery_labels = every_label.take(ranked)
    query_features = features(query, "query")
    gallery_features = features(gallery.take(ranked), "gallery")
    began = time.perf_counter()
    try:
        measure = distance_of(query_features, gallery_features, settings.distance)
        ranking = rank(measure, query_labels, gallery_labels, settings.protocol)
    except ValueError as error:
        raise UserError(
            f"{settings.images}: {error}; with a single camera use --protocol all-cameras"
        ) from error
    seconds = time.perf_counter() - began
    facts = {
        **run.facts,
        "weights": which,
        "protocol": protocol_block(
            query_labels,
            every_label,
            {
                "rule": settings.protocol,
                "distance": settings.distance,
                "flip_test": settings.flip_test,
                "width": size[0],
                "height": size[1],
            },
        ),
        "ranking_seconds": round(seconds, 3),
    }
    write_report(settings.run, facts, ranking, query_labels)
    found = scores(ranking)
    dropped = len(ranking.unmatched)
    console.say(
        f"{settings.run}: mAP {found['mAP']:.1%}, rank-1 {found['rank_1']:.1%}, "
        f"rank-5 {found['rank_5']:.1%}, rank-10 {found['rank_10']:.1%}, mINP {found['mINP']:.1%} "
        f"over {len(ranking.queries):,} queries"
        + (f" ({dropped:,} without a match left out)" if dropped else ""),
        event="scores",
        run=str(settings.run),
        **found,
    )
    return Exit.DONE
