"""How much faster ``augment train`` makes a step of PATN's published recipe than the plain way.

    python scripts/bench_train.py --images images.parquet

(a) the plain way, written out below as the published code does it: float32, channels outermost,
    images decoded from files by a DataLoader, heatmaps read from .npy files that were made before,
    torch's own padding and dropout, backward() through everything, Adam without fusion, a list of
    past fakes, and three .item() calls a step;
(b) the loop of ``augment train`` in the arithmetic that it would choose on this machine.

Both train the same network from the same weights on the same pairs in one process. First, without
dropout, in float32 and at a tenth of the learning rate, the losses of the first steps must be
equal; the script ends if they are not.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from augment.generators.patn import Patn
from augment.nets.dropout import Dropout
from augment.nets.padding import ReflectionPad
from augment.objectives.two_discriminators import FEATURE_LAYER
from augment.training.inputs import compile_children
from augment.training.loop import LoopSettings, Trainer
from augment.training.pairs import TrainingImages
from manifests import io, keypoints, pixels
from manifests.compute.devices import device_class, pick_device
from manifests.compute.precision import fast_precision
from manifests.runtime.random_numbers import random_bits
from manifests.runtime.tables import Number, Table, TableFiles

EQUAL_LOSSES = 1e-4
"""Relative; float32 sums in another order."""

EQUAL_RATE = 2e-5
"""Learning rate of that check. Adam makes a whole update of a gradient that is rounding alone: at
the published 2e-4 two equal ways part by 2e-5 after two steps and by 1e-3 after ten."""

NUM_EQUAL_STEPS = 10

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
"""Source, its heatmaps, target, its heatmaps."""


class PlainPairs(Dataset[Batch]):
    """Pairs of image files and of the .npy files beside them."""

    def __init__(self, rows: np.ndarray, files: list[Path], heatmaps: list[Path]) -> None:
        self._rows, self._files, self._heatmaps = rows, files, heatmaps

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Batch:
        source, target = (int(row) for row in self._rows[index])
        return (*self._one(source), *self._one(target))

    def _one(self, row: int) -> tuple[Tensor, Tensor]:
        with Image.open(self._files[row]) as file:
            image = np.asarray(file.convert("RGB"), np.float32)
        heatmaps = np.load(self._heatmaps[row])
        return (
            torch.from_numpy(image.transpose(2, 0, 1) / np.float32(127.5) - 1),
            torch.from_numpy(heatmaps.transpose(2, 0, 1)),
        )


class PlainPool:
    """Past fakes in a list; the draws are those of ``ImagePool``."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._images: list[Tensor] = []

    def query(self, fakes: Tensor) -> Tensor:
        """Return as many images, some of them older."""
        if self._size == 0:
            return fakes
        exchange = torch.rand(len(fakes)) > 0.5
        positions = torch.randint(self._size, (len(fakes),))
        returned: list[Tensor] = []
        for fake, exchanged, position in zip(fakes, exchange, positions, strict=True):
            if len(self._images) < self._size:
                self._images.append(fake.clone())
                returned.append(fake)
            elif bool(exchanged):
                returned.append(self._images[int(position)])
                self._images[int(position)] = fake.clone()
            else:
                returned.append(fake)
        return torch.stack(returned)


