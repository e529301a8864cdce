"""Rank the gallery for every query with a trained network: ``reid score``."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Float, UInt8
from tyro.conf import Positional

from manifests.compute.devices import pick_device
from manifests.io import Images
from manifests.pixels import naming_all_broken, read_all
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.settings import Frozen
from manifests.schema import JUNK
from reid.data.inputs import Inputs
from reid.data.labels import labels_of
from reid.data.leakage import (
    check_people,
    difference_hashes,
    duplicates_block,
    near_duplicates,
    people_block,
)
from reid.evaluation.ranking import (
    Distance,
    DistanceFunction,
    Protocol,
    Ranking,
    check_matches,
    distance_of,
    rank,
)
from reid.evaluation.report import (
    Nearest,
    protocol_block,
    report_folder,
    scores,
    unknown_cameras,
    write_report,
)
from reid.evaluation.reranking import Reranking, reranked
from reid.evaluation.retrieval import Span, retrieve, verification_block
from reid.models.features import Device, Feature, RawFeatures, embed, load_network
from reid.models.network import ReidNetwork
from reid.models.run_folder import REPORT, TrainingRun, read_run

TARGETS: Final = "targets"

_FEATURES: Final[Mapping[Feature, str]] = {
    "output": "the network's output in evaluation mode",
    "raw": "what enters the network's last batch normalisation of features",
}
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class ScoreSettings(Frozen):
    """Score a trained run: every query against the gallery, Market-1501 rules."""

    run: Positional[Path]
    """Folder of a finished reid train."""
    images: Path
    """Table of real images with query and gallery rows, from 'augment index'."""
    root: Path | None = None
    """Where the images' relative paths start, if not where the table says."""
    targets: tuple[str, ...] = ()
    """Further data sets, NAME=TABLE each: scored in the same way into RUN/targets/NAME. Their
    people are taken for others than those trained on, whatever their names."""
    protocol: Protocol = "market1501"
    """all-cameras ignores only the query's own image, for data of one camera."""
    distance: Distance = "cosine"
    """Between features."""
    feature: Feature = "output"
    """raw takes features before the BN neck (the last batch normalisation of features)."""
    flip_test: bool = False
    """Average the features of an image and its mirror image."""
    rerank: bool = False
    """Re-rank by k-reciprocal neighbours (Zhong et al. 2017); refused where memory is short."""
    rerank_k1: int = 20
    """Nearest images that can be reciprocal neighbours."""
    rerank_k2: int = 6
    """Nearest images that encodings are averaged over."""
    rerank_lambda: float = 0.3
    """Weight of the plain distance."""
    near_duplicates: bool = True
    """Look for near-duplicates between the table's train and gallery images."""
    which: Literal["auto", "last", "best"] = "auto"
    """Weights to score: auto is best where the run set validation people aside, else last."""
    device: Device = "auto"
    """auto is cuda where there is one."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """A trained network and how it is scored."""

    settings: ScoreSettings
    network: ReidNetwork
    size: tuple[int, int]
    """(width, height) of the network's input."""
    inputs: Inputs
    console: Console

    def features(
        self, images: UInt8[np.ndarray, "rows height width 3"], label: str
    ) -> Float[np.ndarray, "rows width"]:
        """Return the features of images."""
        return embed(self.network, images, label, self.console, flip_test=self.settings.flip_test)

    def distances(self, query: np.ndarray, gallery: np.ndarray) -> DistanceFunction:
        """Return what gives the distances, re-ranked where the settings say so."""
        settings = self.settings
        if not settings.rerank:
            return distance_of(query, gallery, settings.distance)
        return reranked(query, gallery, settings.distance, _reranking(settings))


