#!/usr/bin/env python
"""What a row of ``augment generate`` and ``detect`` costs beside the network, in jobs of two sizes.

Planning, one worker's share of the shards, finalising, ``status`` and ``verify``, each in a
process of its own: seconds of CPU per row, seconds of wall clock, and how far memory rose. The
network only shifts colours; sources are real files of 128x64, a few of them shared by all people.
The shards that finalising looks at are cheap: all their rows hold one tiny image. ``detect`` reads
every real image of the table; its estimator finds the same person in each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from augment.generation import choices, manifest, shards
from augment.generation.encoding import EncodedBatch, shard_table
from augment.generation.plan import GenerationPlan
from augment.generation.resolve import Weights, plan_of, resolve
from augment.generation.run_config import RunConfig, begin, require_run_config
from augment.generation.sampler import Sampler, prepare_for_sampling
from augment.generation.settings import GenerateSettings
from augment.generation.status import look
from augment.generation.verify import problems
from augment.generation.worker import Job, work
from augment.interface.condition import Condition, Pair
from augment.interface.randomness import RowRandom
from augment.interface.schedule import Stage
from augment.interface.system import NoOptions, PoseTransfer
from augment.pose.detect import Choices, write_joints
from augment.pose.estimators.interface import Detection, Image
from manifests import io, pixels
from manifests.compute.devices import cpu_threads
from manifests.io import Images, keypoint_column
from manifests.runtime.console import Console
from manifests.runtime.settings import Frozen
from manifests.runtime.tables import Number, Table, TableFiles
from manifests.schema import IMAGES, OPTIONAL_COLUMNS

NUM_FILES = 50
IMAGES_PER_PERSON = 5
WIDTH, HEIGHT = 64, 128
PHASES = ("plan", "rows", "work", "finalise", "status", "verify", "detect")
HEADS = ("phase", "planned", "rows", "CPU us/row", "wall us/row", "seconds", "MB more", "B/row")


class SamePerson:
    """Finds one person, at the same place in every crop."""

    name = "same person"
    draws_masks = True

    @property
    def provenance(self) -> Mapping[str, object]:
        """Return the name."""
        return {"network": self.name}

    def detect(self, images: Sequence[Image]) -> list[Detection]:
        """Return a mask of the middle columns, and joints on the diagonal."""
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[:, WIDTH // 4 : -WIDTH // 4] = True
        joints = np.repeat(np.arange(18, dtype=np.float32)[:, None], 2, axis=1)
        return [Detection(joints, 0.9, mask) for _ in images]


class Trivial(PoseTransfer):
    """Shifts the colours of the source by the mean joint of the target pose."""

    class Config(Frozen):
        """It has no settings."""

    sampling: ClassVar[tuple[str, ...]] = ()

    def stages(self) -> tuple[Stage, ...]:
        """Return no stages: it is never trained."""
        return ()

    def run(self, pair: Pair, stage: str) -> Mapping[str, Tensor]:
        """Refuse to be trained."""
        raise NotImplementedError

    def losses(self, phase: str, pair: Pair, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Refuse to be trained."""
        raise NotImplementedError

    @classmethod
    def from_official(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Refuse weights: it has none."""
        raise NotImplementedError

    def generate(self, condition: Condition, random: RowRandom, options: Frozen) -> Tensor:
        """Return the source in other colours."""
        del random, options
        shift = torch.nan_to_num(condition.target_pose.joints).mean(dim=(1, 2)) / 64 - 0.5
        return 0.6 * condition.image + 0.4 * shift[:, None, None, None].clamp(-1, 1)


UPRIGHT = np.array(
    [(32, 14), (32, 24), (20, 26), (16, 44), (14, 60), (44, 26), (48, 44), (50, 60), (24, 64),
     (22, 88), (22, 112), (40, 64), (42, 88), (42, 112), (30, 11), (34, 11), (28, 13), (36, 13)],
    np.float32,
)  # fmt: skip
"""A pose that stands on its feet: what reads keypoints refuses others."""
WEIGHTS = Weights("trivial", "0" * 64, (HEIGHT, WIDTH), lambda device: Trivial().to(device))


def write_table(folder: Path, num_people: int) -> None:
    """Write an images table of many people whose images are a few files."""
    generator = np.random.default_rng(0)
    (folder / "files").mkdir(parents=True, exist_ok=True)
    digests: list[str] = []
    for number in range(NUM_FILES):
        blocks = generator.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3)).astype(np.uint8)
        file = folder / f"files/{number:02d}.jpg"
        file.write_bytes(pixels.encode_jpeg(np.kron(blocks, np.ones((8, 8, 1), np.uint8))))
        digests.append(io.sha256_file(file))
    count = num_people * IMAGES_PER_PERSON
    person = np.arange(count) // IMAGES_PER_PERSON
    number = np.arange(count) % IMAGES_PER_PERSON
    file = (7 * person + number) % NUM_FILES
    people = [f"{label:08d}" for label in range(num_people)]
    columns = {
        "image_id": [
            f"{people[i]}_c{j}s1_{j:06d}_01.jpg" for i, j in zip(person, number, strict=True)
        ],
        "path": [f"files/{row:02d}.jpg" for row in file],
        "split": pa.repeat(pa.scalar("train"), count),
        "person_id": [people[i] for i in person],
        "camera_id": number,
        "sequence": np.ones(count),
        "frame": number,
        "width": np.full(count, WIDTH),
        "height": np.full(count, HEIGHT),
        "keypoints": keypoint_column(
            UPRIGHT + generator.normal(0, 2, (count, 18, 2)).astype(np.float32)
        ),
        "sha256": [digests[row] for row in file],
        **{
            name: pa.nulls(count, IMAGES.field(name).type)
            for group in OPTIONAL_COLUMNS
            for name in group
        },
    }
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, field.type)
        for field, column in ((field, columns[field.name]) for field in IMAGES)
    ]
    table = pa.Table.from_arrays(arrays, schema=IMAGES)
    io.write_images(Images(table, Path(), {}), folder / "images.parquet")


def settings_of(folder: Path, options: argparse.Namespace) -> GenerateSettings:
    """Return the settings of the job whose table lies in a folder."""
    return GenerateSettings(
        images=folder / "images.parquet",
        out=folder / "out",
        per_id=options.per_id,
        choices=choices.Choices(pose_choice=options.pose_choice, source=options.source),
        rows_per_shard=options.rows_per_shard,
        batch_size=16,
        precision="float32",
        threads=1,
        device="cpu",
    )


def planned(folder: Path, options: argparse.Namespace) -> tuple[GenerationPlan, RunConfig]:
    """Return what every worker works out before its first shard."""
    settings = settings_of(folder, options)
    plan = plan_of(settings, WEIGHTS)
    return plan, resolve(settings, plan, WEIGHTS, None)


def publish_all(folder: Path, options: argparse.Namespace) -> None:
    """Write every shard with one tiny image in all rows."""
    plan, run = planned(folder, options)
    begin(folder / "out", run, {})
    image = pixels.encode_jpeg(np.zeros((8, 8, 3), np.uint8))
    for shard in range(run.num_shards):
        if shards.shard_state(folder / "out", run, shard) != "complete":
            rows = plan.rows(*run.shard_rows(shard))
            made = EncodedBatch([image] * len(rows), [None] * len(rows))
            shards.publish(folder / "out", run, shard, shard_table(run, plan, rows, [made]), "cpu")


def memory_mb(what: str) -> float:
    """Return a line of this process's status in MB: VmRSS now, VmHWM at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {what}")


def measured(task: Callable[[], int], around: AbstractContextManager[object]) -> dict[str, float]:
    """Return what a task cost; it returns its number of rows."""
    Path("/proc/self/clear_refs").write_text("5")
    before, cpu, began = memory_mb("VmRSS"), time.process_time(), time.perf_counter()
    with around:
        rows = task()
    return {
        "rows": rows,
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - began,
        "rise_mb": memory_mb("VmHWM") - before,
    }


def phase(name: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Return what one phase cost in this process."""
    out = folder / "out"
    silent = Console(quiet=True)

    def plan() -> int:
        return len(planned(folder, options)[0])

    def finalise() -> int:
        success = manifest.finalise(out, require_run_config(out), "card\n")
        assert success is not None
        return success.rows

    def ask() -> int:
        return look(out).rows_complete

    def verify() -> int:
        assert not list(problems(out, require_run_config(out)))
        return require_run_config(out).content.rows

    def detect() -> int:
        images = io.open_images(folder / "images.parquet")
        choices = Choices(masks=True, replaces=True)
        write_joints(images, folder / "joints.parquet", SamePerson(), choices, silent)
        return images.num_rows

    if name not in {"rows", "work"}:
        tasks = {
            "plan": plan,
            "finalise": finalise,
            "status": ask,
            "verify": verify,
            "detect": detect,
        }
        return measured(tasks[name], nullcontext())
    plan_, run = planned(folder, options)
    own = np.linspace(0, run.num_shards - 1, options.shards).astype(int).tolist()
    sampler = Sampler(prepare_for_sampling(Trivial(), "float32"), torch.device("cpu"), NoOptions())
    num_rows = sum(run.num_rows(shard) for shard in own)

    def arithmetic() -> int:
        return sum(len(plan_.rows(*run.shard_rows(shard))) for shard in own)

    if name == "rows":
        return measured(arithmetic, nullcontext())

    def share() -> int:
        with silent.progress("work", num_rows) as bar:
            work(Job(folder / "share", run, plan_), sampler, own, bar)
        return num_rows

    return measured(share, cpu_threads(1))


def apart(name: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Return what a phase cost in a fresh process."""
    arguments = ["--phase", name, "--folder", str(folder)]
    for option in ("per_id", "rows_per_shard", "shards", "people", "pose_choice", "source"):
        value = getattr(options, option)
        arguments += [f"--{option.replace('_', '-')}", *map(str, np.atleast_1d(value))]
    found = subprocess.run(
        [sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(found.stdout)


def main() -> None:
    """Print a row for each phase and each size of the job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, nargs="+", default=[2_000, 200_000])
    parser.add_argument("--per-id", type=int, default=10)
    parser.add_argument("--rows-per-shard", type=int, default=2_048)
    parser.add_argument("--shards", type=int, default=4, help="one worker's share")
    parser.add_argument("--pose-choice", default="uniform", help="as in augment generate")
    parser.add_argument("--source", default="random", help="as in augment generate")
    parser.add_argument("--folder", type=Path, help="keep tables and shards here; default: nowhere")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=PHASES)
    parser.add_argument("--repeats", type=int, default=1, help="the least of so many is shown")
    parser.add_argument("--phase", choices=("table", "publish", *PHASES), help=argparse.SUPPRESS)
    TableFiles.add_to(parser)
    options = parser.parse_args()
    if options.phase is not None:
        made = {
            "table": lambda: write_table(options.folder, options.people[0]),
            "publish": lambda: publish_all(options.folder, options),
        }
        if options.phase in made:
            made[options.phase]()
            print("{}")
        else:
            print(json.dumps(phase(options.phase, options.folder, options)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        table = measure(options.folder or Path(scratch), options)
    text = table.to_markdown(padded=True) + "\n"
    print(text, end="")
    TableFiles.of_options(options).write(text, [table])


def measure(home: Path, options: argparse.Namespace) -> Table:
    """Return what every phase costs at every size; each row is told when it is there."""
    rows: list[list[str | Number]] = []
    for name in options.phases:
        for num_people in options.people:
            options_of = argparse.Namespace(**{**vars(options), "people": [num_people]})
            folder = home / str(num_people)
            if not (folder / "images.parquet").exists():
                apart("table", folder, options_of)
            if name not in {"plan", "rows", "work", "detect"}:
                apart("publish", folder, options_of)
            runs = [apart(name, folder, options_of) for _ in range(options.repeats)]
            best = min(runs, key=lambda run: run["cpu_s"])
            rows.append([name, *numbers_of(best, num_people * options.per_id)])
            print(*rows[-1], file=sys.stderr, flush=True)
    return Table.of(HEADS, rows, "l" + "r" * (len(HEADS) - 1))


def numbers_of(run: Mapping[str, float], planned: int) -> list[Number]:
    """Return the cells under all heads but the first."""
    rows = run["rows"]
    return [
        Number(planned, ",.0f"),
        Number(rows, ",.0f"),
        Number(1e6 * run["cpu_s"] / rows),
        Number(1e6 * run["wall_s"] / rows),
        Number(run["wall_s"]),
        Number(run["rise_mb"], ".1f"),
        Number(2**20 * run["rise_mb"] / rows, ".0f"),
    ]


if __name__ == "__main__":
    main()
