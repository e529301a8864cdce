"""``augment evaluate``: networks, test pairs and metrics of image quality make one table.

Streams: a batch of pairs is read on a thread while the one before is generated, compressed as the
published evaluators did, and scored; nothing but sums and a number per pair and metric is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8, UInt64
from tyro.conf import arg

from augment.checkpoints import store
from augment.interface.condition import as_pixels, condition_of
from augment.interface.randomness import RowRandom
from augment.interface.system import PoseTransfer
from augment.pose.bank import joints_in
from augment.pose.pose import Pose
from augment.quality.differences import paired_differences
from augment.quality.masks import body_mask
from augment.quality.metric_selection import MetricSelection
from augment.quality.metrics import Metric, Sides, Views, as_byte_images
from augment.quality.pairs import annotation_order, check_pairs, read_pairs, sample_pairs
from augment.quality.protocol import Baseline, EvaluationProtocol
from augment.quality.strip import BLOCK_PX, through_jpeg, through_strip
from augment.quality.table import Result, Score
from manifests import pixels
from manifests.compute.devices import pick_device
from manifests.io import Images, read_images, write_bytes
from manifests.masks import read_masks
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.prefetch import prefetch
from manifests.runtime.tables import TableFiles
from manifests.runtime.thread_pool import thread_pool
from manifests.scenes import alpha_of, hole_of, rows_with_street, street

MARKET_SIZE = (64, 128)
"""Width and height of the images where no network says another size."""

NUM_JPEG_THREADS = 2
BATCHES_READ_EARLY = 1

BASELINE_NAMES: Mapping[Baseline, str] = {"copy": "copy the source", "target": "the target itself"}

ByteImages = UInt8[np.ndarray, "batch height width 3"]
Joints = Float[np.ndarray, "batch 18 2"]


class EvaluateSettings(TableFiles):
    """Measure image quality on the test pairs."""

    images: Path
    """Images table (made by 'augment index')."""
    weights: tuple[str, ...] = ()
    """Names of shipped weights, or files: a column each, and of several the differences from the
    first with their intervals; without any only baselines are scored."""
    root: Path | None = None
    """Where the images lie, if not where the table says."""
    device: str = "auto"
    """Where networks and metrics run: auto, cpu, cuda or cuda:N."""
    out: Path | None = None
    """JSON file that keeps the table."""
    as_json: Annotated[bool, arg(name="json")] = False
    """JSON instead of Markdown on standard output."""
    protocol: Annotated[EvaluationProtocol, arg(name="")] = EvaluationProtocol()
    """What is scored on which pairs."""


def evaluate(settings: EvaluateSettings, console: Console) -> Exit:
    """Score, show the table, and keep it.

    Raises:
        UserError: If there is nothing to score; see ``score_pairs`` for the rest.
    """
    if not settings.weights and not settings.protocol.baseline:
        raise UserError("found neither --weights nor --baseline, expected something to score")
    images = read_images(settings.images, settings.root)
    device = pick_device(settings.device)
    columns = [_column(weights) for weights in settings.weights]
    for column in columns:
        if columns.count(column) > 1:
            raise UserError(f"--weights: found two networks called '{column}', expected one each")
    networks = {
        column: store.load(weights, device)
        for column, weights in zip(columns, settings.weights, strict=True)
    }
    with pixels.naming_all_broken(images):
        result = score_pairs(images, networks, settings.protocol, device, console)
    if settings.out is not None:
        write_bytes(result.to_json().encode(), settings.out)
    console.show(result.to_json() if settings.as_json else result.to_markdown())
    settings.write(result.to_markdown(), result.tables())
    return Exit.DONE


def _column(weights: str) -> str:
    """Return what the table calls a network.

    >>> _column("patn-sample"), _column("runs/dptn/weights.safetensors")
    ('patn-sample', 'dptn')
    """
    path = Path(weights)
    # Every training calls its weights so.
    return path.resolve().parent.name if path.name == "weights.safetensors" else path.stem


def score_pairs(
    images: Images,
    networks: Mapping[str, PoseTransfer],
    protocol: EvaluationProtocol,
    device: torch.device | str = "cpu",
    console: Console | None = None,
) -> Result:
    """Return the scores of networks and baselines on the test pairs.

    Memory does not grow with the number of pairs, but for two integers a pair and a number for each
    metric and network. No value depends on the batch size beyond the networks' own rounding.

    Args:
        images: The table; its ``train`` rows are the real images of the Frechet distances.
        networks: By the name of their column; in evaluation mode, on ``device``.
        protocol: What is scored on which pairs.
        device: Where networks and metrics run.
        console: Where progress goes.

    Raises:
        UserError: If the table gives no pairs, an image cannot be read, or a network that the
            protocol names cannot be had. Metrics that it leaves out are named in the result.
    """
    console = console or Console(quiet=True)
    size = _size_of(networks)
    chosen = images.only(protocol.split)
    pairs, origin = _pairs(chosen, protocol)
    joints = joints_in(chosen, size)
    check_pairs(chosen, pairs, joints)
    if any(network.needs & {"mask", "background"} for network in networks.values()):
        pairs, origin = _with_masks(chosen, pairs, origin, size)
    if _may_be_mistaken_for_published(images, protocol):
        console.say(
            "these pairs are not the published ones of Market-1501, which follow the order of its "
            "annotation file; --pairs market-pairs-test.csv gives those"
        )
    num_with_mask = _num_with_mask(chosen, pairs[:, 1])
    selection = MetricSelection(
        protocol, images.only("train"), size, len(pairs), device, console, num_with_mask
    )
    factories, not_measured = selection.factories()
    subjects: dict[str, PoseTransfer | Baseline] = {
        **networks,
        **{BASELINE_NAMES[baseline]: baseline for baseline in protocol.baseline},
    }
    metrics: dict[str, list[Metric]] = {
        subject: [factory() for factory in factories] for subject in subjects
    }
    batches = _batches(chosen, pairs, joints, size, protocol.batch_size)
    with (
        thread_pool(NUM_JPEG_THREADS) as pool,
        console.progress("evaluate", len(pairs), "pair") as bar,
    ):
        for batch in prefetch(batches, BATCHES_READ_EARLY):
            for subject, generator in subjects.items():
                views = _views(_generated(generator, batch, device), batch, device, pool)
                for metric in metrics[subject]:
                    metric.update(views)
            bar.advance(len(batch.source))
    scores = [
        Score(subject, row)
        for subject in subjects
        for one in metrics[subject]
        for row in one.rows()
    ]
    return Result(
        tuple(scores),
        tuple(not_measured),
        len(pairs),
        origin,
        selection.networks(),
        len(pairs) - num_with_mask,
        paired_differences(
            {name: metrics[name] for name in networks},
            np.asarray(chosen.strings("person_id"))[pairs[:, 1]],
        ),
    )


def _pairs(
    images: Images, protocol: EvaluationProtocol
) -> tuple[Int64[np.ndarray, "pairs 2"], str]:
    """Return the rows of the pairs, and a phrase that says where they come from."""
    ids = images.strings("image_id")
    if protocol.pairs is not None:
        pairs = read_pairs(protocol.pairs, ids, protocol.count)
        return pairs, f"the first {len(pairs):,} of {protocol.pairs.name}"
    order, order_of = np.arange(len(images)), "the table"
    if protocol.annotation is not None:
        order, order_of = annotation_order(protocol.annotation, ids), protocol.annotation.name
    ordered = images.take(order)
    pairs = sample_pairs(ordered.strings("person_id"), ordered.keypoints(), protocol.count)
    return order[pairs], f"drawn by the published rule from the rows in the order of {order_of}"


def _num_with_mask(images: Images, rows: Int64[np.ndarray, " pairs"]) -> int:
    """Return how many of the rows have a person mask that is not empty."""
    masks: list[bytes | None] = images.table["mask"].to_pylist()
    shows_somebody = np.array([bool(mask and mask.strip(b"\0")) for mask in masks])
    return int(shows_somebody[rows].sum())


def _with_masks(
    images: Images, pairs: Int64[np.ndarray, "pairs 2"], origin: str, size: tuple[int, int]
) -> tuple[Int64[np.ndarray, "pairs 2"], str]:
    """Return the pairs of which both images have a mask, as some network needs, and the phrase."""
    needed, known = np.unique(pairs), np.zeros(len(images), bool)
    # Of an empty mask the street would hold the very person that is to be painted.
    known[needed] = rows_with_street(images.take(needed), size)
    complete = known[pairs].all(axis=1)
    if not complete.any():
        raise UserError(
            f"test pairs: found no mask for both images in {len(pairs):,} pairs, which a network "
            "needs; 'augment detect --masks' adds them"
        )
    left_out = int((~complete).sum())
    said = f"; {left_out:,} pairs without a mask of both images left out" if left_out else ""
    return pairs[complete], origin + said


def _may_be_mistaken_for_published(images: Images, protocol: EvaluationProtocol) -> bool:
    """Return whether somebody may take pairs of the table's own order for the published ones."""
    is_market1501 = images.provenance.get("layout") == "market1501"
    return is_market1501 and protocol.pairs is None and protocol.annotation is None


