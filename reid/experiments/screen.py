"""Find the synthetic images that no longer show their person: ``reid screen``.

The network of a run on real images alone compares every synthetic image with the centroids of all
people, taken from their real train images; an image whose own person is not among the nearest few
is weighed down or dropped. The result is a folder that ``reid train --synthetic`` reads: a manifest
of its own that points to the shards where they lie. No image is copied, and the screened folder
stays as it is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from tyro.conf import Positional

from manifests.compute.devices import pick_device
from manifests.io import Images, read_images, sha256_file, write_bytes, write_table
from manifests.pixels import read_all
from manifests.runtime import run_record
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.settings import Count, Frozen, Positive
from manifests.runtime.storage import StoragePath, StoragePathFlag
from manifests.schema import JUNK, MANIFEST, SCREEN, SCREEN_TABLE
from manifests.synthetic import (
    SCREENED_OUT,
    SUCCESS,
    Synthetic,
    finished_manifest,
    read_synthetic,
)
from reid.data.dataset import Selection, decode_rows, select
from reid.data.labels import labelled
from reid.data.leakage import check_origin, check_people, generator_facts
from reid.evaluation.identity_similarity import Centroids, IdentitySimilarity, centroids_of
from reid.evaluation.new_people import new_people_similarity
from reid.models.features import Device, embed, load_network
from reid.models.network import ReidNetwork
from reid.models.run_folder import TrainingRun, read_run

_WINDOW: Final = 4096
"""Synthetic images decoded at once."""


DEFAULT_WEIGHT: Final = 0.5


class ScreenSettings(Frozen):
    """Drop or weigh down synthetic images that a trained network does not take for their person."""

    synthetic: Positional[StoragePathFlag]
    """OUT of a finished augment generate."""
    run: Path
    """Folder of a finished reid train on real images alone: its network screens."""
    images: Path
    """Table of real images, from 'augment index': its train rows say what people look like."""
    out: Path
    """Folder to write, for reid train --synthetic. It points to the shards of the other."""
    root: Path | None = None
    """Where the images' relative paths start, if not where the table says."""
    real_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of the train images that say what people look like, as in reid train."""
    data_seed: Count = 0
    """Chooses that part, as in reid train."""
    drop_beyond: Positive = 10
    """Drop an image if its own person is not among so many nearest ones."""
    weigh_beyond: Positive | None = None
    """Weigh an image down if its own person is not among so many nearest ones (default: none)."""
    weight: Annotated[float, Field(gt=0, le=1)] = DEFAULT_WEIGHT
    """What such an image counts for in the loss, times what it counted for before."""
    device: Device = "auto"
    """auto is cuda where there is one."""

    @model_validator(mode="after")
    def _check_ranks(self) -> ScreenSettings:
        if self.weigh_beyond is None and self.weight != DEFAULT_WEIGHT:
            raise UserError(
                f"--weight {self.weight:g}: found no --weigh-beyond, expected which images it is of"
            )
        if self.weigh_beyond is not None and self.weigh_beyond >= self.drop_beyond:
            raise UserError(
                f"--weigh-beyond {self.weigh_beyond} is not below --drop-beyond "
                f"{self.drop_beyond}; expected fewer, for images beyond both are dropped"
            )
        return self


@dataclass(frozen=True, slots=True)
class Screener:
    """A trained network, and what it says of whom images look like."""

    network: ReidNetwork
    size: tuple[int, int]
    """(width, height) of the network's input."""
    console: Console

    def of_real(
        self, images: Images, own: Int[np.ndarray, " rows"]
    ) -> tuple[Centroids, IdentitySimilarity]:
        """Return the centroids of people, and whom their images look like when each is left out.

        People with one image have a centroid, but nothing is left of it without that image.
        """
        features = embed(self.network, read_all(images, self.size), "real", self.console)
        centroids = centroids_of(features, own, num_people=int(own.max()) + 1)
        others = np.bincount(own)[own] > 1
        return centroids, centroids.similarity_left_out(features[others], own[others])

    def of_synthetic(
        self,
        synthetic: Synthetic,
        rows: Int[np.ndarray, " rows"],
        own: Int[np.ndarray, " rows"],
        centroids: Centroids,
    ) -> IdentitySimilarity:
        """Return whom some synthetic images look like."""
        if not len(rows):
            return IdentitySimilarity(np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))
        return centroids.similarity(self.features(synthetic, rows), own)

    def features(
        self, synthetic: Synthetic, rows: Int[np.ndarray, " rows"]
    ) -> Float[np.ndarray, "rows width"]:
        """Return the features of some synthetic images; they are read window by window."""
        features: list[Float[np.ndarray, "window width"]] = []
        with self.console.progress("synthetic", len(rows)) as bar:
            for start in range(0, len(rows), _WINDOW):
                window = decode_rows(synthetic, rows[start : start + _WINDOW], self.size)
                features.append(embed(self.network, window, "synthetic", Console(quiet=True)))
                bar.advance(len(window))
        return np.concatenate(features)

    def of_new_people(
        self, synthetic: Synthetic, rows: Int[np.ndarray, " rows"], centroids: Centroids
    ) -> dict[str, float | int]:
        """Say how people who do not exist lie among real ones, and return it."""
        people, person = labelled(synthetic.take(rows).strings("person_id"))
        found = new_people_similarity(self.features(synthetic, rows), person, centroids)
        facts = {
            "people": len(people),
            "images": len(rows),
            "share_memorised": found.share_memorised,
            "cosine_within": found.within,
            "cosine_between": found.between,
            "cosine_to_nearest_real": float(np.median(found.to_real)),
            "cosine_between_nearest_real": float(np.median(found.real_to_real)),
        }
        self.console.say(
            f"{len(people):,} new people: {found.share_memorised:.1%} are nearer to a train person "
            "than train people are to the nearest other (median cosine "
            f"{facts['cosine_between_nearest_real']:.3f}), "
            f"themselves {facts['cosine_to_nearest_real']:.3f}; images and their own person "
            f"{found.within:.3f}, two new people {found.between:.3f}",
            event="new_people",
            **facts,
        )
        return facts


