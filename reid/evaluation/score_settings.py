"""Settings of ``reid score``, and what of a report's protocol follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import model_validator
from tyro.conf import OmitArgPrefixes, Positional

from manifests.runtime import run_record
from manifests.runtime.console import UserError
from manifests.runtime.settings import Frozen, Positive, Share
from reid.evaluation.centralise import Centralisation
from reid.evaluation.ranking import Distance, Protocol
from reid.evaluation.reranking import Reranking
from reid.models.features import Device, Feature
from reid.models.run_folder import TrainingRun, Which

_FEATURES: Final[Mapping[Feature, str]] = {
    "output": "the network's output in evaluation mode",
    "raw": "what enters the network's last batch normalisation of features",
}


_PAPER: Final = Reranking()


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
    rerank_k1: Positive = _PAPER.k1
    """Nearest images that can be reciprocal neighbours."""
    rerank_k2: Positive = _PAPER.k2
    """Nearest images that encodings are averaged over."""
    rerank_lambda: Share = _PAPER.weight
    """Weight of the plain distance."""
    centralisation: OmitArgPrefixes[Centralisation] = Centralisation()
    near_duplicates: bool = True
    """Look for near-duplicates between the table's train and gallery images."""
    which: Literal["auto", "last", "best"] = "auto"
    """Weights to score: auto is best where the run set validation people aside, else last."""
    device: Device = "auto"
    """auto is cuda where there is one."""

    @model_validator(mode="after")
    def _check_reranking(self) -> ScoreSettings:
        if not self.rerank and reranking_of(self) != _PAPER:
            raise UserError(
                "--rerank-k1, --rerank-k2 or --rerank-lambda: found without --rerank, expected both"
            )
        return self


def which_weights(settings: ScoreSettings, run: TrainingRun) -> Which:
    """Return which weights of a run are scored."""
    return run.default_weights if settings.which == "auto" else settings.which


def other_scoring(
    report: Mapping[str, Any], settings: ScoreSettings, run: TrainingRun
) -> list[str]:
    """Return in what a report was scored otherwise, as ``name: X, now Y``; empty if in nothing."""
    expected = {"weights": which_weights(settings, run), **choices(settings, run)}
    found = {"weights": report.get("weights"), **report["protocol"]}
    return run_record.differences({name: found.get(name) for name in expected}, expected)


def choices(settings: ScoreSettings, run: TrainingRun) -> dict[str, Any]:
    """Return what of the protocol follows from the settings."""
    reranking = reranking_of(settings)
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


def reranking_of(settings: ScoreSettings) -> Reranking:
    """Return the parameters of re-ranking, whether it is asked for or not."""
    return Reranking(settings.rerank_k1, settings.rerank_k2, settings.rerank_lambda)