def _size_of(networks: Mapping[str, PoseTransfer]) -> tuple[int, int]:
    """Return the width and height of the networks' images; others are stretched to it.

    Raises:
        UserError: If two networks differ, or the JPEG strip cannot hold the images.
    """
    sizes = {(network.image_size[1], network.image_size[0]) for network in networks.values()}
    if len(sizes) > 1:
        raise UserError(f"networks of one table: found the sizes {sorted(sizes)}, expected one")
    size = next(iter(sizes), MARKET_SIZE)
    if size[0] % BLOCK_PX:
        raise UserError(
            f"network: its images are {size[0]} px wide, expected a multiple of {BLOCK_PX} "
            "(blocks of the JPEG strip that scores are taken from)"
        )
    return size


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some test pairs, stretched to one size; poses are (x, y) pixels of these images."""

    source: ByteImages
    target: ByteImages
    poses: tuple[Joints, Joints]
    """Of source and target."""
    person: Bool[np.ndarray, "batch height width"]
    """The person masks of the targets; nothing where there is none."""
    alpha: UInt8[np.ndarray, "batch height width"]
    """How much of each source pixel is the person."""
    seeds: UInt64[np.ndarray, " batch"]
    """Of the pairs' random numbers: their positions in the list of pairs."""


def _batches(
    images: Images,
    pairs: Int64[np.ndarray, "pairs 2"],
    joints: Joints,
    size: tuple[int, int],
    batch_size: int,
) -> Iterator[_Batch]:
    for start in range(0, len(pairs), batch_size):
        rows = pairs[start : start + batch_size]
        source, target = (pixels.read_all(images.take(side), size) for side in rows.T)
        poses = joints[rows[:, 0]], joints[rows[:, 1]]
        (of_source, _), (person, _) = (read_masks(images.take(side), size) for side in rows.T)
        alpha = np.stack([alpha_of(mask) for mask in of_source])
        seeds = np.arange(start, start + len(rows), dtype=np.uint64)
        yield _Batch(source, target, poses, person, alpha, seeds)


