"""CUHK03 in the new protocol (Li et al. 2014, Zhong et al. 2017): labeled or detected crops."""

from __future__ import annotations

import re
from typing import Final

from manifests.datasets.layouts import Layout
from manifests.datasets.named_crops import THREE_FOLDERS, NamedCrops, reader_of

NAMES: Final = NamedCrops(
    "cuhk03",
    re.compile(
        r"(?P<person>\d{4,8})_c(?P<camera>\d{1,4})_\d+\.(png|jpe?g)", re.IGNORECASE | re.ASCII
    ),
    "0003_c1_21.png",
)
"""Person, camera, number; nobody is junk, person 0000 neither."""

LAYOUT: Final = Layout(
    f"CUHK03-NP: {', '.join(THREE_FOLDERS.values())}, named like {NAMES.example}",
    reader_of(NAMES),
    options=("keypoints", "allow_skipped"),
)
