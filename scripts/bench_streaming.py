#!/usr/bin/env python
"""How much memory ``reid train`` takes on a generated set that it does not hold, step by step.

The set is as large as is asked for and trivial: a few hundred noisy crops in other orders, in
shards as ``augment generate`` writes them. The training is the command itself, in a process of its
own; its memory is read while it runs. Flags behind ``--`` are those of ``reid train``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from manifests import io, pixels
from manifests.io import Images, keypoint_column
from manifests.schema import IMAGES, MANIFEST, SHARD
from manifests.synthetic import SUCCESS

WIDTH, HEIGHT = 64, 128
NUM_PEOPLE: Final = 500
REAL_PER_PERSON: Final = 2
NUM_CROPS: Final = 512
ROWS_PER_SHARD: Final = 8192
TRAINING: Final = (
    "--recipe short --model squeezenet1_0 --synthetic-mix add --batch-size 8 --no-score "
    "--precision float32 --log-every 20"
)


def noisy_crops(count: int) -> list[bytes]:
    """Return crops of about 3 kB each, as large as those of Market-1501."""
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 256, (count, HEIGHT // 8, WIDTH // 8, 3))
    noise = generator.normal(0, 8, (count, HEIGHT, WIDTH, 3))
    crops = np.clip(blocks.repeat(8, 1).repeat(8, 2) + noise, 0, 255).astype(np.uint8)
    return [pixels.encode_jpeg(crop, 90) for crop in crops]


def column(field: pa.Field, values: object, count: int) -> pa.Array:
    """Return a column of one value, or of as many as there are rows."""
    if isinstance(values, list | np.ndarray | pa.Array):
        return pa.array(values, field.type)
    return pa.repeat(pa.scalar(values, field.type), count)


def write_real(folder: Path, crops: list[bytes]) -> Path:
    """Write an images table whose files are the crops, and return it."""
    count = NUM_PEOPLE * REAL_PER_PERSON
    for number, crop in enumerate(crops):
        io.write_bytes(crop, folder / f"crops/{number:03d}.jpg")
    values = {
        "image_id": [f"real-{row:07d}" for row in range(count)],
        "path": [f"crops/{row % NUM_CROPS:03d}.jpg" for row in range(count)],
        "split": "train",
        "person_id": [f"{row // REAL_PER_PERSON:04d}x" for row in range(count)],
        "camera_id": 1,
    }
    table = pa.Table.from_arrays(
        [column(field, values.get(field.name), count) for field in IMAGES], schema=IMAGES
    )
    io.write_images(Images(table, Path(), {}), folder / "images.parquet")
    return folder / "images.parquet"


def write_synthetic(out: Path, crops: list[bytes], num_rows: int) -> Path:
    """Write a finished folder of so many generated images, and return it."""
    generator = np.random.default_rng(1)
    joints = generator.uniform(0, 60, (ROWS_PER_SHARD, 18, 2)).astype(np.float32)
    manifest: list[pa.Table] = []
    for number, start in enumerate(range(0, num_rows, ROWS_PER_SHARD)):
        rows = np.arange(start, min(start + ROWS_PER_SHARD, num_rows))
        count, name = len(rows), f"part-{number:06d}.parquet"
        ids = [f"made-{row:09d}" for row in rows.tolist()]
        images = [crops[place] for place in generator.integers(0, NUM_CROPS, count).tolist()]
        values = {
            "image_id": ids,
            "split": "train",
            "person_id": [f"{row % NUM_PEOPLE:04d}x" for row in rows.tolist()],
            "camera_id": 1,
            "keypoints": keypoint_column(joints[:count]),
            "k": (rows // NUM_PEOPLE).astype(np.int32),
            "source_id": "real-0000000",
            "pose_id": "real-0000001",
            "seed": rows.astype(np.uint64),
            "generator": "trivial",
            "image": pa.StructArray.from_arrays([pa.array(images, pa.binary()), pa.array(ids)],
                                                fields=list(SHARD.field("image").type)),
            "shard": name,
            "shard_row": np.arange(count, dtype=np.int32),
        }  # fmt: skip
        shard, listed = (
            pa.Table.from_arrays(
                [column(field, values.get(field.name), count) for field in schema], schema=schema
            )
            for schema in (SHARD, MANIFEST)
        )
        io.write_table(shard, out / "data" / name, {})
        manifest.append(listed)
    io.write_tables(manifest, MANIFEST, out / "manifest.parquet", {})
    io.write_bytes(b"{}", out / SUCCESS)
    return out


def memory_mb(process: int, what: str) -> float:
    """Return a line of a process's status in MB: RssAnon now, VmHWM at most."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) / 1024
    return float("nan")


def last_step(run: Path) -> int:
    """Return the step that the log has come to."""
    log = run / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def watch(command: list[str], run: Path, every_steps: int) -> float:
    """Print the memory of a training as it goes on, and return the most that it took, in MB."""
    training = subprocess.Popen(command)
    most, told = 0.0, -every_steps
    while training.poll() is None:
        time.sleep(0.5)
        try:
            most = max(most, memory_mb(training.pid, "VmHWM"))
            step, now = last_step(run), memory_mb(training.pid, "RssAnon")
        except FileNotFoundError:
            break
        if step >= told + every_steps:
            told = step
            print(f"step {step:6,}: {now:7,.0f} MB, {most:7,.0f} at most", flush=True)
    if training.wait():
        raise SystemExit(training.returncode)
    return most


def main() -> None:
    """Write a set, train on it, and tell how memory went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--added", type=int, default=120, help="generated images in a step")
    parser.add_argument("--folder", type=Path, help="keep the set here; default: nowhere")
    parser.add_argument("training", nargs="*", help="further flags of reid train")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = options.folder or Path(scratch)
        began = time.perf_counter()
        if not (home / "made" / SUCCESS).exists():
            crops = noisy_crops(NUM_CROPS)
            write_real(home, crops)
            write_synthetic(home / "made", crops, options.rows)
            print(f"{options.rows:,} rows in {time.perf_counter() - began:.0f} s", flush=True)
        run = Path(scratch) / "run"
        flags = f"{TRAINING} --steps {options.steps} --synthetic-added {options.added}".split()
        paths = {"images": home / "images.parquet", "synthetic": home / "made", "out": run}
        named = [part for flag, path in paths.items() for part in (f"--{flag}", str(path))]
        command = [sys.executable, "-m", "reid.cli", "train", *flags, *named, *options.training]
        most = watch(command, run, every_steps=max(1, options.steps // 10))
        decoded = options.rows * WIDTH * HEIGHT * 3 / 1e6
        print(
            f"at most {most:,.0f} MB; decoded at {HEIGHT} x {WIDTH} it would be {decoded:,.0f} MB"
        )


if __name__ == "__main__":
    main()
