"""``augment evaluate``: networks, test pairs and measures of image quality make one table.

Streams: a batch of pairs is read, generated, taken through the JPEG detours of the published
evaluators and measured; nothing but sums is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8, UInt64
from torch import Tensor
from tyro.conf import arg

from augment.checkpoints import store
from augment.interface.condition import as_pixels, condition_of
from augment.interface.randomness import RowRandom
from augment.interface.system import PoseTransfer
from augment.pose.bank import joints_in
from augment.pose.detect import load_estimator
from augment.pose.pose import Pose
from augment.quality import frechet
from augment.quality.inception import load_inception
from augment.quality.masks import body_mask
from augment.quality.metrics import (
    PUBLISHED_BATCH,
    ByteFeatures,
    InceptionScores,
    JointAccuracy,
    MeasureFactory,
    Sides,
    Views,
    fid_measure,
    identity_measure,
    lpips_measures,
    pool3_of,
    real_moments,
    reid_frechet_measure,
    reid_of,
    reid_perceptual_measure,
    simple_measures,
    whole_batches,
)
from augment.quality.pairs import (
    NUM_PUBLISHED_PAIRS,
    annotation_order,
    read_pairs,
    sample_pairs,
)
from augment.quality.perceptual import load_lpips, load_reid
from augment.quality.strip import BLOCK_PX, through_jpeg, through_strip
from augment.quality.table import NotMeasured, Result, Score
from manifests import keypoints, pixels
from manifests.compute.devices import pick_device
from manifests.io import Images, read_images, write_bytes
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.settings import Frozen, Positive

MARKET_SIZE = (64, 128)
"""Width and height of the images where no network says another size."""

NUM_JPEG_THREADS = 2

Baseline = Literal["copy", "target"]

BASELINE_NAMES: Mapping[Baseline, str] = {"copy": "copy the source", "target": "the target itself"}

ByteImages = UInt8[np.ndarray, "batch height width 3"]
Joints = Float[np.ndarray, "batch 18 2"]


class EvaluationProtocol(Frozen):
    """What is measured on which pairs."""

    pairs: Path | None = None
    """CSV file of test pairs with columns from, to."""
    annotation: Path | None = None
    """Published annotation file: its order of rows is the one that gives the published pairs."""
    split: Literal["train", "query", "gallery"] = "gallery"
    """Rows of the images table that pairs are drawn from."""
    count: Positive = NUM_PUBLISHED_PAIRS
    """Pairs to score; all, if there are fewer."""
    batch_size: Positive = 32
    """Pairs generated at once."""
    baseline: tuple[Baseline, ...] = ()
    """Columns beside the network's: copy the source; show the target itself."""
    estimator: str | None = None
    """Pose estimator of PCKh: FILE.tflite, or keypointrcnn."""
    estimator_weights: str | None = None
    """Weights of Keypoint R-CNN: a file, or download."""
    reid: Path | None = None
    """Network of the re-ID distances and of identity similarity, written by reid export."""
    inception: str | None = None
    """Inception weights for FID and IS: a file, or download."""
    alexnet: str | None = None
    """AlexNet weights for LPIPS: a file, or download."""


class EvaluateSettings(Frozen):
    """Measure image quality on the test pairs."""

    images: Path
    """Images table (made by 'augment index')."""
    weights: str | None = None
    """Name of shipped weights, or a file; without it only baselines are measured."""
    root: Path | None = None
    """Where the images lie, if not where the table says."""
    device: str = "auto"
    """Where networks and measures run: auto, cpu, cuda or cuda:N."""
    out: Path | None = None
    """JSON file that keeps the table."""
    as_json: Annotated[bool, arg(name="json")] = False
    """JSON instead of Markdown on standard output."""
    protocol: Annotated[EvaluationProtocol, arg(name="")] = EvaluationProtocol()
    """What is measured on which pairs."""


