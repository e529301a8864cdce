"""The command ``augment``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from manifests.runtime.command_line import Command, Program

PROGRAM: Final = Program(
    name="augment",
    summary="More images of the same people, in other poses, for person re-identification.",
    pages=Path(__file__).with_name("help.json"),
    commands={
        "sample": Command(
            "manifests.people.dataset",
            "sample",
            "SampleCommandSettings",
            "draw a data set of made-up people",
            example="sample --out people --people 60 --test-people 40",
            basic=("people", "test-people"),
        ),
        "index": Command(
            "manifests.datasets.index",
            "index",
            "settings_for",
            "list a folder of crops in a table",
            example="index Market-1501-v15.09.15 --out images.parquet",
            basic=("layout", "keypoints", "pattern", "table", "columns", "test-people"),
        ),
        "detect": Command(
            "augment.pose.detect",
            "detect",
            "DetectSettings",
            "add keypoints by a pose estimator",
            example="detect --images images.parquet --masks --out masked.parquet",
            basic=("masks", "estimator"),
        ),
        "train": Command(
            "augment.training.train",
            "train",
            "settings_for",
            "train a pose-transfer network",
            example="train --generator patn --images images.parquet --out runs/patn",
            basic=("generator", "init", "config.steps"),
            is_run=True,
        ),
        "convert": Command(
            "augment.checkpoints.convert",
            "convert",
            "settings_for",
            "read the authors' weights",
            example="convert --generator patn --official net.pth --out patn.safetensors",
            basic=("generator",),
        ),
        "generate": Command(
            "augment.generation.launch",
            "launch",
            "settings_for",
            "make images of every person",
            example="generate --images masked.parquet --weights posewarp-market1501 --out more",
            basic=("images", "out", "weights", "per-id", "dry-run"),
            is_run=True,
        ),
        "status": Command(
            "augment.generation.status",
            "status",
            "StatusSettings",
            "tell how far a run has come",
            example="status synthetic",
            basic=("json",),
        ),
        "verify": Command(
            "augment.generation.verify",
            "verify",
            "VerifySettings",
            "hash every image of a run again",
            example="verify synthetic",
        ),
        "export": Command(
            "augment.generation.export",
            "export",
            "ExportSettings",
            "write a run's images as files",
            example="export synthetic --to folder --out crops",
            is_run=True,
        ),
        "preview": Command(
            "augment.generation.preview",
            "preview",
            "PreviewSettings",
            "draw a contact sheet",
            example="preview synthetic --out preview.png",
            basic=("out",),
        ),
        "report": Command(
            "augment.generation.report",
            "report",
            "ReportSettings",
            "write a page about a finished run, to look at",
            example="report synthetic --html page.html --embed-images",
            basic=("embed-images",),
        ),
        "transfer": Command(
            "augment.generation.single_image",
            "transfer",
            "settings_for",
            "make one image from one image",
            example="transfer person.jpg --pose other.jpg --estimator blazepose --out moved.jpg",
            basic=("weights", "pose", "background", "estimator"),
        ),
        "evaluate": Command(
            "augment.quality.evaluate",
            "evaluate",
            "EvaluateSettings",
            "measure quality on test pairs",
            example="evaluate --images images.parquet --weights patn-market1501 --pairs pairs.csv",
            basic=("weights", "pairs", "count"),
        ),
    },
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave the process with its exit code."""
    PROGRAM.main(arguments)


if __name__ == "__main__":
    main()
