"""The command ``reid``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NoReturn

from manifests.runtime.command_line import Command, Program

PROGRAM: Final = Program(
    name="reid",
    summary="Train and score person re-identification networks on real and synthetic images.",
    commands={
        "train": Command(
            "reid.training.train",
            "train",
            "settings_for",
            "train on real and synthetic images, then score",
        ),
        "screen": Command(
            "reid.experiments.screen",
            "screen",
            "ScreenSettings",
            "drop or weigh down synthetic images that lost their person",
        ),
        "score": Command(
            "reid.evaluation.score",
            "score",
            "ScoreSettings",
            "rank the gallery for every query of a test set",
        ),
        "backgrounds": Command(
            "reid.evaluation.backgrounds",
            "backgrounds",
            "BackgroundSettings",
            "say what streets alone give away, people cut out along their masks",
        ),
        "compare": Command(
            "reid.experiments.compare",
            "compare",
            "CompareSettings",
            "hold runs against a baseline, with honest intervals",
        ),
        "study": Command(
            "reid.experiments.launch",
            "launch",
            "settings_for",
            "a grid of runs: real fractions x synthetic sets x seeds, with its tables",
        ),
        "report": Command(
            "reid.training.report",
            "report",
            "ReportSettings",
            "write a page about one training, to look at",
        ),
        "export": Command(
            "reid.models.export",
            "export",
            "ExportSettings",
            "write a trained network as a .pt2 or ONNX file",
        ),
    },
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave the process with its exit code."""
    PROGRAM.main(arguments)


if __name__ == "__main__":
    main()