class Plain:
    """The published training step on torch's own layers."""

    def __init__(self, network: Patn, pairs: DataLoader[Batch], device: torch.device) -> None:
        self.network = _with_torch_layers(copy.deepcopy(network)).to(device).train()
        self._pairs = pairs
        self._device = device
        self._pools = PlainPool(network.config.pool_size), PlainPool(network.config.pool_size)
        discriminators = self.network.discriminators
        generator = [
            value
            for name in network.sampling
            for value in self.network.get_submodule(name).parameters()
        ]
        both = discriminators.appearance, discriminators.shape
        self._optimizers = [
            torch.optim.Adam(
                values, network.config.learning_rate, betas=(0.5, 0.999), foreach=False, fused=False
            )
            for values in (generator, *(list(one.parameters()) for one in both))
        ]  # fmt: skip

    def steps(self) -> Iterator[dict[str, float]]:
        """Make a step for every batch; yield its losses."""
        for step, batch in enumerate(self._pairs):
            # The seed of the loop's step, so that both pools draw the same.
            torch.manual_seed(int(random_bits(0, "step", counter=step)[0] >> 1))
            yield self._step(*(part.to(self._device) for part in batch))

    def _step(
        self, source: Tensor, pose: Tensor, target: Tensor, target_pose: Tensor
    ) -> dict[str, float]:
        network, c = self.network, self.network.config
        discriminators, half_weight = (
            network.discriminators,
            0.5 * network.config.weight_adversarial,
        )
        # The interface draws its own heatmaps.
        drawn = network._drawn  # pyright: ignore[reportPrivateUsage] # noqa: SLF001
        fake = drawn(source, torch.cat([pose, target_pose], 1))
        of_generator, of_appearance, of_shape = self._optimizers

        of_generator.zero_grad()
        shape = discriminators.shape(torch.cat([fake, target_pose], 1))
        appearance = discriminators.appearance(torch.cat([fake, source], 1))
        loss = c.weight_l1 * F.l1_loss(fake, target)
        if discriminators.features is not None:
            real_features = discriminators.features(target)[FEATURE_LAYER].detach()
            perceptual = F.l1_loss(discriminators.features(fake)[FEATURE_LAYER], real_features)
            loss = loss + c.weight_perceptual * perceptual
        loss = loss + half_weight * (
            _adversarial_loss(shape, 1.0) + _adversarial_loss(appearance, 1.0)
        )
        loss.backward()
        of_generator.step()
        losses = {"generator": loss.item()}

        updates = (
            ("appearance", of_appearance, discriminators.appearance, self._pools[0], source),
            ("shape", of_shape, discriminators.shape, self._pools[1], target_pose),
        )
        for name, optimizer, discriminator, pool, beside in updates:
            optimizer.zero_grad()
            old = pool.query(torch.cat([fake, beside], 1).detach())
            real = _adversarial_loss(discriminator(torch.cat([target, beside], 1)), 1.0)
            loss = half_weight * (real + _adversarial_loss(discriminator(old), 0.0))
            loss.backward()
            optimizer.step()
            losses[name] = loss.item()
        return losses


def _adversarial_loss(logits: Tensor, truth: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, truth))


def _with_torch_layers(network: Patn) -> Patn:
    """Exchange our padding and dropout for torch's."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ReflectionPad):
                setattr(parent, name, nn.ReflectionPad2d(child.pixels))
            elif isinstance(child, Dropout):
                setattr(parent, name, nn.Dropout(child.dropped / 256))
    return network


class Bench:
    """One data set, on which both ways train the same network."""

    def __init__(
        self, images: io.Images, folder: Path, device: torch.device, num_workers: int = 2
    ) -> None:
        self._device = device
        self._num_workers = num_workers
        joints = images.keypoints()
        self._files = [images.file(row) for row in range(len(images))]
        decoded = pixels.read_all(images, (64, 128))
        self._data = TrainingImages(decoded, joints, images.strings("person_id"), device)
        self._heatmaps = [folder / f"{row}.npy" for row in range(len(images))]
        for path, pose in zip(self._heatmaps, joints, strict=True):
            np.save(path, plain_heatmaps(pose))

    def plain(self, network: Patn, num_steps: int) -> Plain:
        """Return the plain way, ready for so many steps."""
        size = network.config.batch_size
        rows = [self._data.index.draw(0, step, size) for step in range(num_steps)]
        pairs = PlainPairs(np.concatenate(rows), self._files, self._heatmaps)
        loader = DataLoader(pairs, size, num_workers=self._num_workers)
        return Plain(network, loader, self._device)

    def ours(self, network: Patn, settings: LoopSettings) -> Trainer:
        """Return the loop of ``augment train``."""
        trained = copy.deepcopy(network).to(self._device)
        if settings.compile:
            compile_children(trained)
        return Trainer(trained, self._data, settings, self._device)

    def largest_difference(self, network: Patn, num_steps: int) -> float:
        """Return the largest relative difference of the losses of the first steps.

        Raises:
            SystemExit: If it is above ``EQUAL_LOSSES``.
        """
        ours = self.ours(network, LoopSettings(precision="float32"))
        plain = self.plain(network, num_steps)
        largest = 0.0
        for theirs, terms in zip(plain.steps(), ours.steps(), strict=False):
            found = phase_totals(terms)
            for name, value in theirs.items():
                largest = max(largest, abs(found[name] - value) / abs(value))
        if not largest <= EQUAL_LOSSES:
            sys.exit(f"the losses differ by {largest:.1e} of their size, expected {EQUAL_LOSSES}")
        return largest

    def seconds(self, steps: Iterator[object], warmup: int, count: int) -> float:
        """Return seconds per step after some that do not count."""
        for _ in range(warmup):
            next(steps)
        self._wait()
        began = time.perf_counter()
        for _ in range(count):
            next(steps)
        self._wait()
        return (time.perf_counter() - began) / count

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def phase_totals(terms: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the loss of each phase, the sum of its terms."""
    totals: dict[str, float] = {}
    for name, term in terms.items():
        phase = name.partition("/")[0]
        totals[phase] = totals.get(phase, 0.0) + float(term)
    return totals


