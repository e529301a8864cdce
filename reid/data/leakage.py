"""Whether scores can be trusted: nothing that is tested on may have been trained on.

People in train and in a test split, synthetic rows outside train, and synthetic images that were
made from test images, or by a generator trained on them, are refused. What cannot be known or need
not be wrong is counted and told: sources and poses outside the table, what the generator was
trained on, near-duplicates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import UInt8, UInt64
from safetensors import SafetensorError, safe_open

from manifests import pixels
from manifests.io import Images, sha256_file
from manifests.person_ids import other_spellings
from manifests.runtime import run_record
from manifests.runtime.console import UserError
from manifests.runtime.files import found_at
from manifests.runtime.json_files import is_whole
from manifests.schema import CANONICAL, DISTRACTOR, JUNK
from manifests.subset import sha256_of_images, subset_train
from manifests.synthetic import Synthetic

MOST_BITS: Final = 4
"""Of 64: images whose hashes differ in at most so many are told as near-duplicates. Between the
train and gallery images of Market-1501, which show different people, one pair of 219 million is."""

NUM_LISTED: Final = 100
_CHUNK: Final = 256
_HEADER: Final = "augment"
"""The metadata key of a generator's weights."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the synthetic images of a run come from; counts are of rows."""

    num_rows: int
    num_from_unknown: int
    """Source, pose or background stands in no row of the images table."""
    num_from_outside: int
    """Source, pose or background is no image that the run trains on: outside its real fraction, of
    validation people, or unknown."""
    generator: str
    """What is known of the generator's training data."""
    generator_facts: dict[str, Any] | None
    """As the generator's weights tell them; none where they are not at hand."""
    screened_by: str | None = None
    """What is known of the training data of the network that screened them, if one did."""

    @property
    def sentence(self) -> str:
        """What a reader of scores should know."""
        outside = (
            f"{self.num_from_outside:,} of {self.num_rows:,} synthetic images have a source, "
            "pose or background outside the real images trained on"
        )
        screened = (
            f"; the network that screened them on {self.screened_by}" if self.screened_by else ""
        )
        return f"{outside}; the generator was trained on {self.generator}{screened}"


def check_people(images: Images, train_people: set[str]) -> None:
    """Check that nobody who is trained on stands in a test split.

    Raises:
        UserError: If somebody does, or may do so in another spelling (``1`` and ``0001``).
    """
    for split in ("query", "gallery"):
        others = set(images.only(split).strings("person_id")) - {JUNK, DISTRACTOR}
        shared = sorted(train_people & others)
        if shared:
            raise UserError(
                f"{images.root}: {len(shared)} people are in train and in {split} (first: "
                f"{shared[0]}); expected none, or the scores would mean nothing"
            )
        doubtful = other_spellings(sorted(train_people), sorted(others))
        if doubtful:
            raise UserError(
                f"{images.root}: '{doubtful[0][0]}' of train and '{doubtful[0][1]}' of {split} "
                f"differ in zeros, a decimal point or case alone ({len(doubtful)} such pairs); "
                "expected names that tell people apart"
            )


def check_origin(images: Images, synthetic: Synthetic) -> None:
    """Check that no synthetic image comes from the test splits, by its provenance columns.

    Raises:
        UserError: If a synthetic row is not in train, its source, pose or background is a test
            image, or the generator's weights say that they were trained on another split than
            train, or on test images of this table.
    """
    split_of = dict(zip(images.strings("image_id"), images.strings("split"), strict=True))
    columns = zip(*map(synthetic.strings, ("image_id", "split", *_PARENTS)), strict=True)
    for name, split, *parents in columns:
        if split != "train":
            raise UserError(
                f"{synthetic.root}: synthetic image {name} is in the split '{split}'; expected "
                "train only"
            )
        for role, parent in zip(_PARENTS, parents, strict=True):
            if parent is not None and split_of.get(parent, "train") != "train":
                raise UserError(
                    f"{synthetic.root}: {role} of synthetic image {name} is {parent}, an image of "
                    f"the split '{split_of[parent]}'; expected train images only, or the scores "
                    "would mean nothing"
                )
    check_generator(images, synthetic)


