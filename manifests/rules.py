"""Rules that no single row can break: unique keys, and synthetic images only of train people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from manifests.io import Images
from manifests.keypoints import visible
from manifests.runtime.console import UserError
from manifests.schema import DISTRACTOR, JUNK, SPLITS, UNKNOWN_CAMERA
from manifests.synthetic import Synthetic

NUM_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Counts:
    """What an images table holds."""

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
    """Return what the table holds."""
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
    """Return what the table holds, once it keeps the rules.

    Raises:
        UserError: If an image stands in two rows, a split is unknown, or a junk or distractor row
            stands outside the gallery; names ``where`` and the first offenders.
    """
    ids, splits = images.strings("image_id"), images.strings("split")
    people = images.strings("person_id")
    _refuse(where, "image_id in more than one row", _repeated(ids))
    _refuse(
        where,
        f"split not one of {', '.join(SPLITS)}",
        (f"{i} ({s})" for i, s in zip(ids, splits, strict=True) if s not in SPLITS),
    )
    _refuse(
        where,
        f"person_id {JUNK} (junk) or {DISTRACTOR} (distractor) outside the gallery",
        (
            f"{i} ({split})"
            for i, split, person in zip(ids, splits, people, strict=True)
            if split != "gallery" and person in {JUNK, DISTRACTOR}
        ),
    )
    return count(images)


def check_synthetic(images: Images, synthetic: Synthetic) -> int:
    """Return how many synthetic rows have an image, once all rows keep the rules.

    Args:
        images: The real images that the synthetic ones were made from.
        synthetic: What ``augment generate`` made.

    Raises:
        UserError: If an image stands in two rows, also across both tables; a synthetic row is not
            in train; its source is no train image of the same person; or its pose is not taken
            from a train image. The message names the folder and the first offenders.
    """
    where = str(synthetic.root)
    train = images.only("train")
    person_of = dict(zip(train.strings("image_id"), train.strings("person_id"), strict=True))
    ids = synthetic.strings("image_id")
    people, sources = synthetic.strings("person_id"), synthetic.strings("source_id")
    _refuse(where, "image_id in more than one row", _repeated(ids))
    real = set(images.strings("image_id"))
    _refuse(where, "image_id of a real image", (i for i in ids if i in real))
    splits = synthetic.strings("split")
    _refuse(
        where,
        "synthetic row outside train",
        (f"{i} ({split})" for i, split in zip(ids, splits, strict=True) if split != "train"),
    )
    _refuse(
        where,
        "source_id that is no train image of these images",
        (
            f"{i} ({source})"
            for i, source in zip(ids, sources, strict=True)
            if source not in person_of
        ),
    )
    _refuse(
        where,
        "source_id that shows another person",
        (
            f"{i} ({person}, its source shows {person_of[source]})"
            for i, person, source in zip(ids, people, sources, strict=True)
            if person_of[source] != person
        ),
    )
    _refuse(
        where,
        "pose_id that is no train image of these images",
        (
            f"{i} ({pose})"
            for i, pose in zip(ids, synthetic.strings("pose_id"), strict=True)
            if pose not in person_of
        ),
    )
    return synthetic.table["error"].null_count


def _repeated(ids: list[str]) -> list[str]:
    names, counts = np.unique(np.asarray(ids, dtype=str), return_counts=True)
    return names[counts > 1].tolist()


def _refuse(where: str, what: str, offenders: Iterable[str]) -> None:
    found = list(offenders)
    if found:
        shown = ", ".join(found[:NUM_SHOWN])
        more = f" and {len(found) - NUM_SHOWN:,} more" if len(found) > NUM_SHOWN else ""
        raise UserError(f"{where}: {what}: {shown}{more}")
