"""Centralised features: a feature plus the mean of others of the same person, normalised.

Pose2ID (Yuan et al., "From Poses to Identity: Training-Free Person Re-Identification via Feature
Centralization", CVPR 2025): f' = normalise(f + eta * mean(g)). In its identity-guided part g are
the features of images that a generator made of the image in eight canonical poses; in its part of
neighbours (NFC) they are the nearest images' own. Differences: all features are brought to length
one before; neighbours are the k nearest gallery images, mutual or not; a generator's images come
as a folder of 'augment generate --purpose test-time'. The control takes flipped and shifted copies
of the real image for g, of every image or of those alone that such a folder has generated images
of. Copies have a weight of their own and may come first, generated images and neighbours after
them: a feature that is a mean over copies already has less of the network's own noise for the
generated ones to average away. No label is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, Final

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from pydantic import Field

from manifests import pixels
from manifests.io import Images, sha256_file
from manifests.runtime.console import Console, UserError
from manifests.runtime.settings import AboveZero, Count, Frozen
from manifests.runtime.storage import StoragePath, StoragePathFlag
from manifests.synthetic import Synthetic, finished_manifest
from reid.data.inputs import Inputs
from reid.data.leakage import check_generator
from reid.evaluation.ranking import unit
from reid.models.features import embed
from reid.models.network import ReidNetwork

Features = Float[np.ndarray, "rows width"]
FeaturePair = tuple[Float[np.ndarray, "query width"], Float[np.ndarray, "gallery width"]]

_CHUNK: Final = 2048
"""Generated images, or copies, that are decoded at once."""

_SHIFTS: Final = ((0, 0), (3, 0), (-3, 0), (0, 5), (0, -5), (3, 5), (-3, -5), (3, -5))
"""(x, y) of the copies, in pixels of a crop of 128 rows; every other copy is mirrored."""
MAX_COPIES: Final = 2 * len(_SHIFTS) - 1
"""The next would be the image itself."""

DEFAULT_COPIES_ETA: Final = (8.0,)
DEFAULT_ETA: Final = (1.0,)

_Weights = Annotated[tuple[AboveZero, ...], Field(min_length=1)]


class Centralisation(Frozen):
    """How features are centralised; by default not at all."""

    centralise: StoragePathFlag | None = None
    """Folder of 'augment generate --purpose test-time' of the same table: add the mean feature of
    an image's generated images to its own. With a --targets NAME=TABLE it is of that table, which
    then is scored alone."""
    copies: Annotated[int, Field(ge=0, le=MAX_COPIES)] = 0
    """Add the mean feature of so many flipped and shifted copies of the real image, before the
    generated ones where there are some; 8 are as many as there are canonical poses."""
    copies_for: StoragePathFlag | None = None
    """Copies of those images alone that this folder of --purpose test-time has generated images of:
    the control of --centralise with the same folder. The others keep their plain feature."""
    copies_eta: _Weights = DEFAULT_COPIES_ETA
    """Weights of copies; a score for each."""
    neighbours: Count = 0
    """Add the mean feature of so many nearest gallery images, after the others."""
    eta: _Weights = DEFAULT_ETA
    """Weights of generated images and of neighbours; a score for each."""

    @property
    def is_plain(self) -> bool:
        """Whether features stay as they are."""
        return self.centralise is None and not self.copies and not self.neighbours

    @property
    def set_flag(self) -> tuple[str, StoragePath] | None:
        """Return the flag that names a folder of generated images, and the folder."""
        flags = {"--centralise": self.centralise, "--copies-for": self.copies_for}
        named = [(flag, folder) for flag, folder in flags.items() if folder is not None]
        return named[0] if named else None

    @property
    def has_eta(self) -> bool:
        """Whether there is something that ``eta`` weighs."""
        return self.centralise is not None or self.neighbours > 0

    def single(self) -> list[Centralisation]:
        """Return the settings of each score: these with one weight of a kind."""
        pairs = product(self.copies_eta, self.eta)
        return [
            self.model_copy(update={"copies_eta": (copies,), "eta": (other,)})
            for copies, other in pairs
        ]

    def name(self, of_set: GeneratedSet | None) -> str:
        """Return a folder's name for the scores of single weights; empty if features stay."""
        name = "" if of_set is None else f"-{of_set.generator}-{of_set.sha256[:8]}"
        parts = [
            f"copies-{self.copies}" if self.copies else "",
            f"for{name}" if self.copies_for is not None else "",
            f"eta-{self.copies_eta[0]:g}" if self.copies else "",
            f"generated{name}" if self.centralise is not None else "",
            f"neighbours-{self.neighbours}" if self.neighbours else "",
            f"eta-{self.eta[0]:g}" if self.has_eta else "",
        ]
        return "-".join(part for part in parts if part)