def check_generator(images: Images, synthetic: Synthetic) -> None:
    """Check that a generator was not trained on the test splits, as far as its weights say.

    Raises:
        UserError: If they say that they were trained on another split than train, or on test images
            of this table.
    """
    facts = generator_facts(synthetic)
    split = "train" if facts is None else facts.get("train_split", "train")
    if split != "train":
        raise UserError(
            f"{synthetic.root}: its generator was trained on the split '{split}'; expected train"
        )
    found = None if facts is None else facts.get("train_sha256")
    for rows, digest in _digests_of_test_rows(images).items():
        if found == digest:
            raise UserError(
                f"{synthetic.root}: its generator was trained on {rows} of this table, by "
                "their digest; expected train images only, or the scores would mean nothing"
            )


_PARENTS: Final = ("source_id", "pose_id", "background_id")


def origin_of(images: Images, real_train: Images, synthetic: Synthetic) -> Origin:
    """Return where synthetic images come from.

    Args:
        images: The whole images table.
        real_train: The rows of it that are trained on.
        synthetic: The rows that are used.
    """
    known, trained = set(images.strings("image_id")), set(real_train.strings("image_id"))
    columns = zip(*map(synthetic.strings, _PARENTS), strict=True)
    # Not every generator looks at a background.
    parents = [
        {parent for parent in row if parent is not None and not parent.startswith(CANONICAL)}
        for row in columns
    ]
    facts = generator_facts(synthetic)
    return Origin(
        num_rows=len(parents),
        num_from_unknown=sum(not known.issuperset(row) for row in parents),
        num_from_outside=sum(not trained.issuperset(row) for row in parents),
        generator=_training_data(images, facts),
        generator_facts=facts,
        screened_by=_screening_data(synthetic),
    )


def leakage_block(
    images: Images, real_train: Images, synthetic: Synthetic | None
) -> dict[str, Any]:
    """Return what ``report.json`` says of a run whose inputs were checked."""
    origin = None if synthetic is None else origin_of(images, real_train, synthetic)
    return {
        **people_block(was_checked=True),
        "synthetic": origin and {**asdict(origin), "num_from_test": 0, "summary": origin.sentence},
    }


def people_block(*, was_checked: bool) -> dict[str, Any]:
    """Return what ``report.json`` says of people in train and test; shared ones are refused."""
    return {
        "train_and_test_share_people": False if was_checked else None,
        "train_and_test_people": "nobody in both, by their names"
        if was_checked
        else "not checked: another data set, whose names are its own",
    }


def generator_facts(synthetic: Synthetic) -> dict[str, Any] | None:
    """Return what the generator's weights say of their training, none where nothing is at hand.

    ``augment generate`` writes it into ``run.json``; of an older folder the weights file is read,
    if it still lies where it lay and is the same.
    """
    path = synthetic.root / run_record.RUN_RECORD
    if not path.is_file():
        return None
    settings = run_record.read(path).get("settings", {})
    if settings.get("weights_facts") is not None:
        return _sound_facts(settings["weights_facts"], str(path))
    name = settings.get("weights")
    digests = set(synthetic.table["weights_sha256"].drop_null().to_pylist())
    if (
        not isinstance(name, str)
        or found_at(Path(name)) is not None
        or digests != {sha256_file(Path(name))}
    ):
        return None
    try:
        with safe_open(name, framework="numpy") as file:
            facts = json.loads((file.metadata() or {})[_HEADER])["facts"]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return None
    return _sound_facts(facts, name)


def _sound_facts(facts: Any, where: str) -> dict[str, Any]:
    """Return what weights say of their training, if it can be that."""
    is_sound = (
        isinstance(facts, dict)
        and isinstance(facts.get("train_sha256", ""), str)
        and _is_fraction(facts.get("real_fraction", 1.0))
        and is_whole(facts.get("data_seed", 0), 0, 2**63)
    )
    if not is_sound:
        raise UserError(
            f"{where}: found other facts of a training than expected (train_sha256, real_fraction, "
            "data_seed), so leakage cannot be checked"
        )
    return facts


