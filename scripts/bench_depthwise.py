#!/usr/bin/env python
"""Training steps on a CPU with all layers in bf16 against slow depthwise convolutions in float32.

Both are the same network on the same random images, in turn in one process; what is printed are the
median times of a step (forward and backward pass) and their ratio. The ranking may differ from one
processor to another: it depends on what oneDNN has for it.
"""

from __future__ import annotations

import argparse
import copy
import time
from statistics import median

import torch
from torch import nn

from reid.models.backbone import BackboneOptions
from reid.models.network import build_network
from reid.training.depthwise import depthwise_in_float32


def seconds(network: nn.Module, images: torch.Tensor) -> float:
    """Return how long one step in bf16 takes."""
    begin = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images)
    logits.float().sum().backward()
    return time.perf_counter() - begin


def main() -> None:
    """Print a line for every network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["torchvision/mobilenet_v2"])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--height", type=int, default=128, help="width is half of it")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    shape = options.batch_size, 3, options.height, options.height // 2
    images = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    size = BackboneOptions(
        num_people=751, height=options.height, width=options.height // 2, last_stride=1
    )
    for model in options.models:
        built = build_network(model, size, neck="none", with_features=False).module
        built.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        mixed = copy.deepcopy(built)
        depthwise_in_float32(mixed)
        times: dict[str, list[float]] = {"bf16": [], "mixed": []}
        for turn in range(options.repeats + 1):
            for name, network in (("bf16", built), ("mixed", mixed)):
                taken = seconds(network.train(), images)
                if turn:
                    times[name].append(taken)
        before, after = median(times["bf16"]), median(times["mixed"])
        print(
            f"{model}: bf16 {before:.3f} s, slow depthwise convolutions in float32 {after:.3f} s, "
            f"{before / after:.2f} times as fast ({torch.get_num_threads()} threads)"
        )


if __name__ == "__main__":
    main()
