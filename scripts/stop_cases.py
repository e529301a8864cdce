"""The commands that ``stop_commands.py`` stops, small, and those that make what they read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final

import torch

from augment.cli import PROGRAM as AUGMENT
from augment.generators.patn import Patn
from manifests.runtime.command_line import Program
from reid.cli import PROGRAM as REID

SMALL_PATN: Final = (
    "--config.base-width 4 --config.discriminator-width 4 --config.num-blocks 1 "
    "--config.pool-size 2 --config.features none --config.batch-size 2"
)
SMALL_RUN: Final = (
    "--recipe short --model osnet_x0_25 --batch-size 8 --height 64 --width 32 --device cpu "
    "--checkpoint-every 2 --log-every 2"
)


@dataclass(frozen=True, slots=True)
class Case:
    """A command, begun in a new folder."""

    name: str
    line: str
    """Without the program's name; {ready} is the folder of inputs."""
    brings: str | None = None
    """Folder of ``ready`` that the command writes into: it gets a copy, of the same name."""

    @property
    def out(self) -> str:
        """Return what it makes."""
        return self.line.split(" --out ")[1].split()[0]

    @property
    def program(self) -> Program:
        """Return ``augment`` or ``reid``."""
        return AUGMENT if self.name.startswith("augment") else REID

    def arguments(self, ready: Path) -> list[str]:
        """Return the command line."""
        return self.line.format(ready=ready).split()


IMAGES: Final = "--images {ready}/images.parquet"
PREPARATION: Final = (
    Case("augment sample", "sample --people 3 --test-people 4 --out people"),
    Case(
        "augment index",
        "index {ready}/people --masks {ready}/people/masks --keypoints "
        "{ready}/people/keypoints-train.csv {ready}/people/keypoints-test.csv --out images.parquet",
    ),
    Case(
        "augment index",
        "index {ready}/people --masks {ready}/people/masks --out masked.parquet",
    ),
    Case(
        "augment generate",
        f"generate {IMAGES} --weights patn-sample --per-id 2 --out synthetic --device cpu",
    ),
    Case("reid train", f"train {IMAGES} {SMALL_RUN} --steps 2 --out run --seed 0"),
    Case("reid train", f"train {IMAGES} {SMALL_RUN} --steps 2 --out other --seed 1"),
)
CASES: Final = (
    Case("augment sample", "sample --people 3 --test-people 4 --out people"),
    Case(
        "augment index",
        "index {ready}/people --masks {ready}/people/masks --keypoints "
        "{ready}/people/keypoints-train.csv --out images.parquet",
    ),
    Case("augment detect", f"detect {IMAGES} --masks --replace --out detected.parquet"),
    Case(
        "augment train",
        f"train {IMAGES} {SMALL_PATN} --config.steps 6 --save-every 2 --log-every 2 "
        "--samples-every 6 --device cpu --out run",
    ),
    Case(
        "augment convert",
        "convert --official {ready}/official.pth --config.base-width 4 --config.num-blocks 1 "
        "--out weights.safetensors",
    ),
    Case(
        "augment generate",
        f"generate {IMAGES} --weights patn-sample --per-id 4 --out synthetic --device cpu "
        "--rows-per-shard 4",
    ),
    Case("augment status", "status {ready}/synthetic"),
    Case("augment verify", "verify {ready}/synthetic"),
    Case("augment export", "export {ready}/synthetic --to folder --out folder"),
    Case("augment export", f"export {{ready}}/synthetic --to market1501 {IMAGES} --out market"),
    Case("augment export", "export {ready}/synthetic --to webdataset --out tars"),
    Case("augment preview", "preview {ready}/synthetic --out preview.png"),
    Case("augment report", "report {ready}/synthetic --html page.html"),
    Case(
        "augment transfer",
        "transfer 0001_c1s3_050705_03.jpg --pose 0002_c3s2_055841_04.jpg "
        f"{IMAGES} --weights patn-sample --out image.png",
    ),
    Case(
        "augment evaluate",
        f"evaluate {IMAGES} --weights patn-sample --count 10 --imagenet none --out table.json",
    ),
    Case("reid train", f"train {IMAGES} {SMALL_RUN} --steps 6 --val-people 1 --out run"),
    Case("reid screen", f"screen {{ready}}/synthetic --run {{ready}}/run {IMAGES} --out screened"),
    Case("reid centrality", f"centrality {{ready}}/run {IMAGES} --out central.parquet"),
    Case("reid score", f"score run {IMAGES} --flip-test", brings="run"),
    Case(
        "reid backgrounds",
        "backgrounds {ready}/run --images {ready}/masked.parquet --max-images 60 "
        "--markdown table.md",
    ),
    Case("reid compare", "compare {ready}/run {ready}/other --html page.html --csv table.csv"),
    Case(
        "reid study",
        f"study {IMAGES} --out study --fractions 1.0 --seeds 0 "
        "--arms swapped=--augmentation.scene=0.5 "
        + " ".join(f"--train.{flag}" for flag in SMALL_RUN.removeprefix("--").split(" --"))
        + " --train.steps 2",
    ),
    Case("reid report", "report {ready}/run --html page.html"),
    Case("reid export", "export {ready}/run --out net.pt2"),
)


def preparation_of(cases: Sequence[Case]) -> list[Case]:
    """Return the commands that make what others read."""
    needed: list[Case] = []
    for case in reversed(PREPARATION):
        lines = [reader.line for reader in (*cases, *needed)]
        brought = {reader.brings for reader in cases}
        if case.out in brought or any(f"{{ready}}/{case.out}" in line for line in lines):
            needed.append(case)
    return needed[::-1]


def write_official(path: Path) -> None:
    """Write a small network as its authors would have."""
    network = Patn(Patn.Config(base_width=4, num_blocks=1))
    tensors = {
        network.official_name(name): tensor.clone()
        for name, tensor in network.sampling_state().items()
    }
    torch.save(tensors, path)


def import_for(cases: Sequence[Case]) -> None:
    """Import what the commands do, so that their children need not."""
    for case in cases:
        import_module(case.program.commands[case.name.split()[1]].module)
    if any(case.program is REID for case in cases):
        import_module("reid.models.torchreid_adapter").version()