def evaluate(settings: EvaluateSettings, console: Console) -> Exit:
    """Measure, show the table, and keep it.

    Raises:
        UserError: If there is nothing to measure; see ``measure`` for the rest.
    """
    if settings.weights is None and not settings.protocol.baseline:
        raise UserError("found neither --weights nor --baseline, expected something to measure")
    images = read_images(settings.images, settings.root)
    device = pick_device(settings.device)
    networks: dict[str, PoseTransfer] = {}
    if settings.weights is not None:
        networks[_column(settings.weights)] = store.load(settings.weights, device)
    result = measure(images, networks, settings.protocol, device, console)
    if settings.out is not None:
        write_bytes(result.to_json().encode(), settings.out)
    console.show(result.to_json() if settings.as_json else result.to_markdown())
    return Exit.DONE


def _column(weights: str) -> str:
    """Return what the table calls a network.

    >>> _column("patn-sample"), _column("runs/dptn/weights.safetensors")
    ('patn-sample', 'dptn')
    """
    path = Path(weights)
    # Every training calls its weights so.
    return path.resolve().parent.name if path.name == "weights.safetensors" else path.stem


def measure(
    images: Images,
    networks: Mapping[str, PoseTransfer],
    protocol: EvaluationProtocol,
    device: torch.device | str = "cpu",
    console: Console | None = None,
) -> Result:
    """Return the scores of networks and baselines on the test pairs.

    Memory does not grow with the number of pairs, but for two integers a pair. No value depends on
    the batch size beyond the networks' own rounding.

    Args:
        images: The table; its ``train`` rows are the real images of the Frechet distances.
        networks: By the name of their column; in evaluation mode, on ``device``.
        protocol: What is measured on which pairs.
        device: Where networks and measures run.
        console: Where progress goes.

    Raises:
        UserError: If the table gives no pairs, an image cannot be read, or a network that the
            protocol asks for cannot be had. Measures nobody asked for are named in the result.
    """
    console = console or Console(quiet=True)
    size = _size_of(networks)
    chosen = images.only(protocol.split)
    pairs, origin = _pairs(chosen, protocol)
    joints = joints_in(chosen, size)
    _check_usable(chosen, pairs, joints)
    if _draws_others_than_published(images, protocol):
        console.say(
            "these pairs are not the published ones of Market-1501, which follow the order of its "
            "annotation file; --pairs market-pairs-test.csv gives those"
        )
    bench = _Bench(protocol, images.only("train"), size, len(pairs), device, console)
    factories, not_measured = bench.measures()
    subjects: dict[str, PoseTransfer | Baseline] = {
        **networks,
        **{BASELINE_NAMES[baseline]: baseline for baseline in protocol.baseline},
    }
    scores: list[Score] = []
    with ThreadPoolExecutor(NUM_JPEG_THREADS) as pool:
        for subject, generator in subjects.items():
            measures = [factory() for factory in factories]
            with console.progress(f"evaluate {subject}", len(pairs), "pair") as bar:
                for start in range(0, len(pairs), protocol.batch_size):
                    part = slice(start, start + protocol.batch_size)
                    batch = _read(chosen, pairs, part, joints, size)
                    views = _views(_generated(generator, batch, device), batch, device, pool)
                    for one in measures:
                        one.update(views)
                    bar.advance(len(batch.source))
            scores += [Score(subject, row) for one in measures for row in one.rows()]
    return Result(tuple(scores), tuple(not_measured), len(pairs), origin)


def _pairs(
    images: Images, protocol: EvaluationProtocol
) -> tuple[Int64[np.ndarray, "pairs 2"], str]:
    """Return the rows of the pairs, and where they come from in words."""
    ids = images.strings("image_id")
    if protocol.pairs is not None:
        pairs = read_pairs(protocol.pairs, ids, protocol.count)
        return pairs, f"the first {len(pairs):,} of {protocol.pairs.name}"
    order, words = np.arange(len(images)), "the table"
    if protocol.annotation is not None:
        order, words = annotation_order(protocol.annotation, ids), protocol.annotation.name
    ordered = images.take(order)
    pairs = sample_pairs(ordered.strings("person_id"), ordered.keypoints(), protocol.count)
    return order[pairs], f"drawn by the published rule from the rows in the order of {words}"