def check_settings(settings: Centralisation) -> None:
    """Check that the flags agree.

    Raises:
        UserError: If a set says which images get copies, and there are none or generated images
            too; a weight stands twice; or there are weights of nothing.
    """
    if settings.copies_for is not None and not settings.copies:
        raise UserError(
            f"--copies-for {settings.copies_for}: found without --copies, expected how many copies "
            "an image gets (--copies 8)"
        )
    if settings.copies_for is not None and settings.centralise is not None:
        raise UserError(
            f"--copies-for {settings.copies_for}: found with --centralise, whose control it is; "
            "expected one of them, in two commands, or --copies alone, which every image gets"
        )
    for flag, weights in (("--copies-eta", settings.copies_eta), ("--eta", settings.eta)):
        if len(set(weights)) != len(weights):
            raise UserError(f"{flag}: found {weights}, expected each weight once")
    if not settings.copies and settings.copies_eta != DEFAULT_COPIES_ETA:
        raise UserError("--copies-eta: found without --copies, expected both")
    if not settings.has_eta and settings.eta != DEFAULT_ETA:
        hint = "; copies are weighed by --copies-eta" if settings.copies else ""
        raise UserError(
            f"--eta: found without --centralise and --neighbours, expected one of them{hint}"
        )


@dataclass(frozen=True, slots=True)
class GeneratedSet:
    """Images that were generated of test images."""

    rows: Synthetic
    generator: str
    sha256: str
    """Of the manifest."""

    def of(self, images: Images) -> Int[np.ndarray, " rows"]:
        """Return which of the images every row was made of, -1 for none of them."""
        place = {name: row for row, name in enumerate(images.strings("image_id"))}
        return np.array([place.get(name, -1) for name in self.rows.strings("source_id")], np.int64)

    def has_some_of(self, images: Images) -> Bool[np.ndarray, " rows"]:
        """Return which of the images have generated ones."""
        return np.isin(np.arange(len(images)), self.of(images))


def read_generated(settings: Centralisation, images: Images, inputs: Inputs) -> GeneratedSet | None:
    """Return the set that the settings name, if it is one of these test images.

    Raises:
        UserError: If it is not finished, made for training, made of other images than the table's
            query and gallery, or by a generator that was trained on them.
    """
    if settings.set_flag is None:
        return None
    flag, folder = settings.set_flag
    rows = inputs.synthetic(folder)
    splits = set(rows.strings("split"))
    if not splits <= {"query", "gallery"}:
        raise UserError(
            f"{flag} {folder}: found images of the split {' and '.join(sorted(splits))}, "
            "expected images of query and gallery, from 'augment generate --purpose test-time'"
        )
    split_of = dict(zip(images.strings("image_id"), images.strings("split"), strict=True))
    pairs = zip(rows.strings("source_id"), rows.strings("split"), strict=True)
    for source, split in pairs:
        if split_of.get(source) != split:
            found = split_of.get(source, "no split of this table")
            raise UserError(
                f"{flag} {folder}: found images of {source}, which is in {found}, expected "
                f"in {split}; make the set from the same --images"
            )
    check_generator(images, rows)
    generators = sorted(set(rows.table["generator"].drop_null().to_pylist()))
    sha256 = sha256_file(finished_manifest(folder))
    return GeneratedSet(rows.without_errors(), "-".join(generators) or "unknown", sha256)