def _generated(
    generator: PoseTransfer | Baseline, batch: _Batch, device: torch.device | str
) -> ByteImages:
    """Return the images to be scored: a network's, or those of a baseline."""
    if isinstance(generator, str):
        return batch.source if generator == "copy" else batch.target
    behind: dict[str, np.ndarray] = {}
    if "background" in generator.needs:
        behind["background"] = np.stack(list(map(street, batch.target, batch.person)))
        behind["hole"] = np.stack([hole_of(mask) for mask in batch.person])
    condition = condition_of(
        batch.source,
        *batch.poses,
        device=device,
        target_image=batch.target,
        mask=batch.alpha,
        **behind,
    )
    random = RowRandom(batch.seeds, device)
    with torch.inference_mode():
        made = generator.generate(condition, random, generator.Options())
        return np.ascontiguousarray(as_pixels(made).cpu().numpy())


def _views(
    generated: ByteImages, batch: _Batch, device: torch.device | str, pool: Executor
) -> Views:
    """Return one batch as each family of metrics sees it."""
    height, width = generated.shape[1:3]
    crops = through_strip(generated, batch.target, batch.poses, pool)
    strip = (as_byte_images(crop, device) for crop in crops)
    raw = Sides(as_byte_images(generated, device), as_byte_images(batch.target, device))
    return Views(
        patn=Sides(*strip),
        gfla=Sides(as_byte_images(through_jpeg(generated, pool), device), raw.target),
        raw=raw,
        source=as_byte_images(batch.source, device),
        mask=body_mask(_pose(batch.poses[1], device), (width, height)),
        target_joints=batch.poses[1],
        person=torch.from_numpy(batch.person).to(device),
    )


def _pose(joints: Joints, device: torch.device | str) -> Pose:
    return Pose(torch.from_numpy(joints).to(device))
