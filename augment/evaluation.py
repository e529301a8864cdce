"""``augment evaluate``: networks, test pairs and measures of image quality make one table.

Streams: a batch of pairs is read, generated, taken through the JPEG detours of the published
evaluators and measured; nothing but sums is kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from tyro.conf import arg

from augment.checkpoints import store
from augment.devices import pick_device
from augment.pose.detect import load_estimator
from augment.pose.pose import Pose
from augment.quality import frechet
from augment.quality.inception import load_inception
from augment.quality.masks import body_mask
from augment.quality.measures import (
    PUBLISHED_BATCH,
    ByteFeatures,
    Family,
    InceptionScores,
    JointAccuracy,
    MeasureFactory,
    Row,
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
from augment.quality.perceptual import as_network_input, load_lpips, load_reid
from augment.quality.strip import through_jpeg, through_strip
from augment.transfer import Condition, PoseTransfer
from manifests import keypoints, pixels
from manifests.console import Console, Exit, UserError
from manifests.io import Images, read_images, write_bytes
from manifests.settings import Frozen

SIZE = (64, 128)
"""Width and height of the networks' images; other images are stretched to it."""

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
    count: int = NUM_PUBLISHED_PAIRS
    """Pairs to score; all, if there are fewer."""
    batch_size: int = 32
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


@dataclass(frozen=True, slots=True)
class Score:
    """One row of the table: whose images, and what was measured."""

    subject: str
    row: Row