@dataclass(frozen=True, slots=True)
class Embedding:
    """What turns images into features."""

    network: ReidNetwork
    size: tuple[int, int]
    """(width, height) of the network's input."""
    console: Console
    flip_test: bool

    def unit(self, images: UInt8[np.ndarray, "rows height width 3"], label: str) -> Features:
        """Return features of length one."""
        quiet = Console(quiet=True)
        return unit(embed(self.network, images, label, quiet, flip_test=self.flip_test))


def centralised(features: Features, means: Features, eta: float) -> Features:
    """Return f' = normalise(f + eta * mean), f at length one; a mean of zeros changes nothing.

    >>> centralised(np.array([[2.0, 0.0]]), np.array([[0.0, 1.0]]), 1.0).round(3).tolist()
    [[0.707, 0.707]]
    """
    return unit(unit(features) + eta * means)


def means_of_generated(
    found: GeneratedSet, images: Images, embedding: Embedding, label: str
) -> Features:
    """Return the mean feature of every image's generated images.

    The mean is of features of length one; of images without any it is 0.

    Raises:
        UserError: If a shard is missing or damaged, or an image in it is none.
    """
    source = found.of(images)
    rows = np.flatnonzero(source >= 0)
    names = found.rows.strings("image_id")
    sums, counts = _Sums(len(images)), np.bincount(source[rows], minlength=len(images))
    with embedding.console.progress(label, len(rows)) as bar:
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK]
            batch = np.stack(
                [
                    pixels.resize(pixels.decode(data, names[row]), embedding.size)
                    for row, data in zip(part.tolist(), found.rows.read_bytes(part), strict=True)
                ]
            )
            sums.add(source[part], embedding.unit(batch, label))
            bar.advance(len(part))
    return sums.divided(counts)


def means_of_copies(
    images: UInt8[np.ndarray, "rows height width 3"],
    counts: Int[np.ndarray, " rows"],
    embedding: Embedding,
    label: str,
) -> Features:
    """Return the mean feature, of features of length one, of copies of every image.

    Args:
        images: The real ones.
        counts: How many copies each gets; 0 for none, else one number for all.
        embedding: What turns images into features.
        label: Of the bar.
    """
    sums, copied = _Sums(len(images)), np.flatnonzero(counts)
    with embedding.console.progress(label, int(counts.sum())) as bar:
        for start in range(0, len(copied), _CHUNK):
            rows = copied[start : start + _CHUNK]
            for copy in copies(images[rows], int(counts.max())):
                sums.add(rows, embedding.unit(copy, label))
                bar.advance(len(rows))
    return sums.divided(counts)


