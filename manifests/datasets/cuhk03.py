"""CUHK03 in the new protocol (Li et al. 2014, Zhong et al. 2017): labeled or detected crops.

Two forms are about: CUHK03-NP with a folder per split, and the images of the original file by the
names that torchreid gave them, with the splits in a JSON file beside their folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from manifests.datasets.crops import Crop, Report
from manifests.datasets.layouts import Layout, LayoutOptions
from manifests.datasets.named_crops import (
    THREE_FOLDERS,
    NamedCrops,
    read_named_crops,
    table_of_crops,
)
from manifests.datasets.skipped import Skipped, files_below
from manifests.io import Images, sha256_file
from manifests.runtime.console import UserError
from manifests.runtime.json_files import read_json
from manifests.schema import SPLITS

NAMES: Final = NamedCrops(
    "cuhk03",
    re.compile(
        r"(?P<person>\d{4,8})_c(?P<camera>\d{1,4})_\d+\.(png|jpe?g)", re.IGNORECASE | re.ASCII
    ),
    "0003_c1_21.png",
)
"""Person, camera, number; nobody is junk, person 0000 neither."""

ORIGINAL: Final = re.compile(
    r"(?P<person>\d_\d{3,4})_(?P<camera>[12])_\d+\.(png|jpe?g)", re.IGNORECASE | re.ASCII
)
"""Pair of cameras and person there, view of the pair, number."""
EXAMPLE: Final = "1_001_1_01.png"

SPLIT_FILES: Final[Mapping[str, str]] = {
    "images_labeled": "splits_new_labeled.json",
    "images_detected": "splits_new_detected.json",
}
"""By the folder of the images; both lie in the same folder."""


def read(root: Path, options: LayoutOptions) -> tuple[Images, Report]:
    """Return the images of a folder of either form.

    Raises:
        UserError: See ``read_named_crops``; of the second form, if the file of the splits is
            missing or another, or an image of it is missing or of another name.
    """
    name = root.resolve().name
    if name not in SPLIT_FILES:
        return read_named_crops(root, options, NAMES)
    path = root.parent / SPLIT_FILES[name]
    crops = list(_crops(path))
    skipped, known = Skipped(), {crop.path for crop in crops}
    for file in files_below(root, skipped):
        if file not in known:
            skipped.add_file(file)
    provenance = {"layout": "cuhk03", f"{path.name}_sha256": sha256_file(path)}
    return table_of_crops(crops, root, provenance, options, skipped)


def _crops(path: Path) -> Iterator[Crop]:
    """Give the images of a file of splits; their folders there are those of another machine."""
    what = "the splits of CUHK03's new protocol, as torchreid writes them"
    found = read_json(path, what)
    splits: Any = found[0] if isinstance(found, list) and found else found
    for split in SPLITS:
        rows = splits.get(split) if isinstance(splits, dict) else None
        if not isinstance(rows, list):
            raise UserError(f"{path}: found no list '{split}', expected {what}")
        for row in rows:
            name = re.split(r"[/\\]", str(row[0] if isinstance(row, list) and row else row))[-1]
            match = ORIGINAL.fullmatch(name)
            if match is None:
                raise UserError(f"{path}: found '{name[:80]}', expected a name like {EXAMPLE}")
            yield Crop(name, name, split, match["person"], int(match["camera"]))


LAYOUT: Final = Layout(
    f"CUHK03-NP: {', '.join(THREE_FOLDERS.values())}, named like {NAMES.example}; or "
    f"images_labeled, images_detected with names like {EXAMPLE} and their JSON beside",
    read,
    options=("keypoints", "allow_skipped", "skip_broken"),
)
