"""Market-1501 folders (Zheng et al. 2015)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from manifests.datasets.crops import Report
from manifests.datasets.keypoint_files import KeypointOptions
from manifests.datasets.layouts import Layout, LayoutOptions
from manifests.datasets.named_crops import (
    THREE_FOLDERS,
    NamedCrops,
    read_named_crops,
    reader_of,
)
from manifests.io import Images

FOLDERS: Final = THREE_FOLDERS
NAME: Final = re.compile(r"(-1|\d{4})_c(\d)s(\d)_(\d{6})_(\d{2})\.jpg(\.jpg)?")
"""Person, camera, sequence, frame, detection; 24 files of the real data end in ``.jpg.jpg``."""

NAMES: Final = NamedCrops(
    "market1501",
    # Data sets named after it have more cameras and people, and other endings.
    re.compile(
        r"(?P<person>-1|\d{4,8})_c(?P<camera>\d{1,4})s(?P<sequence>\d{1,4})_(?P<frame>\d{1,8})"
        r"_\d+\.(jpe?g|png)(\.jpg)?",
        re.IGNORECASE | re.ASCII,
    ),
    "0002_c1s1_000451_03.jpg",
    has_junk=True,
)


def index(root: Path, keypoint_files: Sequence[Path] = ()) -> tuple[Images, Report]:
    """Return the images of a Market-1501 folder; see ``read_named_crops``.

    Convention: keypoints are (x, y), pixels of the stored image, pixel centres at integers.

    Args:
        root: Has ``bounding_box_train``, ``query`` and ``bounding_box_test``.
        keypoint_files: See ``read_keypoint_files``; images that none of them names have no
            annotation.
    """
    options = LayoutOptions(KeypointOptions(tuple(keypoint_files)))
    return read_named_crops(root, options, NAMES)


LAYOUT: Final = Layout(
    f"a folder with {', '.join(FOLDERS.values())}, named like {NAMES.example}",
    reader_of(NAMES),
    options=("keypoints", "allow_skipped", "skip_broken"),
)