def copies(
    images: UInt8[np.ndarray, "rows height width 3"], count: int
) -> Iterator[UInt8[np.ndarray, "rows height width 3"]]:
    """Give flipped and shifted copies of images; what comes in at an edge repeats it.

    The first is the mirror image itself; then shifted, and mirrored every other time.
    """
    height, width = images.shape[1:3]
    for number in range(count):
        x, y = (
            round(shift * height / 128) for shift in _SHIFTS[(number + number // 8) % len(_SHIFTS)]
        )
        rows = (np.arange(height) - y).clip(0, height - 1)
        columns = (np.arange(width) - x).clip(0, width - 1)
        if number % 2 == 0:
            columns = columns[::-1]
        yield np.ascontiguousarray(images[:, rows][:, :, columns])


def means_of_neighbours(
    features: Features, gallery: Features, count: int, *, own: bool
) -> Features:
    """Return the mean of the nearest gallery features of every feature, all of length one.

    Args:
        features: Of queries, or of the gallery itself.
        gallery: Features of the gallery.
        count: How many neighbours; all where there are fewer.
        own: Whether ``features`` are the gallery's: no image is its own neighbour.
    """
    count = min(count, len(gallery) - own)
    if count < 1:
        return np.zeros_like(features)
    means = np.empty_like(features)
    for start in range(0, len(features), _CHUNK):
        near = features[start : start + _CHUNK] @ gallery.T
        if own:
            near[np.arange(len(near)), np.arange(start, start + len(near))] = -np.inf
        # By similarity and then by place, so that ties do not depend on the machine.
        nearest = np.argsort(-near, axis=1, kind="stable")[:, :count]
        means[start : start + _CHUNK] = gallery[nearest].mean(axis=1)
    return means


class _Sums:
    """Sums of features by image, in float64: their order shall not matter."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._sums: np.ndarray | None = None

    def add(self, rows: Int[np.ndarray, " some"], features: Features) -> None:
        if self._sums is None:
            self._sums = np.zeros((self._count, features.shape[1]))
        np.add.at(self._sums, rows, features.astype(np.float64))

    def divided(self, counts: Int[np.ndarray, " rows"]) -> Features:
        if self._sums is None:
            return np.zeros((self._count, 1))
        return self._sums / np.maximum(counts, 1)[:, None]


@dataclass(frozen=True, slots=True)
class Centraliser:
    """The means of query and gallery, for any weight."""

    copies: FeaturePair | None
    generated: FeaturePair | None
    facts: dict[str, Any]
    """What a report says of the set."""

    def features(self, features: FeaturePair, settings: Centralisation) -> FeaturePair:
        """Return the features of query and gallery under single weights."""
        query, gallery = map(unit, features)
        ((copies_eta,), (eta,)) = settings.copies_eta, settings.eta
        for means, weight in ((self.copies, copies_eta), (self.generated, eta)):
            if means is not None:
                query = centralised(query, means[0], weight)
                gallery = centralised(gallery, means[1], weight)
        if settings.neighbours:
            near = (
                means_of_neighbours(query, gallery, settings.neighbours, own=False),
                means_of_neighbours(gallery, gallery, settings.neighbours, own=True),
            )
            query, gallery = centralised(query, near[0], eta), centralised(gallery, near[1], eta)
        return query, gallery


def centraliser(
    settings: Centralisation,
    found: GeneratedSet | None,
    parts: Mapping[str, tuple[Images, UInt8[np.ndarray, "rows height width 3"]]],
    embedding: Embedding,
) -> Centraliser:
    """Return what centralises the features of query and gallery.

    Args:
        settings: Which means.
        found: The generated images, if these are asked for, or decide which images get copies.
        parts: Images of ``query`` and ``gallery`` and their pixels.
        embedding: What turns images into features.
    """
    of_copies: list[Features] = []
    of_generated: list[Features] = []
    facts: dict[str, Any] = {}
    for name, (images, real) in parts.items():
        has = np.ones(len(images), bool) if found is None else found.has_some_of(images)
        if settings.copies:
            counts = settings.copies * (has if settings.copies_for else np.ones_like(has))
            of_copies.append(means_of_copies(real, counts, embedding, f"{name}, copies"))
        if found is not None and settings.centralise:
            label = f"{name}, generated"
            of_generated.append(means_of_generated(found, images, embedding, label))
        if found is not None:
            facts[name] = {"num_images": len(has), "num_without": int((~has).sum())}

    def pair(means: list[Features]) -> FeaturePair | None:
        return (means[0], means[1]) if means else None

    return Centraliser(pair(of_copies), pair(of_generated), facts)


def protocol_entry(settings: Centralisation, found: GeneratedSet | None) -> dict[str, Any]:
    """Return what a report's protocol says of how features were centralised, by single weights."""
    entry: dict[str, Any] = {}
    if settings.copies:
        entry |= {"copies": settings.copies, "copies_eta": settings.copies_eta[0]}
    if found is not None:
        name = "generated" if settings.centralise is not None else "copies_for"
        entry[name] = {"generator": found.generator, "manifest_sha256": found.sha256}
    if settings.neighbours:
        entry["neighbours"] = settings.neighbours
    if settings.has_eta:
        entry["eta"] = settings.eta[0]
    return entry