def score(
    settings: ScoreSettings,
    console: Console,
    inputs: Inputs | None = None,
    *,
    replaces: bool = False,
) -> Exit:
    """Write RUN/report.json and RUN/queries.parquet, and the same for every target.

    Where there is a report under another protocol already, it stays, and the new one goes to
    RUN/scores/PROTOCOL.

    Args:
        settings: What is scored, and how.
        console: Where the scores go, too.
        inputs: What the command has read before.
        replaces: Write in the place of reports under other protocols: the run's own report.

    Raises:
        UserError: If the run is not finished, there is nothing to rank, somebody that it was
            trained on is among those to be ranked, a feature is not finite, or the network or the
            memory cannot give what is asked for.
    """
    inputs = inputs or Inputs()
    run = read_run(settings.run)
    device = pick_device(settings.device)
    which = run.default_weights if settings.which == "auto" else settings.which
    tables = _tables(settings, inputs)
    # The table of the training was checked before it.
    if inputs.digest(settings.images) != run.recipe["images_sha256"]:
        check_people(tables[settings.run], run.people)
    network = load_network(run, which).to(device)
    if settings.feature == "raw":
        network = replace(network, module=RawFeatures(network.module))
    size = (run.recipe["width"], run.recipe["height"])
    scorer = Scorer(settings, network, size, inputs, console)
    for folder, images in tables.items():
        facts = {**run.facts, "weights": which}
        is_home = folder == settings.run
        target = folder
        if not replaces:
            target = report_folder(folder, choices(settings, run), which, _name(settings, which))
        with naming_all_broken(images):
            _score_table(scorer, images, target, facts, is_home=is_home)
    return Exit.DONE


def _name(settings: ScoreSettings, which: str) -> str:
    """Return a folder's name for a protocol: what differs from the plain one."""
    parts = {
        settings.protocol: settings.protocol != "market1501",
        settings.distance: settings.distance != "cosine",
        "raw": settings.feature == "raw",
        "flip": settings.flip_test,
        f"rerank-{settings.rerank_k1}-{settings.rerank_k2}-{settings.rerank_lambda:g}": (
            settings.rerank
        ),
        which: settings.which != "auto",
    }
    return "-".join(part for part, differs in parts.items() if differs) or "plain"


def choices(settings: ScoreSettings, run: TrainingRun) -> dict[str, Any]:
    """Return what of the protocol follows from the settings."""
    reranking = _reranking(settings)
    return {
        "rule": settings.protocol,
        "distance": settings.distance,
        "feature": _FEATURES[settings.feature],
        "flip_test": settings.flip_test,
        "width": run.recipe["width"],
        "height": run.recipe["height"],
        "reranking": {
            "k1": reranking.k1,
            "k2": reranking.k2,
            "lambda": reranking.weight,
            "distance_in": f"{_distance_in(settings.distance)}, divided by the largest of its row",
        }
        if settings.rerank
        else None,
    }


def _distance_in(distance: Distance) -> str:
    return "squared Euclidean" if distance == "euclidean" else "one minus the cosine"


def _reranking(settings: ScoreSettings) -> Reranking:
    return Reranking(settings.rerank_k1, settings.rerank_k2, settings.rerank_lambda)


def _tables(settings: ScoreSettings, inputs: Inputs) -> dict[Path, Images]:
    """Return the test sets by the folder that their report goes to, the run's own first."""
    tables = {settings.run: inputs.images(settings.images, settings.root)}
    files = {settings.run: settings.images}
    for target in settings.targets:
        name, _, table = target.partition("=")
        folder = settings.run / TARGETS / name
        if not table or not _NAME.fullmatch(name) or folder in tables:
            raise UserError(
                f"--targets: found '{target}', expected NAME=TABLE, a name that begins with a "
                "letter or digit and goes on with these, '.', '_' and '-', each once"
            )
        files[folder] = Path(table)
        tables[folder] = inputs.images(files[folder])
    for folder, images in tables.items():
        check_rankable(images, files[folder], settings.protocol)
    return tables