def _is_fraction(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1


def _training_data(images: Images, facts: Mapping[str, Any] | None) -> str:
    """Return what a generator was trained on, and whether that is certain."""
    if not facts or "train_sha256" not in facts:
        return "unknown images (its weights do not say)"
    fraction, seed = facts.get("real_fraction", 1.0), facts.get("data_seed", 0)
    part = subset_train(images, fraction, seed).only("train")
    if sha256_of_images(part) != facts["train_sha256"]:
        count = facts.get("train_images", "?")
        return f"{count} images of another data set, or of other rows of this one"
    if fraction == 1:
        return f"all {len(part):,} train images of this table"
    return f"{len(part):,} train images of this table (fraction {fraction}, data seed {seed})"


def _screening_data(synthetic: Synthetic) -> str | None:
    """Return what the network of ``reid screen`` was trained on, if there was one."""
    path = synthetic.root / run_record.RUN_RECORD
    screened_by = run_record.read(path).get("screened_by") if path.is_file() else None
    if screened_by is None:
        return None
    recipe = screened_by.get("recipe") if isinstance(screened_by, dict) else None
    fraction = recipe.get("real_fraction") if isinstance(recipe, dict) else None
    if not _is_fraction(fraction) or not is_whole(screened_by.get("num_real"), 0, 2**63):
        raise UserError(
            f"{path}: found no num_real and real_fraction of the network that screened, expected "
            "what 'reid screen' writes"
        )
    return f"{screened_by['num_real']:,} real images (fraction {fraction})"


def _digests_of_test_rows(images: Images) -> dict[str, str]:
    """Return the digests of a generator that saw test images: a table may call them train."""
    splits = np.array(images.strings("split"))
    if (splits == "train").all() or images.table["sha256"].null_count:
        return {}
    tested = {
        "the query images": splits == "query",
        "the gallery images": splits == "gallery",
        "the query and gallery images": splits != "train",
        "all images, also query and gallery,": np.ones(len(splits), bool),
    }
    return {
        name: sha256_of_images(images.take(np.flatnonzero(rows))) for name, rows in tested.items()
    }


def difference_hashes(
    images: UInt8[np.ndarray, "rows height width 3"],
) -> UInt64[np.ndarray, " rows"]:
    """Return a perceptual hash of every image: which of 8 x 8 cells are darker than their right.

    The difference hash (dHash, Krawetz 2013). It outlives encoding and scaling.

    >>> ramp = np.tile(np.arange(0, 180, 20, np.uint8)[None, None, :, None], (1, 8, 1, 3))
    >>> difference_hashes(ramp).tolist() == [2**64 - 1]
    True
    """
    bits = np.empty((len(images), 8, 8), bool)
    for row, image in enumerate(images):
        grey = pixels.resize(image, (9, 8)).sum(axis=2, dtype=np.int32)
        bits[row] = grey[:, 1:] > grey[:, :-1]
    return np.packbits(bits.reshape(-1, 64), axis=1).view(np.uint64)[:, 0]


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """Pairs of a train and a gallery image that look the same."""

    count: int
    nearest: list[tuple[int, int, int]]
    """(train row, gallery row, differing bits) of the first hundred, nearest first."""


def near_duplicates(
    train: UInt64[np.ndarray, " train"], gallery: UInt64[np.ndarray, " gallery"]
) -> NearDuplicates:
    """Return the pairs whose hashes differ in at most ``MOST_BITS`` bits.

    Of data with many images of one colour, all pairs are; so no more of them are held than told.
    """
    count, nearest = 0, np.empty((0, 3), np.int64)
    for start in range(0, len(train), _CHUNK):
        differing = np.bitwise_count(train[start : start + _CHUNK, None] ^ gallery)
        rows, columns = np.nonzero(differing <= MOST_BITS)
        count += len(rows)
        pairs = np.stack([rows + start, columns, differing[rows, columns]], axis=1)
        nearest = np.concatenate([nearest, pairs])
        nearest = nearest[np.argsort(nearest[:, 2], kind="stable")[:NUM_LISTED]]
    return NearDuplicates(count, [(row, column, bits) for row, column, bits in nearest.tolist()])


def duplicates_block(found: NearDuplicates, train: Images, gallery: Images) -> dict[str, Any]:
    """Return what ``report.json`` says of near-duplicates: how many, and the nearest by name."""
    train_names, gallery_names = train.strings("image_id"), gallery.strings("image_id")
    return {
        "num_pairs": found.count,
        "rule": f"64-bit difference hashes that differ in at most {MOST_BITS} bits",
        "nearest": [
            {"train": train_names[row], "gallery": gallery_names[column], "bits": bits}
            for row, column, bits in found.nearest
        ],
    }
