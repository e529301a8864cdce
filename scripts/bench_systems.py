#!/usr/bin/env python
"""Size and speed of every system at its published width, as a table in Markdown.

Random weights, the tuned network that ``augment generate`` runs, one process, all systems in turn
in every repeat, so that a machine that slows down slows them all. The last columns replay exactly
the convolutions of a forward pass, alone: what the network takes beyond them is overhead.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from augment import generators
from augment.generation.sampler import prepare_for_sampling, sampling_mode
from augment.interface.condition import Background, Condition
from augment.interface.randomness import RowRandom
from augment.interface.system import PoseTransfer
from augment.pose.pose import Pose
from manifests.compute.devices import device_class, pick_device
from manifests.compute.precision import Precision, fast_precision
from manifests.runtime.tables import Number, Table, TableFiles

BATCH_SIZES: Final = {"cpu": 16, "cuda": 256}

Call = Callable[[], object]


def build(name: str) -> PoseTransfer:
    """Return a system at its published size with random weights, without what training needs."""
    torch.manual_seed(0)
    network = generators.system(name)()
    for child, _ in list(network.named_children()):
        if child not in network.sampling:
            delattr(network, child)
    return network


def condition_of(count: int, network: PoseTransfer, device: torch.device) -> Condition:
    """Return made-up inputs with joints anywhere in the image."""
    height, width = network.image_size
    numbers = torch.Generator().manual_seed(0)
    image = 2 * torch.rand(count, 3, height, width, generator=numbers) - 1
    scale = torch.tensor([width - 1, height - 1])
    poses = [Pose((torch.rand(count, 18, 2, generator=numbers) * scale).to(device)) for _ in "st"]
    source, target = poses
    image = image.to(device, memory_format=torch.channels_last)
    box = torch.zeros(count, 1, height, width, device=device)
    box[..., height // 8 : -height // 8, width // 4 : -width // 4] = 1
    return Condition(image, source, target, image, box, Background(image.flip(-1), box))


def generate(network: PoseTransfer, condition: Condition) -> torch.Tensor:
    """Return the images of a batch."""
    random = RowRandom.numbered(len(condition.image), condition.image.device)
    return network.generate(condition, random, network.Options())


def multiply_adds(network: PoseTransfer) -> int:
    """Return the multiply-adds of one image: convolutions, linear layers, attention products."""
    # The counter does not know the fused attention of CPUs; plain products it does.
    plain = sdpa_kernel(SDPBackend.MATH)
    with torch.inference_mode(), plain, FlopCounterMode(display=False) as counter:
        generate(network.eval(), condition_of(1, network, torch.device("cpu")))
    return counter.get_total_flops() // 2


class Recorder(TorchDispatchMode):
    """Notes the arguments of every convolution that runs while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions: list[tuple[Any, ...]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operation, and remember it if it is a convolution."""
        del types
        if func is torch.ops.aten.convolution.default:
            self.convolutions.append(args)
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True, slots=True)
class Runs:
    """What is timed of one system on one device."""

    whole: Call
    convolutions: Call


def runs_of(
    network: PoseTransfer, batch_size: int, device: torch.device, precision: Precision
) -> Runs:
    """Return the forward pass of a tuned network, and its convolutions alone."""
    condition = condition_of(batch_size, network, device)
    recorder = Recorder()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    # In inference mode the recorder would see each kind of convolution under a name of its own.
    with torch.no_grad(), autocast, recorder:
        generate(network, condition)

    def replay() -> None:
        for arguments in recorder.convolutions:
            torch.ops.aten.convolution.default(*arguments)

    return Runs(lambda: generate(network, condition), replay)


def seconds(call: Call, count: int, device: torch.device, precision: Precision) -> float:
    """Return the mean seconds of ``count`` calls after one that does not count."""
    with sampling_mode(device, precision):
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        for _ in range(count):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - began) / count


def measure(
    names: list[str], device: torch.device, batch_size: int, count: int, repeats: int
) -> dict[str, tuple[float, float]]:
    """Return (images a second, time of the whole over that of its convolutions) by system."""
    precision = fast_precision(device)
    runs: dict[str, Runs] = {}
    for name in names:
        network = prepare_for_sampling(build(name).to(device), precision)
        runs[name] = runs_of(network, batch_size, device, precision)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(
                (
                    seconds(run.whole, count, device, precision),
                    seconds(run.convolutions, count, device, precision),
                )
            )
    return {
        name: (
            batch_size / median(whole for whole, _ in pairs),
            median(whole / convolutions for whole, convolutions in pairs),
        )
        for name, pairs in times.items()
    }


def main() -> None:
    """Print the table."""
    learned = [name for name in generators.names() if generators.system(name).sampling]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--systems", nargs="+", default=learned)
    parser.add_argument("--batch-size", type=int, default=0, help="0: 16 on a CPU, 256 on a GPU")
    parser.add_argument("--count", type=int, default=5, help="batches of a measurement")
    parser.add_argument("--repeats", type=int, default=5)
    TableFiles.add_to(parser)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices.append(pick_device("cuda"))
    columns: list[dict[str, tuple[float, float]]] = []
    about: list[str] = []
    for device in devices:
        batch_size = options.batch_size or BATCH_SIZES[device.type]
        columns.append(measure(options.systems, device, batch_size, options.count, options.repeats))
        precision = fast_precision(device)
        about.append(
            f"{device.type.upper()}: {device_class(device)}, {torch.get_num_threads()} threads, "
            f"{precision}, batch {batch_size}, medians of {options.repeats}"
        )
    heads = [
        f"{head} {device.type.upper()}"
        for device in devices
        for head in ("img/s on", "time / its convolutions' on")
    ]
    rows: list[list[str | Number]] = []
    for name in options.systems:
        network = build(name)
        parameters = sum(value.numel() for value in network.parameters())
        speeds = [at[name] for at in columns]
        cells = [cell for speed, ratio in speeds for cell in (Number(speed, ".1f"), Number(ratio))]
        gmac = Number(multiply_adds(network) / 1e9, ".1f")
        rows.append([f"`{name}`", Number(parameters, ",.0f"), gmac, *cells])
    table = Table.of(["system", "parameters", "GMAC per image", *heads], rows)
    text = "\n".join([*about, f"load average before: {load:.1f}", "", table.to_markdown(), ""])
    print(text, end="")
    TableFiles.of_options(options).write(text, [table])


if __name__ == "__main__":
    main()