def screen(settings: ScreenSettings, console: Console) -> Exit:
    """Write OUT/manifest.parquet, and OUT/screen.parquet with what was found of every image.

    People who do not exist have nobody to look like: all of their images stay, and how near they
    come to real people is said.

    Raises:
        UserError: If an input cannot be used, the run saw synthetic images or people of the
            table's test splits, no image would be left, or OUT holds another run.
    """
    run = read_run(settings.run)
    images = read_images(settings.images, settings.root)
    synthetic = read_synthetic(settings.synthetic)
    check_origin(images, synthetic)
    check_people(images, run.people)
    run.check_knows(images.only("train").strings("person_id"))
    network = load_network(run, run.default_weights).to(pick_device(settings.device))
    config = _config(settings, run)
    is_home_of = run_record.is_home_of(
        settings.out, config, "an empty folder or one of 'reid screen'"
    )
    if is_home_of and (settings.out / SUCCESS).exists():
        console.say(f"{settings.out}: screening is already complete")
        return Exit.DONE
    selection = select(
        images,
        synthetic,
        real_fraction=settings.real_fraction,
        num_validation_people=0,
        data_seed=settings.data_seed,
    )
    screener = Screener(network, (run.recipe["width"], run.recipe["height"]), console)
    rows, new = _rows_of_somebody(synthetic, selection)
    shown = synthetic.take(rows).strings("person_id")
    # Everybody has a real image, so these are the people of the real images.
    people, own = labelled(selection.train.strings("person_id") + shown)
    own_of_real, own_of_synthetic = np.split(own, [len(selection.train)])
    centroids, real = screener.of_real(selection.train, own_of_real)
    facts = _facts(run, synthetic)
    if len(new):
        facts["new_people"] = screener.of_new_people(synthetic, new, centroids)
    found = screener.of_synthetic(synthetic, rows, own_of_synthetic, centroids)
    factors = factors_of(found.rank, settings)
    _say(settings, real, found, factors, console)
    _say_leak(images, synthetic.take(rows), np.array(people)[found.nearest], console)
    if len(rows) and not factors.any():
        raise UserError(
            f"{settings.synthetic}: all {len(rows):,} images would be dropped; expected a run "
            "that knows the people, or a larger --drop-beyond"
        )
    run_record.write(settings.out, config, facts)
    seen = _seen(synthetic, rows, found, factors, people)
    write_table(seen, settings.out / SCREEN_TABLE, {})
    manifest = _screened(synthetic, rows, seen, settings.out)
    write_table(manifest, settings.out / "manifest.parquet", {})
    write_bytes(b"", settings.out / SUCCESS)
    return Exit.DONE


def factors_of(
    rank: Int[np.ndarray, " images"], settings: ScreenSettings
) -> Float[np.ndarray, " images"]:
    """Return what images count for from now on, times what they counted for: 0 is dropped.

    Args:
        rank: Rank of every image's own person among all people, from 1.
        settings: Where images become lighter and where they are dropped.
    """
    factors = np.ones(len(rank))
    if settings.weigh_beyond is not None:
        factors[rank > settings.weigh_beyond] = settings.weight
    factors[rank > settings.drop_beyond] = 0
    return factors


def _config(settings: ScreenSettings, run: TrainingRun) -> dict[str, Any]:
    """Return what decides the verdicts, with inputs by their sha256."""
    return settings.model_dump(
        mode="json", exclude={"synthetic", "run", "images", "out", "root", "device"}
    ) | {
        "synthetic_sha256": sha256_file(finished_manifest(settings.synthetic)),
        "weights_sha256": sha256_file(run.weights(run.default_weights)),
        "images_sha256": sha256_file(settings.images),
    }


