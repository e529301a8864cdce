"""Which metrics an evaluation computes: those of the protocol that this machine can give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from augment.objectives.imagenet_features import ImageNetNetwork, load_imagenet
from augment.pose.estimators.registry import load_estimator
from augment.quality import frechet
from augment.quality.inception import Inception, load_inception
from augment.quality.metrics import (
    PUBLISHED_BATCH,
    ByteFeatures,
    InceptionScores,
    JointAccuracy,
    MetricFactory,
    as_byte_images,
    fid_metric,
    identity_metric,
    imagenet_frechet_metric,
    imagenet_inside_metric,
    imagenet_of,
    imagenet_perceptual_metric,
    lpips_metrics,
    pixel_metrics,
    pool3_of,
    real_moments,
    reid_frechet_metric,
    reid_of,
    reid_perceptual_metric,
    ssim_inside_metric,
    whole_batches,
)
from augment.quality.perceptual import Features, load_lpips, load_reid
from augment.quality.protocol import NO_NETWORK, EvaluationProtocol
from augment.quality.table import MetricNetwork, NotMeasured
from manifests import pixels
from manifests.compute.exported_networks import sha256_of_network
from manifests.compute.imagenet import IMAGENET, PACKAGED, imagenet_model
from manifests.io import Images
from manifests.runtime.console import Console, UserError
from manifests.runtime.prefetch import prefetch

_MIN_INCEPTION_SCORE_PAIRS = 10


# Without slots, in which a cached property has nowhere to stay.
@dataclass(frozen=True)
class MetricSelection:
    """Makes the metrics of one evaluation; a network that several of them use is loaded once."""

    protocol: EvaluationProtocol
    train: Images
    """The real images of the Frechet distances."""
    size: tuple[int, int]
    """Width and height of the images that are scored."""
    num_pairs: int
    device: torch.device | str
    console: Console
    num_with_mask: int = 0
    """Pairs whose target has a person mask."""

    def factories(self) -> tuple[list[MetricFactory], list[NotMeasured]]:
        """Return a factory for every metric that can be computed, and the others with the reason.

        Raises:
            UserError: If the network of a metric that the protocol names cannot be had.
        """
        protocol = self.protocol
        groups: list[tuple[str, bool, Callable[[], list[MetricFactory]]]] = [
            ("rows inside the person", False, self._inside_the_person),
            ("IS, mask-IS", protocol.inception is not None, self._inception_scores),
            ("FID", protocol.inception is not None, self._fid),
            ("LPIPS, mask-LPIPS", protocol.alexnet is not None, self._lpips),
            ("ImageNet Frechet distance", self._needs_imagenet, self._imagenet_frechet),
            ("ImageNet perceptual distance", self._needs_imagenet, self._imagenet_perceptual),
            ("PCKh", protocol.estimator is not None, self._joint_accuracy),
            ("re-ID Frechet distance", protocol.reid is not None, self._reid_frechet),
            ("re-ID perceptual distance", protocol.reid is not None, self._reid_perceptual),
            ("identity similarity", protocol.reid is not None, self._identity),
        ]
        factories, missing = pixel_metrics(self.num_pairs), list[NotMeasured]()
        for names, is_requested, build in groups:
            try:
                factories += build()
            except _TooFewError as error:
                missing.append(NotMeasured(names, str(error)))
            except UserError as error:
                if is_requested:
                    raise
                missing.append(NotMeasured(names, str(error)))
        reason = "the SSD300 person detector of PATN's evaluator is not part of this project"
        return factories, [*missing, NotMeasured("DS", reason)]

    def _inception_scores(self) -> list[MetricFactory]:
        self._check_num_pairs(_MIN_INCEPTION_SCORE_PAIRS)
        network = self._inception
        return [lambda: InceptionScores(network, self.num_pairs)]

    def _fid(self) -> list[MetricFactory]:
        self._check_num_pairs(PUBLISHED_BATCH)
        real = self._real_moments("FID", pool3_of(self._inception))
        return [fid_metric(self._inception, real, self.num_pairs)]

    def _lpips(self) -> list[MetricFactory]:
        self._check_num_pairs(PUBLISHED_BATCH)
        return lpips_metrics(load_lpips(self.protocol.alexnet, self.device), self.num_pairs)

    def networks(self) -> tuple[MetricNetwork, ...]:
        """Return the networks by whose weights the values can be had again."""
        networks: list[MetricNetwork] = []
        with suppress(UserError):
            model = self._imagenet_model
            networks.append(MetricNetwork("ImageNet", model, PACKAGED[model].sha256))
        path = self.protocol.reid
        if path is not None:
            networks.append(
                MetricNetwork("re-ID", path.name, sha256_of_network(str(path), "--reid"))
            )
        return tuple(networks)

    def _imagenet_frechet(self) -> list[MetricFactory]:
        self._check_num_pairs(PUBLISHED_BATCH)
        network, name = self._imagenet, self._imagenet_model
        real = self._real_moments("ImageNet Frechet distance", imagenet_of(network))
        return [imagenet_frechet_metric(network, name, real, self.num_pairs)]

    def _imagenet_perceptual(self) -> list[MetricFactory]:
        network, name = self._imagenet, self._imagenet_model
        metrics = [imagenet_perceptual_metric(network, name, self.num_pairs)]
        if self.num_with_mask:
            metrics.append(imagenet_inside_metric(network, name, self.num_pairs))
        return metrics

    def _inside_the_person(self) -> list[MetricFactory]:
        if not self.num_with_mask:
            raise UserError(
                "no target has a person mask; 'augment detect --estimator blazepose --masks' adds "
                "them to the images table"
            )
        return [ssim_inside_metric(self.num_pairs)]

    def _joint_accuracy(self) -> list[MetricFactory]:
        protocol = self.protocol
        if protocol.estimator is None:
            raise UserError("no pose estimator; give --estimator FILE.tflite or keypointrcnn")
        estimator = load_estimator(protocol.estimator, self.device, protocol.estimator_weights)
        return [lambda: JointAccuracy(estimator)]

    def _reid_frechet(self) -> list[MetricFactory]:
        self._check_num_pairs(PUBLISHED_BATCH)
        network, name = self._reid
        real = self._real_moments("re-ID Frechet distance", reid_of(network))
        return [reid_frechet_metric(network, name, real, self.num_pairs)]

    def _reid_perceptual(self) -> list[MetricFactory]:
        return [reid_perceptual_metric(*self._reid, self.num_pairs)]

    def _identity(self) -> list[MetricFactory]:
        return [identity_metric(*self._reid, self.num_pairs)]

    @cached_property
    def _inception(self) -> Inception:
        return load_inception(self.protocol.inception, self.device)

    @property
    def _needs_imagenet(self) -> bool:
        return self.protocol.imagenet not in (None, NO_NETWORK)

    @cached_property
    def _imagenet_model(self) -> str:
        if self.protocol.imagenet == NO_NETWORK:
            raise UserError(f"left out by --imagenet {NO_NETWORK}")
        return imagenet_model(self.protocol.imagenet or IMAGENET, "--imagenet")

    @cached_property
    def _imagenet(self) -> ImageNetNetwork:
        return load_imagenet(self._imagenet_model, "--imagenet", self.device)

    @cached_property
    def _reid(self) -> tuple[Features, str]:
        path: Path | None = self.protocol.reid
        if path is None:
            raise UserError("no re-ID network; give --reid FILE, written by 'reid export'")
        return load_reid(path, self.device), path.name

    def _check_num_pairs(self, num_pairs: int) -> None:
        if self.num_pairs < num_pairs:
            raise _TooFewError(f"found {self.num_pairs} pairs, expected {num_pairs} at least")

    def _real_moments(self, label: str, features: ByteFeatures) -> frechet.Moments:
        with self.console.progress(f"{label}: training images", len(self.train)) as bar:

            def batches() -> Iterator[UInt8[Tensor, "batch 3 height width"]]:
                for images in prefetch(self._train_batches(), depth=1):
                    yield as_byte_images(images, self.device)
                    bar.advance(len(images))

            real = real_moments(features, batches())
        if real is None:
            raise _TooFewError(f"found {len(self.train)} training images, expected 64 at least")
        return real

    def _train_batches(self) -> Iterator[UInt8[np.ndarray, "batch height width 3"]]:
        for start in range(0, whole_batches(len(self.train)), PUBLISHED_BATCH):
            rows = np.arange(start, start + PUBLISHED_BATCH)
            yield pixels.read_all(self.train.take(rows), self.size)


class _TooFewError(UserError):
    """Not enough images for a metric; the others can go on."""
