"""A split for crops that have none: test people, and of their images queries and gallery.

As in Market-1501 nobody is in train and in test, and every query has an image of its person from
another camera in the gallery. A test person has one query of every camera with several of the
person's images: Market-1501 has one of every camera, but there every camera has several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from manifests.datasets.crops import Crop
from manifests.runtime.console import UserError
from manifests.runtime.random_numbers import random_bits
from manifests.schema import UNKNOWN_CAMERA

_SEED: Final = 0


def draw_test_people(crops: Sequence[Crop], share: float) -> tuple[list[Crop], str]:
    """Return the crops with test people drawn among all, and a sentence of what was drawn.

    Test people are drawn among those whom two known cameras saw, by their names alone: more crops
    of the same people draw the same. Of each, one image of every camera that has several is a query
    (of all cameras with one image, one), the others are gallery.

    Args:
        crops: All of the split train.
        share: Of the people, above 0 and below 1.

    Raises:
        UserError: If the share is out of range, some crops have a split already, or too few people
            were seen by two cameras, or nobody is left to train on.
    """
    flag = f"--test-people {share:g}"
    if not 0 < share < 1:
        raise UserError(f"{flag}: expected a share of the people, above 0 and below 1")
    given = next((crop for crop in crops if crop.split != "train"), None)
    if given is not None:
        raise UserError(
            f"{flag}: '{given.image_id}' is in the split '{given.split}' already; expected no "
            "split of your own, or no --test-people"
        )
    images: dict[str, dict[int, list[Crop]]] = {}
    for crop in sorted(crops, key=lambda crop: crop.image_id):
        images.setdefault(crop.person_id, {}).setdefault(crop.camera_id, []).append(crop)
    eligible = [p for p, seen in images.items() if len(seen.keys() - {UNKNOWN_CAMERA}) > 1]
    wanted = max(1, round(share * len(images)))
    if len(eligible) < wanted or len(images) - wanted < 2:
        raise UserError(
            f"{flag}: wants {wanted:,} of {len(images):,} people, found {len(eligible):,} whom two "
            "cameras saw; expected as many (camera_id), and two people more to train on"
        )
    drawn = sorted(eligible, key=lambda person: int(random_bits(_SEED, f"test/{person}")[0]))
    split = dict.fromkeys((crop.image_id for crop in crops), "train")
    for person in drawn[:wanted]:
        split |= _queries_and_gallery(images[person])
    queries = sum(value == "query" for value in split.values())
    said = f"drawn: {wanted:,} of {len(images):,} people for tests, with {queries:,} queries"
    return [replace(crop, split=split[crop.image_id]) for crop in crops], said


def _queries_and_gallery(seen: dict[int, list[Crop]]) -> dict[str, str]:
    """Return the split of a person's images, by name."""
    split = {crop.image_id: "gallery" for own in seen.values() for crop in own}
    known = {camera: own for camera, own in seen.items() if camera != UNKNOWN_CAMERA}
    several = [own for own in known.values() if len(own) > 1] or [min(known.items())[1]]
    for own in several:
        first = min(own, key=lambda crop: int(random_bits(_SEED, f"query/{crop.image_id}")[0]))
        split[first.image_id] = "query"
    return split