def _draws_others_than_published(images: Images, protocol: EvaluationProtocol) -> bool:
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


def _check_usable(images: Images, pairs: Int64[np.ndarray, "pairs 2"], joints: Joints) -> None:
    """Refuse pairs that show two people, or an image without a pose: a network could not know.

    Raises:
        UserError: With the first of them and their number.
    """
    ids, people = images.strings("image_id"), images.strings("person_id")
    strangers = [pair for pair in pairs.tolist() if people[pair[0]] != people[pair[1]]]
    if strangers:
        source, target = strangers[0]
        raise UserError(
            f"test pairs: found {len(strangers):,} of {len(pairs):,} that show two people, the "
            f"first '{ids[source]}' ({people[source]}) and '{ids[target]}' ({people[target]}); "
            "expected one person in both images"
        )
    rows = np.unique(pairs)
    poseless = rows[~keypoints.visible(joints[rows]).any(axis=1)]
    if len(poseless):
        raise UserError(
            f"test pairs: found {len(poseless):,} of {len(rows):,} images without any joint, the "
            f"first '{ids[poseless[0]]}'; expected keypoints (see 'augment index --keypoints')"
        )


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some test pairs, stretched to one size; poses are (x, y) pixels of these images."""

    source: ByteImages
    target: ByteImages
    poses: tuple[Joints, Joints]
    """Of source and target."""
    seeds: UInt64[np.ndarray, " batch"]
    """Of the pairs' random numbers: their positions in the list of pairs."""


def _read(
    images: Images,
    pairs: Int64[np.ndarray, "pairs 2"],
    part: slice,
    joints: Joints,
    size: tuple[int, int],
) -> _Batch:
    rows = pairs[part]
    source, target = (pixels.read_all(images.take(side), size) for side in rows.T)
    seeds = np.arange(part.start, part.start + len(rows), dtype=np.uint64)
    return _Batch(source, target, (joints[rows[:, 0]], joints[rows[:, 1]]), seeds)


def _generated(
    generator: PoseTransfer | Baseline, batch: _Batch, device: torch.device | str
) -> ByteImages:
    """Return the images to be scored: a network's, or those of a baseline."""
    if isinstance(generator, str):
        return batch.source if generator == "copy" else batch.target
    condition = condition_of(batch.source, *batch.poses, device=device, target_image=batch.target)
    random = RowRandom(batch.seeds, device)
    with torch.inference_mode():
        made = generator.generate(condition, random, generator.Options())
        return np.ascontiguousarray(as_pixels(made).cpu().numpy())


def _views(
    generated: ByteImages, batch: _Batch, device: torch.device | str, pool: Executor
) -> Views:
    """Return one batch taken through the detours."""
    height, width = generated.shape[1:3]
    crops = through_strip(generated, batch.target, batch.poses, pool)
    strip = (_upload(crop, device) for crop in crops)
    raw = Sides(_upload(generated, device), _upload(batch.target, device))
    return Views(
        patn=Sides(*strip),
        gfla=Sides(_upload(through_jpeg(generated, pool), device), raw.target),
        raw=raw,
        source=_upload(batch.source, device),
        mask=body_mask(_pose(batch.poses[1], device), (width, height)),
        target_joints=batch.poses[1],
    )


def _pose(joints: Joints, device: torch.device | str) -> Pose:
    return Pose(torch.from_numpy(joints).to(device))


def _upload(
    images: ByteImages, device: torch.device | str
) -> UInt8[Tensor, "batch 3 height width"]:
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2)


