"""The command ``reid``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from manifests.runtime.command_line import Command, Program

PROGRAM: Final = Program(
    name="reid",
    summary="Train and score person re-identification networks on real and synthetic images.",
    pages=Path(__file__).with_name("help.json"),
    commands={
        "train": Command(
            "reid.training.train",
            "train",
            "settings_for",
            "train on real and synthetic images, then score",
            example="train --images images.parquet --synthetic synthetic --out runs/generated-0",
            basic=(
                "recipe",
                "synthetic",
                "synthetic-mix",
                "scene-added",
                "real-fraction",
                "model",
                "steps",
                "seed",
            ),
            is_run=True,
            defaults_by=("--recipe", "short", "imagenet-cpu"),
        ),
        "screen": Command(
            "reid.experiments.screen",
            "screen",
            "ScreenSettings",
            "drop or weigh down synthetic images that lost their person",
            example="screen synthetic --run runs/real-0 --images images.parquet --out screened",
            basic=("drop-beyond",),
            is_run=True,
        ),
        "centrality": Command(
            "reid.evaluation.centrality",
            "centrality",
            "CentralitySettings",
            "say which images are most like their person's others, to make new ones from",
            example="centrality runs/real-0 --images masked.parquet --out central.parquet",
        ),
        "score": Command(
            "reid.evaluation.score",
            "score",
            "ScoreSettings",
            "rank the gallery for every query of a test set",
            example="score runs/generated-0 --images images.parquet",
            basic=("protocol",),
        ),
        "backgrounds": Command(
            "reid.evaluation.backgrounds",
            "backgrounds",
            "BackgroundSettings",
            "say what streets alone give away, people cut out along their masks",
            example="backgrounds runs/generated-0 --images masked.parquet",
        ),
        "compare": Command(
            "reid.experiments.compare",
            "compare",
            "CompareSettings",
            "hold runs against a baseline, with honest intervals",
            example="compare none='runs/none-*' generated='runs/generated-*' --html page.html",
            basic=("html", "images", "markdown", "csv", "latex"),
        ),
        "study": Command(
            "reid.experiments.launch",
            "launch",
            "settings_for",
            "a grid of runs: real fractions x synthetic sets x seeds, with its tables",
            example="study --images images.parquet --synthetic-sets patn=synthetic --out study",
            basic=(
                "synthetic-sets",
                "arms",
                "fractions",
                "seeds",
                "controls",
                "train.recipe",
                "train.steps",
                "dry-run",
                "html",
            ),
            is_run=True,
            defaults_by=("--train.recipe", "short", "imagenet-cpu"),
        ),
        "report": Command(
            "reid.training.report",
            "report",
            "ReportSettings",
            "write a page about one training, to look at",
            example="report runs/generated-0 --html page.html",
        ),
        "export": Command(
            "reid.models.export",
            "export",
            "ExportSettings",
            "write a trained network as a .pt2 or ONNX file",
            example="export runs/generated-0 --out network.onnx",
            basic=("out",),
        ),
    },
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave the process with its exit code."""
    PROGRAM.main(arguments)


if __name__ == "__main__":
    main()