def _facts(run: TrainingRun, synthetic: Synthetic) -> dict[str, Any]:
    """Return what a report on a training with the screened images shall know of them."""
    return {
        "settings": {"weights_facts": generator_facts(synthetic)},
        "screened_by": {"num_real": run.facts["num_real"], "recipe": run.recipe},
        "versions": run_record.versions("torch", "torchreid", "numpy", "pyarrow"),
    }


def _rows_of_somebody(
    synthetic: Synthetic, selection: Selection
) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " new_rows"]]:
    """Return the finished rows that show somebody, and those of people who do not exist.

    Others have no person to lose.
    """
    finished = synthetic.take(selection.synthetic_rows)
    shows_somebody, is_new = np.array(finished.strings("person_id")) != JUNK, finished.are_new()
    rows = selection.synthetic_rows[shows_somebody & ~is_new]
    new = selection.synthetic_rows[shows_somebody & is_new]
    if not len(rows) and not len(new):
        raise UserError(f"{synthetic.root}: has no image of a person; expected some to look at")
    return rows, new


def _say(
    settings: ScreenSettings,
    real: IdentitySimilarity,
    found: IdentitySimilarity,
    factors: Float[np.ndarray, " images"],
    console: Console,
) -> None:
    for name, similarity in (("real images, each left out", real), ("synthetic images", found)):
        if len(similarity.rank):
            console.say(
                f"{name}: {similarity.share_within(1):.1%} are nearest to their own person, "
                f"{similarity.share_within(settings.drop_beyond):.1%} have him among the "
                f"{settings.drop_beyond} nearest; median cosine "
                f"{np.median(similarity.similarity):.3f}"
            )
    dropped, kept = int((factors == 0).sum()), int((factors == 1).sum())
    lighter = len(factors) - dropped - kept
    console.say(
        f"{settings.synthetic}: of {len(factors):,} images {kept:,} kept as they are, "
        f"{lighter:,} weighed down, {dropped:,} dropped",
        event="screened",
        images=len(factors),
        kept=kept,
        weighed_down=lighter,
        dropped=dropped,
    )


def _say_leak(images: Images, synthetic: Synthetic, nearest: np.ndarray, console: Console) -> None:
    """Say how many images look like the person who was cut out of their background."""
    person_of = dict(zip(images.strings("image_id"), images.strings("person_id"), strict=True))
    pairs = zip(
        synthetic.strings("person_id"), synthetic.strings("background_id"), nearest, strict=True
    )
    like_cut_out = [
        found == person_of[background]
        for own, background, found in pairs
        if background in person_of and person_of[background] != own
    ]
    if like_cut_out:
        console.say(
            f"{np.mean(like_cut_out):.1%} of {len(like_cut_out):,} images before a street are "
            "nearest to the person who was cut out of it",
            event="leak",
            images=len(like_cut_out),
            nearest_to_cut_out=sum(like_cut_out),
        )


def _seen(
    synthetic: Synthetic,
    rows: Int[np.ndarray, " rows"],
    found: IdentitySimilarity,
    factors: Float[np.ndarray, " rows"],
    people: tuple[str, ...],
) -> pa.Table:
    """Return what was found of every image that was looked at, and its weight from now on."""
    table = synthetic.table.take(pa.array(rows))
    before = table["weight"].fill_null(1.0).to_numpy()
    columns = {
        "image_id": table["image_id"],
        "person_id": table["person_id"],
        "similarity": found.similarity.astype(np.float32),
        "rank": found.rank.astype(np.int32),
        "nearest_person": np.array(people)[found.nearest],
        "weight": pa.array(before * factors, pa.float32(), mask=factors == 0),
    }
    return pa.table(columns, schema=SCREEN)


def _screened(
    synthetic: Synthetic, rows: Int[np.ndarray, " rows"], seen: pa.Table, out: Path
) -> pa.Table:
    """Return the manifest with new weights and errors, its shards named from OUT."""
    errors, weights = synthetic.strings("error"), synthetic.table["weight"].to_pylist()
    for row, rank, weight in zip(rows, *map(seen.column, ("rank", "weight")), strict=True):
        weights[row] = weight.as_py()
        if weights[row] is None:
            errors[row] = f"{SCREENED_OUT}: its own person is number {rank} of the nearest"
    shards = synthetic.strings("shard")
    names = {shard: _name_from(out, synthetic.shard_file(shard)) for shard in set(shards)}
    new = {"error": errors, "weight": weights, "shard": [names[shard] for shard in shards]}
    table = synthetic.table
    for name, values in new.items():
        field = MANIFEST.field(name)
        table = table.set_column(
            MANIFEST.get_field_index(name), field, pa.array(values, field.type)
        )
    return table


def _name_from(out: Path, shard: StoragePath) -> str:
    """Return a shard's name for a manifest in OUT: so that both folders may move together."""
    if isinstance(shard, Path):
        return os.path.relpath(shard.resolve(), out.resolve())
    return str(shard)