@dataclass(frozen=True, slots=True)
class _Bench:
    """Gathers the measures that the protocol asks for and this machine can give."""

    protocol: EvaluationProtocol
    train: Images
    size: tuple[int, int]
    """Width and height of the images that are measured."""
    total: int
    """How many pairs there are."""
    device: torch.device | str
    console: Console

    def measures(self) -> tuple[list[MeasureFactory], list[NotMeasured]]:
        """Return a factory for every measure at hand, and what is not at hand."""
        asked = self.protocol
        plans: list[tuple[str, bool, Callable[[], list[MeasureFactory]]]] = [
            ("IS, mask-IS", asked.inception is not None, self._inception_scores),
            ("FID", asked.inception is not None, self._fid),
            ("LPIPS, mask-LPIPS", asked.alexnet is not None, self._lpips),
            ("PCKh", asked.estimator is not None, self._joints),
            ("re-ID Frechet distance", asked.reid is not None, self._reid_frechet),
            ("re-ID perceptual distance", asked.reid is not None, self._reid_perceptual),
            ("identity similarity", asked.reid is not None, self._identity),
        ]
        factories, missing = simple_measures(self.total), list[NotMeasured]()
        for names, is_asked_for, build in plans:
            try:
                factories += build()
            except _TooFewError as error:
                missing.append(NotMeasured(names, str(error)))
            except UserError as error:
                if is_asked_for:
                    raise
                missing.append(NotMeasured(names, str(error)))
        reason = "the SSD300 person detector of PATN's evaluator is not part of this project"
        return factories, [*missing, NotMeasured("DS", reason)]

    def _inception_scores(self) -> list[MeasureFactory]:
        self._require(10)
        network = load_inception(self.protocol.inception, self.device)
        return [lambda: InceptionScores(network, self.total)]

    def _fid(self) -> list[MeasureFactory]:
        self._require(PUBLISHED_BATCH)
        network = load_inception(self.protocol.inception, self.device)
        return [fid_measure(network, self._real("FID", pool3_of(network)), self.total)]

    def _lpips(self) -> list[MeasureFactory]:
        self._require(PUBLISHED_BATCH)
        return lpips_measures(load_lpips(self.protocol.alexnet, self.device), self.total)

    def _joints(self) -> list[MeasureFactory]:
        asked = self.protocol
        if asked.estimator is None:
            raise UserError("no pose estimator; give --estimator FILE.tflite or keypointrcnn")
        estimator = load_estimator(asked.estimator, self.device, asked.estimator_weights)
        return [lambda: JointAccuracy(estimator)]

    def _reid_frechet(self) -> list[MeasureFactory]:
        self._require(PUBLISHED_BATCH)
        path = self._reid_file()
        network = load_reid(path, self.device)
        real = self._real("re-ID Frechet distance", reid_of(network))
        return [reid_frechet_measure(network, path.name, real, self.total)]

    def _reid_perceptual(self) -> list[MeasureFactory]:
        path = self._reid_file()
        return [reid_perceptual_measure(load_reid(path, self.device), path.name, self.total)]

    def _identity(self) -> list[MeasureFactory]:
        path = self._reid_file()
        return [identity_measure(load_reid(path, self.device), path.name, self.total)]

    def _reid_file(self) -> Path:
        if self.protocol.reid is None:
            raise UserError("no re-ID network; give --reid FILE, written by 'reid export'")
        return self.protocol.reid

    def _require(self, count: int) -> None:
        if self.total < count:
            raise _TooFewError(f"found {self.total} pairs, expected {count} at least")

    def _real(self, label: str, features: ByteFeatures) -> frechet.Moments:
        with self.console.progress(f"{label}: training images", len(self.train)) as bar:

            def batches() -> Iterator[UInt8[Tensor, "batch 3 height width"]]:
                for start in range(0, whole_batches(len(self.train)), PUBLISHED_BATCH):
                    rows = np.arange(start, start + PUBLISHED_BATCH)
                    yield _upload(pixels.read_all(self.train.take(rows), self.size), self.device)
                    bar.advance(PUBLISHED_BATCH)

            real = real_moments(features, batches())
        if real is None:
            raise _TooFewError(f"found {len(self.train)} training images, expected 64 at least")
        return real


class _TooFewError(UserError):
    """Not enough images for a measure; the others can go on."""
