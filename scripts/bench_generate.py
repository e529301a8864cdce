#!/usr/bin/env python
"""Images per second of generation: the plain way, the bare network, the whole command.

All three with the same weights on the same images in one run; medians of the repeats and ratios.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from augment.checkpoints import store
from augment.devices import device_class, has_bf16, pick_device
from augment.generation.job import GenerateSettings, generate
from augment.generation.sampler import prepare_for_sampling, sampling_mode
from augment.pose.pose import Pose
from augment.transfer import Condition, PoseTransfer, as_floats
from manifests import io
from manifests.console import Console
from manifests.io import Images


def posed_rows(images: Images, count: int) -> Images:
    """Return train rows with some joint, repeated up to ``count``."""
    train = images.only("train")
    usable = np.flatnonzero(~np.isnan(train.keypoints()).all(axis=(1, 2)))
    return train.take(np.resize(usable, count))


def heatmaps(joints: np.ndarray) -> np.ndarray:
    """Return the maps of one pose as the published data preparation makes them, in NumPy."""
    rows, columns = np.mgrid[0:128, 0:64]
    maps = np.zeros((18, 128, 64), np.float32)
    for joint, (x, y) in enumerate(joints):
        if not np.isnan(x):
            maps[joint] = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 72.0)
    return maps


def plain(network: PoseTransfer, rows: Images, out: Path, device: torch.device) -> float:
    """Return seconds per image one by one: float32, maps in NumPy, one PNG file each."""
    joints = rows.keypoints()
    began = time.perf_counter()
    with torch.inference_mode():
        for row in range(len(rows)):
            with Image.open(rows.file(row)) as file:
                pixels = np.asarray(file.convert("RGB"))
            for pose in (joints[row], joints[row - 1]):
                heatmaps(pose)
            condition = Condition(
                as_floats(torch.from_numpy(pixels.copy())[None].to(device)),
                Pose(torch.from_numpy(joints[row][None]).to(device)),
                Pose(torch.from_numpy(joints[row - 1][None]).to(device)),
            )
            made = network.generate(condition)[0].float().cpu().numpy()
            made = ((made.transpose(1, 2, 0) + 1) / 2 * 255).astype(np.uint8)
            Image.fromarray(made).save(out / f"{row}.png")
    return (time.perf_counter() - began) / len(rows)


def bare(network: PoseTransfer, rows: Images, batch_size: int, device: torch.device) -> float:
    """Return seconds per image of the tuned network alone, on inputs that lie on the device."""
    joints = torch.from_numpy(rows.keypoints()[:batch_size]).to(device)
    pixels = torch.randint(0, 256, (batch_size, 128, 64, 3), dtype=torch.uint8, device=device)
    condition = Condition(as_floats(pixels), Pose(joints), Pose(joints.flip(0)))
    batches = max(1, len(rows) // batch_size)
    with sampling_mode(device, "bf16" if has_bf16(device) else "float32"):
        network.generate(condition)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        for _ in range(batches):
            network.generate(condition)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return (time.perf_counter() - began) / (batches * batch_size)


def whole(settings: GenerateSettings) -> float:
    """Return seconds per image of ``augment generate``, from the settings to the manifest."""
    shutil.rmtree(str(settings.out), ignore_errors=True)
    began = time.perf_counter()
    generate(settings, Console(quiet=True))
    seconds = time.perf_counter() - began
    return seconds / io.read_synthetic(settings.out).table.num_rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="images table")
    parser.add_argument("--weights", default="patn-market1501")
    parser.add_argument("--per-id", type=int, default=2, help="size of the whole job")
    parser.add_argument("--count", type=int, default=256, help="images of the other two")
    parser.add_argument("--batch-size", type=int, default=0, help="0: 16 on a CPU, 256 on a GPU")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = pick_device(options.device)
    batch_size = options.batch_size or (256 if device.type == "cuda" else 16)
    images = io.read_images(options.images)
    rows = posed_rows(images, options.count)
    slow = store.load(options.weights, device)
    fast = prepare_for_sampling(
        store.load(options.weights, device), "bf16" if has_bf16(device) else "float32"
    )
    settings = GenerateSettings(
        images=options.images,
        weights=options.weights,
        per_id=options.per_id,
        batch_size=batch_size,
        device=str(device),
    )
    times: dict[str, list[float]] = {"plain": [], "bare": [], "whole": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.repeats):
            times["plain"].append(plain(slow, rows, Path(folder), device))
            times["bare"].append(bare(fast, rows, batch_size, device))
            at_folder = settings.model_copy(update={"out": Path(folder) / "out"})
            times["whole"].append(whole(at_folder))
    speed = {name: 1 / median(values) for name, values in times.items()}
    print(f"{device_class(device)}, {torch.get_num_threads()} threads, batch {batch_size}")
    print(f"(a) plain way              {speed['plain']:10.1f} img/s")
    print(f"(b) bare tuned network     {speed['bare']:10.1f} img/s")
    print(f"(c) whole augment generate {speed['whole']:10.1f} img/s")
    print(f"(c)/(a) {speed['whole'] / speed['plain']:.2f}")
    print(f"(c)/(b) {speed['whole'] / speed['bare']:.3f}")


if __name__ == "__main__":
    main()