@dataclass(frozen=True, slots=True)
class NotMeasured:
    """A row that the table lacks, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Result:
    """The scores of all subjects on the same pairs."""

    scores: tuple[Score, ...]
    not_measured: tuple[NotMeasured, ...]
    num_pairs: int
    pairs: str
    """Where the pairs come from."""

    def value(self, subject: str, name: str, family: Family) -> float:
        """Return one value.

        Raises:
            KeyError: If there is no such row.
        """
        for score in self.scores:
            if (score.subject, score.row.name, score.row.family) == (subject, name, family):
                return score.row.value
        raise KeyError((subject, name, family))

    def to_json(self) -> str:
        """Return the result as JSON; a value that is no finite number becomes null."""
        rows = [
            {"subject": subject, **asdict(row), "value": _finite(row.value)}
            for subject, row in ((score.subject, score.row) for score in self.scores)
        ]
        content = {
            "num_pairs": self.num_pairs,
            "pairs": self.pairs,
            "scores": rows,
            "not_measured": [asdict(row) for row in self.not_measured],
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        """Return the result as Markdown: a table per family, a column per subject."""
        lines = [f"{self.num_pairs:,} pairs: {self.pairs}."]
        families: dict[Family, None] = dict.fromkeys(score.row.family for score in self.scores)
        for family in families:
            lines += ["", *self._table(family)]
        if self.not_measured:
            lines += ["", "Not measured:", ""]
            lines += [f"- {row.name}: {row.reason}" for row in self.not_measured]
        return "\n".join(lines) + "\n"

    def _table(self, family: Family) -> list[str]:
        subjects = list(dict.fromkeys(score.subject for score in self.scores))
        rows: dict[str, dict[str, Row]] = {}
        for score in self.scores:
            if score.row.family == family:
                rows.setdefault(score.row.name, {})[score.subject] = score.row
        lines = [
            f"| {family} | {' | '.join(subjects)} | protocol |",
            "|---|" + "---:|" * len(subjects) + "---|",
        ]
        for name, by_subject in rows.items():
            values = " | ".join(_cell(by_subject.get(subject)) for subject in subjects)
            row = next(iter(by_subject.values()))
            images = f"{row.num_images:,} images"
            lines.append(f"| {name} | {values} | {row.protocol}; {images} |")
        return lines


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
        networks[Path(settings.weights).stem] = store.load(settings.weights, device)
    result = measure(images, networks, settings.protocol, device, console)
    if settings.out is not None:
        write_bytes(result.to_json().encode(), settings.out)
    console.show(result.to_json() if settings.as_json else result.to_markdown())
    return Exit.DONE


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
    chosen = images.only(protocol.split)
    pairs, origin = _pairs(chosen, protocol)
    if _draws_others_than_published(images, protocol):
        console.say(
            "these pairs are not the published ones of Market-1501, which follow the order of its "
            "annotation file; --pairs market-pairs-test.csv gives those"
        )
    bench = _Bench(protocol, images.only("train"), len(pairs), device, console)
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
                    rows = pairs[start : start + protocol.batch_size]
                    views = _views(chosen, rows, generator, device, pool)
                    for one in measures:
                        one.update(views)
                    bar.advance(len(rows))
            scores += [Score(subject, row) for one in measures for row in one.rows()]
    return Result(tuple(scores), tuple(not_measured), len(pairs), origin)


def as_bytes(
    images: Float[Tensor, "batch 3 height width"],
) -> UInt8[Tensor, "batch 3 height width"]:
    """Return images in [-1, 1] as 0 to 255, truncated and not rounded, as all evaluators do.

    >>> as_bytes(torch.tensor([-1.0, 0.0, 1.0, 1.5]).view(1, 1, 1, 4)).flatten().tolist()
    [0, 127, 255, 255]
    """
    return ((images.float().clamp(-1.0, 1.0) + 1.0) / 2.0 * 255.0).to(torch.uint8)


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


def _views(
    images: Images,
    rows: Int64[np.ndarray, "batch 2"],
    generator: PoseTransfer | Baseline,
    device: torch.device | str,
    pool: Executor,
) -> Views:
    """Return one batch, generated and taken through the detours."""
    sides = [images.take(side) for side in rows.T]
    poses = _joints(sides[0]), _joints(sides[1])
    source, target = (pixels.read_all(side, SIZE) for side in sides)
    if isinstance(generator, str):
        generated = source if generator == "copy" else target
    else:
        generated = _generate(generator, source, poses, device)
    strip = Sides(
        *(_upload(crop, device) for crop in through_strip(generated, target, poses, pool))
    )
    raw = Sides(_upload(generated, device), _upload(target, device))
    return Views(
        patn=strip,
        gfla=Sides(_upload(through_jpeg(generated, pool), device), raw.target),
        raw=raw,
        source=_upload(source, device),
        mask=body_mask(_pose(poses[1], device), SIZE),
        target_joints=poses[1],
    )


def _generate(
    network: PoseTransfer,
    source: ByteImages,
    poses: tuple[Joints, Joints],
    device: torch.device | str,
) -> ByteImages:
    condition = Condition(
        as_network_input(_upload(source, device)), _pose(poses[0], device), _pose(poses[1], device)
    )
    with torch.inference_mode():
        generated = as_bytes(network.generate(condition))
    return np.ascontiguousarray(generated.permute(0, 2, 3, 1).cpu().numpy())


def _joints(images: Images) -> Joints:
    """Return the joints in pixels of the images as the networks see them."""
    joints = images.keypoints()
    for row, size in enumerate(images.table.select(["width", "height"]).to_pylist()):
        stored = size["width"], size["height"]
        if stored != SIZE and None not in stored:
            joints[row] = keypoints.resize(joints[row], stored, SIZE)
    return joints


def _pose(joints: Joints, device: torch.device | str) -> Pose:
    return Pose(torch.from_numpy(joints).to(device))


def _upload(
    images: ByteImages, device: torch.device | str
) -> UInt8[Tensor, "batch 3 height width"]:
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _cell(row: Row | None) -> str:
    return "" if row is None else f"{row.value:.4f}"


@dataclass(frozen=True, slots=True)
class _Bench:
    """Gathers the measures that the protocol asks for and this machine can give."""

    protocol: EvaluationProtocol
    train: Images
    total: int
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
                    yield _upload(pixels.read_all(self.train.take(rows), SIZE), self.device)
                    bar.advance(PUBLISHED_BATCH)

            real = real_moments(features, batches())
        if real is None:
            raise _TooFewError(f"found {len(self.train)} training images, expected 64 at least")
        return real


class _TooFewError(UserError):
    """Not enough images for a measure; the others can go on."""
