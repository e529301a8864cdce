#!/usr/bin/env python
"""Images per second of generation: the plain way, the bare network, the whole command.

All three with the same weights on the same images in one run; medians of the repeats and ratios.
The bare network is also told as a share of the rate at which this machine does convolutions, which
is measured beside it: the best of a few layers such as these networks are made of.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from augment import generators
from augment.checkpoints import store
from augment.generation.job import generate
from augment.generation.sampler import Sampler, prepare_for_sampling, sampling_mode
from augment.generation.settings import GenerateSettings
from augment.interface.condition import Condition, condition_of
from augment.interface.randomness import RowRandom
from augment.interface.system import PoseTransfer
from augment.pose.maps import gaussians
from augment.pose.pose import Pose
from manifests import io, pixels
from manifests.compute.devices import device_class, has_bf16, pick_device
from manifests.compute.precision import fast_precision
from manifests.io import Images
from manifests.masks import mask_of
from manifests.runtime.console import Console
from manifests.runtime.tables import Number, Table, TableFiles
from manifests.scenes import alpha_of, hole_of, street
from manifests.synthetic import read_synthetic

CONVOLUTIONS = ((256, 32, 16), (512, 32, 16), (256, 64, 32))
"""(channels in and out, height, width) of 3x3 convolutions; the first is PATN's at full width."""


def posed_rows(images: Images, count: int, network: PoseTransfer) -> Images:
    """Return train rows with some joint, and a mask if needed, repeated up to ``count``."""
    train = images.only("train")
    usable = ~np.isnan(train.keypoints()).all(axis=(1, 2))
    if "mask" in network.needs:
        usable &= np.asarray(train.table["mask"].is_valid())
    return train.take(np.resize(np.flatnonzero(usable), count))


def behind(rows: Images, row: int, network: PoseTransfer) -> dict[str, np.ndarray]:
    """Return a row's mask and the street of the row before, for systems that need them."""
    if not network.needs:
        return {}
    before = (row - 1) % len(rows)
    person, cut = (mask_of(rows, number, (64, 128)) for number in (row, before))
    return {
        "mask": alpha_of(person)[None],
        "background": street(pixels.read(rows.file(before)), cut)[None],
        "hole": hole_of(cut)[None],
    }


def heatmaps(joints: np.ndarray) -> np.ndarray:
    """Return the maps of one pose as the published data preparation makes them, in NumPy."""
    rows, columns = np.mgrid[0:128, 0:64]
    maps = np.zeros((18, 128, 64), np.float32)
    for joint, (x, y) in enumerate(joints):
        if not np.isnan(x):
            maps[joint] = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 72.0)
    return maps


def plain(network: PoseTransfer, rows: Images, out: Path, device: torch.device) -> float:
    """Return seconds per image one by one: float32, maps in NumPy, one PNG file each.

    The network draws its maps itself, in torch; what that takes, timed alone, is taken off, since
    the plain way has drawn them in NumPy.
    """
    joints = rows.keypoints()
    with torch.inference_mode():
        pose = Pose(torch.from_numpy(joints[:1]).to(device))
        drawn_again = 2 * seconds_of(lambda: gaussians(pose, 128, 64), 20, device)
    began = time.perf_counter()
    with torch.inference_mode():
        for row in range(len(rows)):
            with Image.open(rows.file(row)) as file:
                image = np.asarray(file.convert("RGB"))
            for pose in (joints[row], joints[row - 1]):
                heatmaps(pose)
            poses = joints[row][None], joints[row - 1][None]
            given = behind(rows, row, network)
            condition = condition_of(image.copy()[None], *poses, device=device, **given)
            random = RowRandom.numbered(1, device)
            made = network.generate(condition, random, network.Options())[0].float().cpu().numpy()
            made = ((made.transpose(1, 2, 0) + 1) / 2 * 255).astype(np.uint8)
            Image.fromarray(made).save(out / f"{row}.png")
    return (time.perf_counter() - began) / len(rows) - drawn_again


def batch_of(rows: Images, batch_size: int, device: torch.device) -> Condition:
    """Return a batch that lies on the device."""
    joints = torch.from_numpy(rows.keypoints()[:batch_size]).to(device)
    image = torch.randint(0, 256, (batch_size, 128, 64, 3), dtype=torch.uint8, device=device)
    box = torch.zeros(batch_size, 128, 64, dtype=torch.uint8, device=device)
    box[:, 16:112, 16:48] = 255
    poses = joints, joints.flip(0)
    return condition_of(image, *poses, device=device, mask=box, background=image, hole=box)


