"""Rules over whole tables: unique keys, and synthetic images of train people only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from manifests.io import Images, check_splits, first_of
from manifests.keypoints import visible
from manifests.person_ids import check_spellings
from manifests.runtime.console import UserError
from manifests.schema import CANONICAL, DISTRACTOR, JUNK, SPLITS, UNKNOWN_CAMERA
from manifests.synthetic import Synthetic


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of an images table."""

    rows: Mapping[str, int]
    """Images per split."""
    people: Mapping[str, int]
    """People per split, junk and distractors left out."""
    num_test_people: int
    """People in query and gallery together."""
    num_distractors: int
    num_junk: int
    num_cameras: int
    num_annotated: int
    """Rows with keypoints, also those without a single joint."""
    num_jointless: int
    """Rows with keypoints of which every joint is missing."""


def count(images: Images) -> Counts:
    """Return the counts of a table."""
    people = np.asarray(images.strings("person_id"), dtype=object)
    splits = np.asarray(images.strings("split"), dtype=object)
    nobody = np.isin(people, [JUNK, DISTRACTOR])
    cameras = set(images.table["camera_id"].to_pylist()) - {UNKNOWN_CAMERA}
    annotated = np.asarray(images.table["keypoints"].is_valid())
    jointless = annotated & ~visible(images.keypoints()).any(axis=1)
    return Counts(
        rows={split: int((splits == split).sum()) for split in SPLITS},
        people={split: len(set(people[~nobody & (splits == split)])) for split in SPLITS},
        num_test_people=len(set(people[~nobody & (splits != "train")])),
        num_distractors=int((people == DISTRACTOR).sum()),
        num_junk=int((people == JUNK).sum()),
        num_cameras=len(cameras),
        num_annotated=int(annotated.sum()),
        num_jointless=int(jointless.sum()),
    )


def check_images(images: Images, where: str) -> Counts:
    """Check the rules of an images table and return its counts.

    Raises:
        UserError: If an image is in two rows, a split is unknown, a junk or distractor row is
            outside the gallery, or a person has two spellings; names ``where`` and the first rows
            that break the rule.
    """
    ids, people = images.strings("image_id"), images.strings("person_id")
    _check_none(where, "image_id in more than one row", _repeated(ids))
    check_splits(images.table, where)
    check_spellings(people, where)
    return count(images)


def check_synthetic(images: Images, synthetic: Synthetic) -> int:
    """Check the rules of synthetic rows and return how many of them have an image.

    Args:
        images: The real images that the synthetic ones were made from.
        synthetic: The output of ``augment generate``.

    Raises:
        UserError: If an image is in two rows, also across both tables; a synthetic row is not
            in train; its source is no train image of the same person, or it has none and shows a
            person of the real images; or its pose or background is not taken from a train image.
            The message names the folder and the first such rows.
    """
    where = str(synthetic.root)
    train = images.only("train")
    person_of = dict(zip(train.strings("image_id"), train.strings("person_id"), strict=True))
    ids = synthetic.strings("image_id")
    is_new = synthetic.are_new()
    of_somebody = synthetic.take(np.flatnonzero(~is_new))
    check_new_people(images, synthetic)
    _check_none(where, "image_id in more than one row", _repeated(ids))
    real = set(images.strings("image_id"))
    _check_none(where, "image_id of a real image", (i for i in ids if i in real))
    splits = synthetic.strings("split")
    _check_none(
        where,
        "synthetic row outside train",
        (f"{i} ({split})" for i, split in zip(ids, splits, strict=True) if split != "train"),
    )
    _check_none(
        where,
        "source_id that is no train image of these images",
        (
            f"{i} ({source})"
            for i, source in zip(*map(of_somebody.strings, ("image_id", "source_id")), strict=True)
            if source not in person_of
        ),
    )
    _check_none(
        where,
        "source_id that shows another person",
        (
            f"{i} ({person}, its source shows {person_of[source]})"
            for i, person, source in zip(
                *map(of_somebody.strings, ("image_id", "person_id", "source_id")), strict=True
            )
            if person_of[source] != person
        ),
    )
    _check_none(
        where,
        "pose_id that is no train image of these images and no canonical pose",
        (
            f"{i} ({pose})"
            for i, pose in zip(ids, synthetic.strings("pose_id"), strict=True)
            if pose not in person_of and not pose.startswith(CANONICAL)
        ),
    )
    _check_none(
        where,
        "background_id that is no train image of these images",
        (
            f"{i} ({background})"
            for i, background in zip(ids, synthetic.table["background_id"].to_pylist(), strict=True)
            if background is not None and background not in person_of
        ),
    )
    return synthetic.table["error"].null_count


def check_new_people(images: Images, synthetic: Synthetic) -> None:
    """Check that rows without a source show nobody of the real images.

    Raises:
        UserError: If one shows a person of any split; names the folder and the first such rows.
    """
    real = set(images.strings("person_id")) | {JUNK, DISTRACTOR}
    new = synthetic.take(np.flatnonzero(synthetic.are_new()))
    _check_none(
        str(synthetic.root),
        "no source_id, but a person_id of real images",
        (
            f"{i} ({person})"
            for i, person in zip(*map(new.strings, ("image_id", "person_id")), strict=True)
            if person in real
        ),
    )


def _repeated(ids: list[str]) -> list[str]:
    names, counts = np.unique(np.asarray(ids, dtype=str), return_counts=True)
    return names[counts > 1].tolist()


def _check_none(where: str, problem: str, rows: Iterable[str]) -> None:
    found = list(rows)
    if found:
        raise UserError(f"{where}: {problem}: {first_of(found, len(found))}")
