"""What an evaluation scores: which test pairs, and the networks of the metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from augment.quality.pairs import NUM_PUBLISHED_PAIRS
from manifests.runtime.settings import Frozen, Positive

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
    """Pose estimator of PCKh: FILE.tflite, or keypointrcnn."""
    estimator_weights: str | None = None
    """Weights of Keypoint R-CNN: a file, or download."""
    reid: Path | None = None
    """Network of the re-ID distances and of identity similarity, written by reid export."""
    inception: str | None = None
    """Inception weights for FID and IS: a file, or download."""
    alexnet: str | None = None
    """AlexNet weights for LPIPS: a file, or download."""
