"""Data sets whose file names say person and camera, in one folder per split."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from manifests import rules
from manifests.datasets.crops import Crop, Report, check_folder, images_of
from manifests.datasets.keypoint_files import read_keypoint_files
from manifests.datasets.layouts import LayoutOptions
from manifests.datasets.skipped import Leniency, Skipped, entries_of
from manifests.io import Images
from manifests.person_ids import PREFIX, is_nobody, person_label
from manifests.runtime.console import UserError
from manifests.schema import UNKNOWN_CAMERA

THREE_FOLDERS: Final = {
    "train": "bounding_box_train",
    "query": "query",
    "gallery": "bounding_box_test",
}
"""Folder of each split, as Market-1501 named them and others after it."""

_SYNTHETIC_NAME = re.compile(r".*_aug\d{5}\.jpg")


@dataclass(frozen=True, slots=True)
class NamedCrops:
    """What the names of a data set's files say."""

    layout: str
    name: re.Pattern[str]
    """Matches a whole file name; named groups ``person``, ``camera`` and, where they exist,
    ``sequence`` and ``frame``."""
    example: str
    """A file name, for messages."""
    has_junk: bool = False
    """Whether person -1 is junk and 0000 a distractor; elsewhere they are people."""

    def crop(self, split: str, folder: str, file_name: str) -> Crop | None:
        """Return what a file's name says; none if it is of another name."""
        match = self.name.fullmatch(file_name)
        if match is None:
            return None
        found = match.groupdict()
        person, camera = found["person"], found.get("camera")
        return Crop(
            image_id=file_name,
            path=f"{folder}/{file_name}",
            split=split,
            person_id=person if self.has_junk else person_label(person),
            camera_id=UNKNOWN_CAMERA if camera is None else int(camera),
            sequence=_whole(found.get("sequence")),
            frame=_whole(found.get("frame")),
        )


def read_named_crops(
    root: Path, options: LayoutOptions, names: NamedCrops
) -> tuple[Images, Report]:
    """Return the images of a folder with ``bounding_box_train``, ``query``, ``bounding_box_test``.

    The last two may be empty.

    Raises:
        UserError: If a folder is missing, no file has such a name, too many images are left out,
            a keypoint file is wrong, an image is damaged, or a rule of ``rules.check_images`` is
            broken.
    """
    check_folder(root)
    for folder in THREE_FOLDERS.values():
        _check_part(root, folder)
    crops: list[Crop] = []
    skipped = Skipped()
    for split, folder in THREE_FOLDERS.items():
        for entry in entries_of(root / folder, f"{folder}/", skipped):
            crop = None if entry.is_dir() else names.crop(split, folder, entry.name)
            if crop is None:
                _skip(entry, f"{folder}/{entry.name}", skipped)
            else:
                crops.append(crop)
    if not crops:
        left_out = f" and left out {skipped.text()}" if skipped.counts else ""
        raise UserError(
            f"{root}: found no file named like {names.example} in "
            f"{', '.join(THREE_FOLDERS.values())}{left_out}"
        )
    return table_of_crops(crops, root, {"layout": names.layout}, options, skipped)


def _check_part(root: Path, folder: str) -> None:
    """Check that a folder of a split exists; CUHK03 has two sets of them, labeled and detected."""
    above = sorted(path.parent for path in root.glob(f"*/{folder}"))
    if above and not (root / folder).exists():
        found = ", ".join(path.name for path in above)
        raise UserError(f"{root}: found {folder} in {found}, expected ROOT like {above[0]}")
    check_folder(root / folder)


def table_of_crops(
    crops: Sequence[Crop],
    root: Path,
    provenance: Mapping[str, str],
    options: LayoutOptions,
    skipped: Skipped,
) -> tuple[Images, Report]:
    """Return the images table of what a reader found, and what is to say of it.

    Raises:
        UserError: If too many images were left out, two crops have one name, a keypoint file is
            wrong, an image is damaged, or a rule of ``rules.check_images`` is broken.
    """
    skipped.check(len(crops), str(root), allowed=options.allow_skipped)
    _check_unique(root, crops)
    leniency = Leniency(skipped, options.skip_broken, options.allow_skipped)
    keypoints = read_keypoint_files(options.keypoints, leniency)
    broken = skipped if options.skip_broken else None
    images = images_of(crops, root, provenance, keypoints, broken)
    report = Report(
        counts=rules.check_images(images, str(root)),
        skipped=skipped,
        num_double_endings=sum(crop.path.endswith(".jpg.jpg") for crop in crops),
        num_unknown_names=keypoints.num_unknown((crop.image_id, crop.path) for crop in crops),
        num_people_left_out=keypoints.num_left_out,
        notes=_notes(crops),
    )
    return images, report


def _notes(crops: Sequence[Crop]) -> tuple[str, ...]:
    """Say which people have a name that is nobody's in Market-1501."""
    people = {crop.person_id for crop in crops}
    names = sorted(
        name for name in people if name != (own := name.removeprefix(PREFIX)) and is_nobody(own)
    )
    if not names:
        return ()
    shown = ", ".join(f"'{name}'" for name in names)
    return (f"{shown}: people; junk and distractors are known to --layout market1501 alone",)


def reader_of(names: NamedCrops) -> Callable[[Path, LayoutOptions], tuple[Images, Report]]:
    """Return the reader of a layout, see ``read_named_crops``."""
    return partial(read_named_crops, names=names)


def _skip(entry: os.DirEntry[str], path: str, skipped: Skipped) -> None:
    if entry.is_dir():
        skipped.add("folders", path)
    elif _SYNTHETIC_NAME.fullmatch(entry.name):
        skipped.add("synthetic images", path)
    else:
        skipped.add_file(path)


def _check_unique(root: Path, crops: Sequence[Crop]) -> None:
    seen: dict[str, str] = {}
    for crop in crops:
        if crop.image_id in seen:
            raise UserError(
                f"{root}: found '{crop.image_id}' in {seen[crop.image_id]} and in {crop.split}; "
                "expected every file name once"
            )
        seen[crop.image_id] = crop.split


def _whole(text: str | None) -> int | None:
    return None if text is None else int(text)