def plain_heatmaps(joints: np.ndarray) -> np.ndarray:
    """Return the 18 heatmaps of a 128 x 64 image, as the published script draws and saves them."""
    rows, columns = np.mgrid[:128, :64]
    maps = np.zeros((128, 64, len(joints)), np.float32)
    for index, (x, y) in enumerate(joints):
        if not np.isnan(x):
            squares = (rows - y) ** 2 + (columns - x) ** 2
            maps[..., index] = np.exp(-squares / (2 * 6.0**2))
    return maps


def usable(images: io.Images, count: int) -> io.Images:
    """Return the first train images of the networks' size with shoulders and hips.

    Raises:
        SystemExit: If there are none.
    """
    train = images.only("train")
    sizes = zip(*(train.table[name].to_pylist() for name in ("width", "height")), strict=True)
    right = np.asarray([size == (64, 128) for size in sizes])
    rows = np.flatnonzero(right & keypoints.has_torso(train.keypoints()))[:count]
    if not len(rows):
        sys.exit("found no train image of 64 x 128 pixels with shoulders and hips")
    return train.take(rows)


def main() -> None:
    """Print the equality check and the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="images table")
    parser.add_argument("--width", type=int, default=64, help="of generator and discriminators")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--features", default="vgg19-random", choices=("none", "vgg19-random"))
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each repeat")
    parser.add_argument("--warmup", type=int, default=3, help="steps before that do not count")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="processes that decode (plain way)")
    parser.add_argument("--equal-steps", type=int, default=NUM_EQUAL_STEPS)
    parser.add_argument("--count", type=int, default=1_000, help="images to train on")
    parser.add_argument("--compile", action="store_true", help="compile our networks")
    parser.add_argument("--device", default="auto")
    TableFiles.add_to(parser)
    options = parser.parse_args()
    device = pick_device(options.device)
    config = Patn.Config(
        base_width=options.width,
        discriminator_width=options.width,
        features=options.features,
        batch_size=options.batch_size,
    )
    settings = LoopSettings(compile=options.compile)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        images = usable(io.read_images(options.images), options.count)
        bench = Bench(images, Path(folder), device, options.workers)
        check = {"dropout": 0.0, "learning_rate": EQUAL_RATE}
        exact = Patn(config.model_copy(update=check))
        difference = bench.largest_difference(exact, options.equal_steps)
        network = Patn(config)
        times: dict[str, list[float]] = {"plain": [], "ours": []}
        for _ in range(options.repeats):
            plain = bench.plain(network, options.warmup + options.steps)
            times["plain"].append(bench.seconds(plain.steps(), options.warmup, options.steps))
            ours = bench.ours(network, settings)
            times["ours"].append(bench.seconds(ours.steps(), options.warmup, options.steps))
    rate = {name: 1 / median(values) for name, values in times.items()}
    about = (
        f"{device_class(device)}, {torch.get_num_threads()} threads; PATN of width "
        f"{options.width}, batch {options.batch_size}, features {options.features}; losses of the "
        f"first {options.equal_steps} steps equal to {difference:.1e} of their size."
    )
    rows: list[list[str | Number]] = [
        [label, Number(rate[name], ".3f"), Number(options.batch_size * rate[name], ".1f")]
        for name, label in (
            ("plain", "plain: float32"),
            ("ours", f"augment train: {fast_precision(device)}"),
        )
    ]
    rows.append(["ratio", Number(rate["ours"] / rate["plain"]), ""])
    table = Table.of(["way", "steps/s", "pairs/s"], rows, "lrr")
    text = f"{about}\n\n{table.to_markdown()}\n"
    print(text, end="")
    TableFiles.of_options(options).write(text, [table])


if __name__ == "__main__":
    main()
