"""MSMT17 folders (Wei et al. 2018), by their four lists.

People of ``train`` and of ``test`` are both counted from 0 and are others, so their names begin
with the folder's: ``train 0000``, ``test 0000``. Images of ``list_val.txt`` show the people of
``list_train.txt`` and are train images, as in the paper's 32,621.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from manifests.datasets.crops import Crop, Report, check_folder
from manifests.datasets.layouts import Layout, LayoutOptions
from manifests.datasets.named_crops import table_of_crops
from manifests.datasets.skipped import Skipped, files_below
from manifests.io import Images, sha256_file
from manifests.runtime.console import UserError
from manifests.runtime.files import read_file

NAME: Final = re.compile(
    r"(\d+)/(?P<person>\d+)_\d+_(?P<camera>\d{1,4})_.*\.(jpe?g|png)", re.IGNORECASE | re.ASCII
)
"""Person, number, camera, then time, frame and detection."""
EXAMPLE: Final = "0000/0000_000_01_0303morning_0015_0.jpg 0"


@dataclass(frozen=True, slots=True)
class _List:
    file: str
    part: str
    split: str


_LISTS: Final = (
    _List("list_train.txt", "train", "train"),
    _List("list_val.txt", "train", "train"),
    _List("list_query.txt", "test", "query"),
    _List("list_gallery.txt", "test", "gallery"),
)
_FOLDERS: Final = {
    "train": ("train", "mask_train_v2"),
    "test": ("test", "mask_test_v2"),
}
"""Of the first and of the second edition, whose faces are hidden."""


def read(root: Path, options: LayoutOptions) -> tuple[Images, Report]:
    """Return the images of an MSMT17 folder.

    Raises:
        UserError: If a list or a folder is missing, a line is of another form, many files stand
            in no list, an image is missing or damaged, or keypoints are wrong.
    """
    check_folder(root)
    folders = {part: _folder(root, names) for part, names in _FOLDERS.items()}
    crops = [crop for listed in _LISTS for crop in _crops(root, listed, folders[listed.part])]
    skipped = Skipped()
    known = {crop.path for crop in crops}
    for folder in folders.values():
        found = files_below(root / folder, skipped)
        for path in (f"{folder}/{name}" for name in found):
            if path not in known:
                skipped.add_file(path)
    provenance = {"layout": "msmt17"}
    provenance |= {f"{name}_sha256": sha256_file(root / name) for name in _names_of_lists(root)}
    return table_of_crops(crops, root, provenance, options, skipped)


def _names_of_lists(root: Path) -> list[str]:
    return [listed.file for listed in _LISTS if (root / listed.file).is_file()]


def _folder(root: Path, names: tuple[str, ...]) -> str:
    for name in names:
        if (root / name).is_dir():
            return name
    raise UserError(f"{root}: found no folder {' or '.join(names)}, expected that of MSMT17")


def _crops(root: Path, listed: _List, folder: str) -> Iterator[Crop]:
    path = root / listed.file
    try:
        lines = read_file(path, "a list of MSMT17").decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read ({error}), expected a list of MSMT17") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, _, person = line.strip().rpartition(" ")
        match = NAME.fullmatch(name)
        # As text: a number may have more digits than Python turns into one.
        if match is None or not person or person.lstrip("0") != match["person"].lstrip("0"):
            raise UserError(f"{path}:{number}: found '{line[:80]}', expected a line like {EXAMPLE}")
        yield Crop(
            image_id=f"{folder}/{name}",
            path=f"{folder}/{name}",
            split=listed.split,
            person_id=f"{listed.part} {match['person']}",
            camera_id=int(match["camera"]),
        )


LAYOUT: Final = Layout(
    "MSMT17: train, test and their lists, with lines like " + EXAMPLE,
    read,
    options=("keypoints", "allow_skipped", "skip_broken"),
)
