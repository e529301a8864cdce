"""The command ``augment``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NoReturn

from manifests.runtime.command_line import Command, Program

PROGRAM: Final = Program(
    name="augment",
    summary="More images of the same people, in other poses, for person re-identification.",
    commands={
        "sample": Command(
            "manifests.people.dataset",
            "sample",
            "SampleCommandSettings",
            "draw a data set of made-up people",
        ),
        "index": Command(
            "manifests.datasets.index",
            "index",
            "settings_for",
            "list a folder of crops in a table",
        ),
        "detect": Command(
            "augment.pose.detect", "detect", "DetectSettings", "add keypoints by a pose estimator"
        ),
        "train": Command(
            "augment.training.train", "train", "settings_for", "train a pose-transfer network"
        ),
        "convert": Command(
            "augment.checkpoints.convert", "convert", "settings_for", "read the authors' weights"
        ),
        "generate": Command(
            "augment.generation.launch", "launch", "settings_for", "make images of every person"
        ),
        "status": Command(
            "augment.generation.status", "status", "StatusSettings", "tell how far a run has come"
        ),
        "verify": Command(
            "augment.generation.verify",
            "verify",
            "VerifySettings",
            "hash every image of a run again",
        ),
        "export": Command(
            "augment.generation.export", "export", "ExportSettings", "write a run's images as files"
        ),
        "preview": Command(
            "augment.generation.preview", "preview", "PreviewSettings", "draw a contact sheet"
        ),
        "report": Command(
            "augment.generation.report",
            "report",
            "ReportSettings",
            "write a page about a finished run, to look at",
        ),
        "transfer": Command(
            "augment.generation.single_image",
            "transfer",
            "settings_for",
            "make one image from one image",
        ),
        "evaluate": Command(
            "augment.quality.evaluate",
            "evaluate",
            "EvaluateSettings",
            "measure quality on test pairs",
        ),
    },
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave the process with its exit code."""
    PROGRAM.main(arguments)


if __name__ == "__main__":
    main()