def check_rankable(images: Images, file: Path, protocol: Protocol) -> None:
    """Check that there is something to rank, before a network is trained or used for it.

    Raises:
        UserError: If there is not; names the file of the table.
    """
    query, gallery = (labels_of(images.only(split)) for split in ("query", "gallery"))
    if not len(query) or not len(gallery):
        raise UserError(
            f"{file} has {len(query)} query and {len(gallery)} gallery rows; expected some of "
            "each (train with --no-score to skip this)"
        )
    try:
        check_matches(query, gallery, protocol)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def _score_table(
    scorer: Scorer, images: Images, folder: Path, facts: Mapping[str, Any], *, is_home: bool
) -> None:
    settings, console = scorer.settings, scorer.console
    query, gallery = images.only("query"), images.only("gallery")
    query_labels, every_label = labels_of(query), labels_of(gallery)
    # Junk is never ranked, so its features are not needed.
    ranked = np.flatnonzero(every_label.people != JUNK)
    gallery_labels, gallery = every_label.take(ranked), gallery.take(ranked)
    gallery_pixels = read_all(gallery, scorer.size)
    leakage = {**facts.get("leakage", {}), **people_block(was_checked=is_home)}
    if is_home and settings.near_duplicates:
        leakage["near_duplicates"] = _near_duplicates(images, gallery, gallery_pixels, scorer)
    query_features = scorer.features(read_all(query, scorer.size), "query")
    gallery_features = scorer.features(gallery_pixels, "gallery")
    began = time.perf_counter()
    try:
        distances = scorer.distances(query_features, gallery_features)
        ranking = rank(distances, query_labels, gallery_labels, settings.protocol)
        seconds = time.perf_counter() - began
        span = _span(settings, query_features, gallery_features)
        found = retrieve(distances, query_labels, gallery_labels, span, settings.protocol)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{images.root}: {error}") from error
    how = choices(settings, TrainingRun(settings.run, dict(facts)))
    facts = {
        **facts,
        "leakage": leakage,
        "protocol": protocol_block(query_labels, every_label, how),
        "ranking_seconds": round(seconds, 3),
        "verification": verification_block(found, span),
    }
    write_report(folder, facts, ranking, query_labels, Nearest(found, gallery_labels))
    _say_scores(folder, ranking, facts["protocol"], console)
    if is_home:
        _say_leakage(folder, leakage, console)


def _span(settings: ScoreSettings, query: np.ndarray, gallery: np.ndarray) -> Span:
    """Return between which distances all lie."""
    if settings.rerank:
        return Span(0.0, 1.0, "one minus the re-ranked distance", 1.0)
    if settings.distance == "cosine":
        return Span(0.0, 2.0, "cosine similarity", 1.0)
    lengths = (float(np.linalg.norm(features, axis=1).max()) for features in (query, gallery))
    longest = max(sum(lengths), 1e-18)
    return Span(0.0, longest**2, "minus the squared Euclidean distance")


def _near_duplicates(
    images: Images, gallery: Images, gallery_pixels: np.ndarray, scorer: Scorer
) -> dict[str, Any]:
    train = images.only("train")
    found = near_duplicates(
        scorer.inputs.hashes(train, scorer.size), difference_hashes(gallery_pixels)
    )
    return duplicates_block(found, train, gallery)


def _say_scores(
    folder: Path, ranking: Ranking, protocol: Mapping[str, Any], console: Console
) -> None:
    found = scores(ranking)
    unknown = unknown_cameras(protocol)
    dropped = len(ranking.unmatched)
    console.say(
        f"{folder}: mAP {found['mAP']:.1%}, rank-1 {found['rank_1']:.1%}, "
        f"rank-5 {found['rank_5']:.1%}, rank-10 {found['rank_10']:.1%}, mINP {found['mINP']:.1%} "
        f"over {len(ranking.queries):,} queries"
        + (f" ({dropped:,} without a match left out)" if dropped else "")
        + (f"; {unknown}" if unknown else ""),
        event="scores",
        run=str(folder),
        **found,
    )


def _say_leakage(folder: Path, leakage: Mapping[str, Any], console: Console) -> None:
    parts: list[str] = []
    if leakage.get("synthetic"):
        parts.append(leakage["synthetic"]["summary"])
    if "near_duplicates" in leakage:
        pairs = leakage["near_duplicates"]["num_pairs"]
        parts.append(
            f"{pairs:,} pairs of a train and a gallery image are near-duplicates"
            + (f" ({REPORT} lists them)" if pairs else "")
        )
    if parts:
        console.say(f"{folder}: {'; '.join(parts)}", event="leakage", **leakage)
