#!/usr/bin/env python
"""Images per second of re-ID training: torchreid's own engine against ours.

Both train the same network from the same weights on the same images for the same number of steps,
one after the other in one run. torchreid: ImageSoftmaxEngine, its data manager and transforms,
float32. Ours: everything that 'reid train' does between reading the table and the last step, the
decoding of every image included. With --accuracy both are also scored on the test people by our
evaluator, over several seeds: a seed's two runs start from the same weights, and what tells them
apart is the mean of their differences beside its standard error. With --scenes ours is held against
itself: steps with --augmentation.scene 0.5, and with --scene-added 0, in turn with steps without.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev

import numpy as np
import torch
from torch import nn

from manifests.compute.devices import pick_device
from manifests.compute.precision import settled_precision
from manifests.datasets.market1501 import index
from manifests.io import Images, read_images, write_images
from manifests.masks import mask_from_joints, read_masks, resize_mask
from manifests.people.dataset import SampleSettings, draw_data_set
from manifests.pixels import read_all
from manifests.runtime.console import Console
from manifests.runtime.tables import Cell, Number, Table, TableFiles
from manifests.scenes import Scenes, take_apart
from manifests.schema import JUNK
from reid.data.augmentation import Augmentation
from reid.data.dataset import load_training_set, select
from reid.data.labels import labels_of
from reid.evaluation.ranking import distance_of, rank
from reid.models import torchreid_adapter
from reid.models.backbone import BackboneOptions
from reid.models.features import embed
from reid.models.network import ReidNetwork, build_network
from reid.training.batches import Batches, Destination
from reid.training.loop import Trainer, learning_rate, make_optimizer
from reid.training.settings import TrainSettings

QUIET = Console(quiet=True)
TRANSFORMS = ("random_flip", "random_crop", "random_erase")


@dataclass(frozen=True, slots=True)
class Trained:
    """A network after the last step, and how long that took."""

    network: ReidNetwork
    seconds: float


def settings_of(options: argparse.Namespace, images: Path, num_images: int) -> TrainSettings:
    """Return the same training for both: whole epochs of whole batches, torchreid's optimiser."""
    batch_size = min(options.batch_size, num_images)
    return TrainSettings(
        images=images,
        out=images.parent,
        model=options.model,
        height=options.height,
        width=options.height // 2,
        batch_size=batch_size,
        steps=options.epochs * (num_images // batch_size),
        optimizer="amsgrad",
        learning_rate=1.5e-3,
        weight_decay=5e-4,
        schedule="cosine",
        warmup=0.0,
        augmentation=Augmentation(flip=0.5, pad=8, erase=0.5),
        precision=settled_precision(options.precision, pick_device(options.device)),
        device=options.device,
        compile=options.compile,
        workers=options.batch_threads,
    )


def drawn_network(settings: TrainSettings, num_people: int, seed: int) -> ReidNetwork:
    """Return the network with the weights of a seed, in training mode."""
    torch.manual_seed(seed)
    network = build_network(
        settings.model,
        BackboneOptions(num_people, settings.height, settings.width),
        neck="none",
        with_features=False,
    )
    network.module.train()
    return network


def train_theirs(images: Images, settings: TrainSettings, workers: int, seed: int) -> Trained:
    """Train with torchreid's engine; building the data manager is not timed."""
    train = images.only("train")
    people = sorted(set(train.strings("person_id")))
    label = {person: number for number, person in enumerate(people)}
    names, cameras = train.strings("person_id"), train.table["camera_id"].to_pylist()
    rows = [
        (str(train.file(row)), label[name], camera)
        for row, (name, camera) in enumerate(zip(names, cameras, strict=True))
    ]
    device = pick_device(settings.device)
    network = drawn_network(settings, len(people), seed).to(device)
    optimizer = make_optimizer(network.module, settings)
    loading = torchreid_adapter.Loading(
        settings.height, settings.width, settings.batch_size, workers, TRANSFORMS
    )
    engine = torchreid_adapter.image_engine(
        network.module, optimizer, rows, loading, use_gpu=device.type == "cuda"
    )
    per_epoch = len(rows) // settings.batch_size

    def set_rate(epoch: int) -> None:
        # torchreid sets the rate once per epoch; that of its middle has the mean of ours.
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(epoch * per_epoch + per_epoch // 2, settings)

    warm_up(network.module, settings, device, torch.float32)
    began = time.perf_counter()
    torchreid_adapter.train_epochs(engine, settings.steps // per_epoch, set_rate)
    synchronize(device)
    return Trained(network, time.perf_counter() - began)


def train_ours(images: Images, settings: TrainSettings, seed: int) -> Trained:
    """Train as 'reid train' does; reading the table and drawing weights is not timed."""
    settings = settings.model_copy(update={"seed": seed})
    selection = select(images, None, real_fraction=1.0, num_validation_people=0, data_seed=0)
    num_people = len(set(selection.train.strings("person_id")))
    device = pick_device(settings.device)
    trainer = Trainer(drawn_network(settings, num_people, seed), settings, device)
    kind = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    warm_up(trainer.network.module, settings, device, kind)
    began = time.perf_counter()
    data = load_training_set(selection, None, (settings.width, settings.height))
    batches = Batches(data, settings, Destination(device), 0)
    torchreid_adapter.train(trainer.network.module, batches, trainer.update)
    synchronize(device)
    return Trained(trainer.network, time.perf_counter() - began)


def scenes_for(train: Images, pixels: np.ndarray, size: tuple[int, int]) -> Scenes:
    """Return people and streets by the masks of the table, or by masks drawn around the joints."""
    masks, known = read_masks(train, size)
    if not known.any():
        own = zip(train.table["width"].to_pylist(), train.table["height"].to_pylist(), strict=True)
        drawn = [mask_from_joints(*one) for one in zip(train.keypoints(), own, strict=True)]
        masks = np.stack([resize_mask(mask, size) for mask in drawn])
        known = np.array([mask.any() for mask in masks])
    return take_apart(pixels, masks, known)


def compare_scenes(
    images: Images, settings: TrainSettings, num_steps: int, repeats: int
) -> tuple[str, Table]:
    """Return the speed of steps with new streets over that of steps without, taken in turns.

    With what it was measured by, in words.
    """
    selection = select(images, None, real_fraction=1.0, num_validation_people=0, data_seed=0)
    size = (settings.width, settings.height)
    data = load_training_set(selection, None, size)
    assert isinstance(data.pixels, np.ndarray), "all in memory without a bound"
    scenes = scenes_for(selection.train, data.pixels, size)
    device = pick_device(settings.device)
    network = drawn_network(settings, len(data.people), 0)
    trainer = Trainer(network, settings, device)
    swapped = settings.augmentation.model_copy(update={"scene": 0.5})
    plans = {
        "plain": settings,
        "--augmentation.scene 0.5": settings.model_copy(update={"augmentation": swapped}),
        "--scene-added 0": settings.model_copy(update={"scene_added": 0}),
    }
    batches = {
        name: Batches(data, plan, Destination(device), 0, scenes) for name, plan in plans.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in plans}
    for turn in range(repeats + 1):
        for name, source in batches.items():
            synchronize(device)
            began = time.perf_counter()
            for step in range(turn * num_steps, (turn + 1) * num_steps):
                trainer.update(source.batch(step))
            synchronize(device)
            seconds[name].append(time.perf_counter() - began)
    # The first turn warms up.
    plain = seconds.pop("plain")[1:]
    about = (
        f"{settings.model} {settings.height}x{settings.width}, batch {settings.batch_size}, "
        f"{device.type}, {torch.get_num_threads()} threads, {settings.precision}; plain "
        f"{num_steps * settings.batch_size / median(plain):.1f} img/s; {repeats} turns of "
        f"{num_steps} steps"
    )
    rows: list[list[Cell]] = []
    for name, values in seconds.items():
        ratios = sorted(old / new for old, new in zip(plain, values[1:], strict=True))
        shown = (median(ratios), ratios[0], ratios[-1])
        rows.append([name, *(Number(ratio, ".3f") for ratio in shown)])
    return about, Table.of(["steps", "speed / plain", "least", "most"], rows, "lrrr")


def warm_up(
    network: nn.Module, settings: TrainSettings, device: torch.device, kind: torch.dtype
) -> None:
    """Run one batch forward and back, so that no kernel is built while the clock runs."""
    saved = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.zeros(settings.batch_size, 3, settings.height, settings.width, device=device)
    with torch.autocast(device.type, kind, enabled=kind != torch.float32):
        outputs = network(images.to(memory_format=torch.channels_last))
    outputs.float().sum().backward()
    network.zero_grad(set_to_none=True)
    network.load_state_dict(saved)
    synchronize(device)


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def mean_average_precision(network: ReidNetwork, images: Images, settings: TrainSettings) -> float:
    """Return the score on the test people by our evaluator, the same for both."""
    query, gallery = images.only("query"), images.only("gallery")
    kept = [row for row, name in enumerate(gallery.strings("person_id")) if name != JUNK]
    gallery = gallery.take(torch.tensor(kept).numpy())
    of_query, of_gallery = (
        embed(network, read_all(part, (settings.width, settings.height)), "test", QUIET)
        for part in (query, gallery)
    )
    distances = distance_of(of_query, of_gallery, "cosine")
    ranking = rank(distances, labels_of(query), labels_of(gallery))
    return ranking.mean_average_precision


def made_up_people(folder: Path, options: argparse.Namespace) -> Path:
    """Draw people and return their images table."""
    draw_data_set(
        folder / "people", SampleSettings(people=options.people, test_people=options.test_people)
    )
    images, _ = index(folder / "people")
    write_images(images, folder / "images.parquet")
    return folder / "images.parquet"


def compare_engines(
    images: Images, settings: TrainSettings, options: argparse.Namespace
) -> tuple[str, Table]:
    """Return images per second of both and their ratio; with --accuracy the scores over seeds."""
    num_images = settings.steps * settings.batch_size
    runs = options.seeds if options.accuracy else options.repeats
    seconds: dict[str, list[float]] = {"torchreid": [], "ours": []}
    scores: dict[str, list[float]] = {"torchreid": [], "ours": []}
    for seed in range(runs):
        trained = {
            "torchreid": train_theirs(images, settings, options.workers, seed),
            "ours": train_ours(images, settings, seed),
        }
        for name, result in trained.items():
            seconds[name].append(result.seconds)
            if options.accuracy:
                score = 100 * mean_average_precision(result.network, images, settings)
                scores[name].append(score)
                print(f"seed {seed} {name:9} mAP {score:5.2f}", file=sys.stderr, flush=True)
    about = (
        f"{options.model} {settings.height}x{settings.width}, batch {settings.batch_size}, "
        f"{num_images:,} images a run, {pick_device(settings.device).type}, "
        f"{torch.get_num_threads()} threads, ours {settings.precision}; median of {runs}"
    )
    speed = {name: num_images / median(values) for name, values in seconds.items()}
    rows: list[list[Cell]] = [[name, Number(value, ".1f")] for name, value in speed.items()]
    rows.append(["ratio", Number(speed["ours"] / speed["torchreid"])])
    heads = ["engine", "img/s"]
    if options.accuracy and runs > 1:
        heads.append("mAP")
        for row, values in zip(rows, scores.values(), strict=False):
            row.append(Number(mean(values), deviation=stdev(values)))
        rows[-1].append("")
        gains = [new - old for old, new in zip(*scores.values(), strict=True)]
        error = stdev(gains) / math.sqrt(runs)
        about += f"; mAP of ours less torchreid's, by seed {mean(gains):+5.2f}, standard error "
        about += f"{error:.2f}"
    return about, Table.of(heads, rows, "l" + "r" * (len(heads) - 1))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="table of images; else people are made up")
    parser.add_argument("--people", type=int, default=100, help="made-up train people")
    parser.add_argument("--test-people", type=int, default=50)
    parser.add_argument("--model", default="osnet_x0_25")
    parser.add_argument("--height", type=int, default=256, help="width is half of it")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=4, help="of torchreid; 4 is its default")
    parser.add_argument("--batch-threads", type=int, default=0, help="of ours (reid --workers)")
    parser.add_argument("--precision", choices=("auto", "bf16", "float32"), default="auto")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--scenes", action="store_true", help="new streets against none")
    parser.add_argument("--turn-steps", type=int, default=10, help="of --scenes")
    parser.add_argument("--accuracy", action="store_true", help="score both as well")
    parser.add_argument("--seeds", type=int, default=3, help="of --accuracy")
    TableFiles.add_to(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.images or made_up_people(Path(folder), options)
        images = read_images(path)
        settings = settings_of(options, path, len(images.only("train")))
        about, table = (
            compare_scenes(images, settings, options.turn_steps, options.repeats)
            if options.scenes
            else compare_engines(images, settings, options)
        )
    text = f"{about}\n\n{table.to_markdown(padded=True)}\n"
    print(text, end="")
    TableFiles.of_options(options).write(text, [table])


if __name__ == "__main__":
    main()
