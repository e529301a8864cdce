"""One test set, ranked and reported: what ``reid score`` does for every table."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from manifests.io import Images
from manifests.pixels import read_all
from manifests.runtime.console import Console, UserError
from manifests.schema import JUNK
from reid.data.inputs import Inputs
from reid.data.labels import Labels, labels_of
from reid.data.leakage import difference_hashes, duplicates_block, near_duplicates, people_block
from reid.evaluation.centralise import (
    Centralisation,
    Embedding,
    FeaturePair,
    GeneratedSet,
    centraliser,
    protocol_entry,
)
from reid.evaluation.ranking import DistanceFunction, Ranking, distance_of, rank
from reid.evaluation.report import (
    CENTRALISATION,
    Nearest,
    protocol_block,
    scores,
    unknown_cameras,
    write_report,
)
from reid.evaluation.reranking import reranked
from reid.evaluation.retrieval import Retrieval, Span, retrieve, verification_block
from reid.evaluation.score_settings import ScoreSettings, choices, reranking_of
from reid.models.features import embed
from reid.models.network import ReidNetwork
from reid.models.run_folder import REPORT, TrainingRun


@dataclass(frozen=True, slots=True)
class Scorer:
    """A trained network and how it is scored."""

    settings: ScoreSettings
    network: ReidNetwork
    size: tuple[int, int]
    """(width, height) of the network's input."""
    inputs: Inputs
    console: Console
    generated: GeneratedSet | None = None
    """Images of --centralise."""

    @property
    def embedding(self) -> Embedding:
        """What turns generated images into features."""
        return Embedding(self.network, self.size, self.console, self.settings.flip_test)

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
        return reranked(query, gallery, settings.distance, reranking_of(settings))


@dataclass(frozen=True, slots=True)
class TestSet:
    """Who is ranked for whom, and what is known of it before features are."""

    __test__ = False

    scorer: Scorer
    images: Images
    query: Labels
    gallery: Labels
    every: Labels
    """The gallery with its junk."""
    facts: Mapping[str, Any]

    def rank(self, features: FeaturePair) -> tuple[Ranking, Retrieval, Span, float]:
        """Return how the queries fared, what was found, and the seconds that ranking took.

        Raises:
            UserError: If a feature is not finite.
        """
        settings = self.scorer.settings
        began = time.perf_counter()
        try:
            distances = self.scorer.distances(*features)
            ranking = rank(distances, self.query, self.gallery, settings.protocol)
            seconds = time.perf_counter() - began
            span = _span(settings, *features)
            found = retrieve(distances, self.query, self.gallery, span, settings.protocol)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{self.images.root}: {error}") from error
        return ranking, found, span, seconds

    def write(
        self, folder: Path, features: FeaturePair, centralisation: Mapping[str, Any] | None = None
    ) -> None:
        """Rank, write the report and say the scores."""
        settings = self.scorer.settings
        ranking, found, span, seconds = self.rank(features)
        how = choices(settings, TrainingRun(settings.run, dict(self.facts)))
        if centralisation is not None:
            how[CENTRALISATION] = centralisation
        protocol = protocol_block(self.query, self.every, how)
        facts = {
            **self.facts,
            "protocol": protocol,
            "ranking_seconds": round(seconds, 3),
            "verification": verification_block(found, span),
        }
        write_report(folder, facts, ranking, self.query, Nearest(found, self.gallery))
        _say_scores(folder, ranking, protocol, self.scorer.console)


def score_table(
    scorer: Scorer,
    images: Images,
    folders: Sequence[tuple[Centralisation, Path]],
    facts: Mapping[str, Any],
    *,
    is_home: bool,
) -> None:
    """Write the report of one table, and where features are centralised one for each weight.

    Args:
        scorer: The network and how it is scored.
        images: The table.
        folders: Where the reports go, and under which single weights.
        facts: What a report says of the run.
        is_home: Whether the table is that of the run itself.

    Raises:
        UserError: If a feature is not finite.
    """
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
    query_pixels = read_all(query, scorer.size)
    features = (scorer.features(query_pixels, "query"), scorer.features(gallery_pixels, "gallery"))
    facts = {**facts, "leakage": leakage}
    test = TestSet(scorer, images, query_labels, gallery_labels, every_label, facts)
    if settings.centralisation.is_plain:
        ((_, folder),) = folders
        test.write(folder, features)
    else:
        pictures = {"query": (query, query_pixels), "gallery": (gallery, gallery_pixels)}
        _write_centralised(test, folders, features, pictures)
    if is_home:
        _say_leakage(folders[0][1], leakage, console)


def _write_centralised(
    test: TestSet,
    folders: Sequence[tuple[Centralisation, Path]],
    features: FeaturePair,
    pictures: Mapping[str, tuple[Images, UInt8[np.ndarray, "rows height width 3"]]],
) -> None:
    """Write a report for each weight, with the plain scores under their own name in it."""
    scorer = test.scorer
    settings = scorer.settings.centralisation
    means = centraliser(settings, scorer.generated, pictures, scorer.embedding)
    plain = scores(test.rank(features)[0])
    beside = {"scores_without_centralisation": plain, "centralised_images": means.facts}
    test = replace(test, facts={**test.facts, **beside})
    kept = [f"{part['num_without']:,} {name}" for name, part in means.facts.items()]
    scorer.console.say(
        f"{scorer.settings.run}: without centralisation mAP {plain['mAP']:.1%}, rank-1 "
        f"{plain['rank_1']:.1%}"
        + (
            f"; {' and '.join(kept)} images have no generated image and keep their plain feature"
            if kept
            else ""
        ),
        event="scores_without_centralisation",
        **plain,
    )
    for how, folder in folders:
        test.write(folder, means.features(features, how), protocol_entry(how, scorer.generated))


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
