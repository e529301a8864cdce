#!/usr/bin/env python
"""Time of one SSIM: scikit-image, image by image, against ours in batches; under half a minute."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from skimage.metrics import structural_similarity

from augment.quality.ssim import ssim
from manifests.runtime.tables import Number, Table, TableFiles

SECONDS = 3.0


def images(seed: int, count: int) -> torch.Tensor:
    """Return images of 64 x 128 whose neighbouring pixels are alike."""
    noise = np.random.default_rng(seed).integers(0, 256, (count, 3, 128, 64))
    return torch.from_numpy(((noise + np.roll(noise, 1, -1)) // 2).astype(np.uint8))


def seconds_per_image(run: Callable[[], object], count: int, device: torch.device) -> float:
    """Return the time of the fastest of several runs, divided by its images."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    run()
    times: list[float] = []
    began = time.perf_counter()
    while not times or time.perf_counter() - began < SECONDS:
        wait()
        start = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - start)
    return min(times) / count


def by_scikit_image(generated: torch.Tensor, target: torch.Tensor) -> list[float]:
    """Return the published evaluator's scores."""
    similarity: Any = structural_similarity
    return [
        similarity(
            a,
            b,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            channel_axis=0,
            data_range=int(a.max()) - int(a.min()),
        )
        for a, b in zip(generated.numpy(), target.numpy(), strict=True)
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    TableFiles.add_to(parser)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    count = arguments.batch_size or (1024 if device.type == "cuda" else 32)
    generated, target = images(0, count), images(1, count)
    few = generated[:32], target[:32]
    expected = np.array(by_scikit_image(*few))
    slow = seconds_per_image(lambda: by_scikit_image(*few), len(expected), torch.device("cpu"))
    threads = torch.get_num_threads()
    rows: list[list[str | Number]] = [
        ["scikit-image, float64, one CPU core", Number(slow * 1e3, ".4f"), "", ""]
    ]
    generated, target = generated.to(device), target.to(device)
    for dtype in (torch.float64, torch.float32):
        scores = ssim(generated, target, dtype=dtype)[: len(expected)].cpu().numpy()
        fast = seconds_per_image(
            lambda dtype=dtype: ssim(generated, target, dtype=dtype), count, device
        )
        difference = float(np.abs(scores - expected).max())
        rows.append(
            [
                f"ours, {dtype}, {device.type}, batch {count}, {threads} CPU threads",
                Number(fast * 1e3, ".4f"),
                Number(slow / fast, ".1f"),
                Number(difference, ".1e"),
            ]
        )
    table = Table.of(["way", "ms/image", "times as fast", "largest difference"], rows, "lrrr")
    text = table.to_markdown(padded=True) + "\n"
    print(text, end="")
    TableFiles.of_options(arguments).write(text, [table])


if __name__ == "__main__":
    main()
