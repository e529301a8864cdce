"""What an evaluation scores: which test pairs, and the networks of the metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from augment.quality.pairs import NUM_PUBLISHED_PAIRS
from manifests.runtime.settings import Frozen, Positive

NO_NETWORK: Final = "none"
"""The setting that leaves the metrics of a network out."""

Baseline = Literal["copy", "target"]


class EvaluationProtocol(Frozen):
    """What is scored on which pairs."""

    pairs: Path | None = None
    """CSV file of test pairs with columns from, to."""
    annotation: Path | None = None
    """Published annotation file: its order of rows is the one that gives the published pairs."""
    split: Literal["train", "query", "gallery"] = "gallery"
    """Rows of the images table that pairs are drawn from."""
    count: Positive = NUM_PUBLISHED_PAIRS
    """Pairs to score; all, if there are fewer."""
    batch_size: Positive = 32
    """Pairs generated at once."""
    baseline: tuple[Baseline, ...] = ()
    """Columns beside the network's: copy the source; show the target itself."""
    estimator: str | None = None
    """Pose estimator of PCKh: blazepose, FILE.tflite, or keypointrcnn."""
    estimator_weights: str | None = None
    """Weights of Keypoint R-CNN: a file, or download."""
    reid: Path | None = None
    """Network of the re-ID distances and of identity similarity, written by reid export."""
    imagenet: str | None = None
    """Network of the ImageNet Frechet and perceptual distances, which are not FID and LPIPS and not
    comparable with them: timm/tf_efficientnet_lite0 or another whose weights an installed package
    brings, or none; the first that is installed where left out."""
    inception: str | None = None
    """Inception weights for FID and IS: a file, or download."""
    alexnet: str | None = None
    """AlexNet weights for LPIPS: a file, or download."""