def seconds_of(task: Callable[[], object], times: int, device: torch.device) -> float:
    """Return seconds per call, the work on the device included, after two calls unmeasured."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(2):
        task()
    wait()
    began = time.perf_counter()
    for _ in range(times):
        task()
    wait()
    return (time.perf_counter() - began) / times


def bare(sampler: Sampler, rows: Images, batch_size: int) -> float:
    """Return seconds per image of the tuned network alone, on inputs that lie on the device."""
    condition, device = batch_of(rows, batch_size, sampler.device), sampler.device
    generate_batch = sampler.generator()
    batches = max(1, len(rows) // batch_size)
    random = RowRandom.numbered(batch_size, device)
    with sampling_mode(device, fast_precision(device)):
        seconds = seconds_of(lambda: generate_batch(condition, random), batches, device)
    return seconds / batch_size


def flops_per_image(network: PoseTransfer, rows: Images, device: torch.device) -> int:
    """Return the floating-point operations of one image, a multiply and an add being two."""
    counter = FlopCounterMode(display=False)
    # The counter does not know the fused attention of CPUs; plain products it does.
    with counter, torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
        random = RowRandom.numbered(1, device)
        network.generate(batch_of(rows, 1, device), random, network.Options())
    return counter.get_total_flops()


def convolution_rate(device: torch.device, batch_size: int) -> float:
    """Return the best operations per second of some convolutions, in the tuned arithmetic."""
    dtype = torch.bfloat16 if has_bf16(device) else torch.float32
    best = 0.0
    for channels, height, width in CONVOLUTIONS:
        layer = torch.nn.Conv2d(channels, channels, 3, padding=1).to(device, dtype)
        layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
        shape = (batch_size, channels, height, width)
        images = torch.randn(shape, device=device, dtype=dtype)
        images = images.to(memory_format=torch.channels_last)
        flops = 2 * 9 * channels**2 * height * width * batch_size
        with torch.inference_mode():
            times = 20 if device.type == "cuda" else 2
            best = max(best, flops / seconds_of(lambda: layer(images), times, device))  # noqa: B023
    return best


def random_weights(name: str, folder: Path) -> str:
    """Write weights of a system at its published size as they are before training."""
    system = generators.system(name)
    # No loss is computed here, so no feature network is needed.
    known = {"features": "none"} if "features" in system.Config.model_fields else {}
    config = system.Config(**known)
    torch.manual_seed(0)
    network = system(config)
    header = store.Header(
        generator=name, config=config.model_dump(mode="json"), facts={"trained": "never"}
    )
    store.save_weights(network.sampling_state(), folder / "random.safetensors", header)
    return str(folder / "random.safetensors")


def whole(settings: GenerateSettings) -> float:
    """Return seconds per image of ``augment generate``, from the settings to the manifest."""
    shutil.rmtree(str(settings.out), ignore_errors=True)
    began = time.perf_counter()
    generate(settings, Console(quiet=True))
    seconds = time.perf_counter() - began
    return seconds / read_synthetic(settings.out).table.num_rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="images table")
    parser.add_argument("--weights", default="patn-market1501")
    parser.add_argument("--random", metavar="SYSTEM", help="untrained weights of published size")
    parser.add_argument("--per-id", type=int, default=2, help="size of the whole job")
    parser.add_argument("--count", type=int, default=256, help="images of the bare network")
    parser.add_argument("--plain-count", type=int, default=256, help="images of the plain way")
    parser.add_argument("--batch-size", type=int, default=0, help="0: 16 on a CPU, 256 on a GPU")
    parser.add_argument("--compile", choices=("yes", "no"), default="no")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    TableFiles.add_to(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.random is not None:
            options.weights = random_weights(options.random, Path(folder))
        show(options, Path(folder))


def show(options: argparse.Namespace, folder: Path) -> None:
    """Measure and print."""
    device = pick_device(options.device)
    batch_size = options.batch_size or (256 if device.type == "cuda" else 16)
    images = io.read_images(options.images)
    slow = store.load(options.weights, device).eval()
    rows = posed_rows(images, max(options.count, batch_size), slow)
    slow_rows = posed_rows(images, options.plain_count, slow)
    flops = flops_per_image(slow, rows, device)
    fast = prepare_for_sampling(store.load(options.weights, device), fast_precision(device))
    sampler = Sampler(fast, device, fast.Options(), options.compile == "yes")
    settings = GenerateSettings(
        images=options.images,
        weights=options.weights,
        per_id=options.per_id,
        batch_size=batch_size,
        device=str(device),
        compile=options.compile,
        out=folder / "out",
    )
    times: dict[str, list[float]] = {"plain": [], "bare": [], "whole": []}
    rates: list[float] = []
    for _ in range(options.repeats):
        times["plain"].append(plain(slow, slow_rows, folder, device))
        rates.append(convolution_rate(device, batch_size))
        times["bare"].append(bare(sampler, rows, batch_size))
        times["whole"].append(whole(settings))
    speed = {name: 1 / median(values) for name, values in times.items()}
    rate = median(rates)
    arithmetic = fast_precision(device)
    compiled = "compiled" if sampler.compiled else "not compiled"
    about = (
        f"{device_class(device)}, {torch.get_num_threads()} CPU threads, batch {batch_size}, "
        f"{arithmetic}, {compiled}, {len(people_of(images)):,} people x {options.per_id}"
    )
    ways = {"plain": "plain way", "bare": "bare tuned network", "whole": "augment generate"}
    rows = [
        [
            label,
            Number(speed[name], ".1f"),
            Number(speed[name] / speed["plain"]),
            Number(speed[name] / speed["bare"], ".3f"),
            Number(speed[name] * flops / rate, ".3f"),
        ]
        for name, label in ways.items()
    ]
    heads = ["way", "img/s", "of the plain way", "of the bare network", "of the convolutions' rate"]
    table = Table.of(heads, rows, "lrrrr")
    text = (
        f"{about}\n\n{table.to_markdown(padded=True)}\n\n{flops / 1e9:.2f} GFLOP per image; "
        f"convolutions here reach {rate / 1e12:.3f} TFLOP/s\n"
    )
    if device.type == "cuda":
        most = torch.cuda.max_memory_allocated(device) / 2**30
        text += f"most GPU memory in use {most:.2f} GiB\n"
    print(text, end="")
    TableFiles.of_options(options).write(text, [table])


def people_of(images: Images) -> set[str]:
    """Return the people of the whole job."""
    return set(images.only("train").strings("person_id"))


if __name__ == "__main__":
    main()
