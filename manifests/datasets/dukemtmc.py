"""DukeMTMC-reID folders (Ristani et al. 2016, Zheng et al. 2017)."""

from __future__ import annotations

import re
from typing import Final

from manifests.datasets.layouts import Layout
from manifests.datasets.named_crops import THREE_FOLDERS, NamedCrops, reader_of

NAMES: Final = NamedCrops(
    "dukemtmc",
    re.compile(
        r"(?P<person>\d{4,8})_c(?P<camera>\d{1,4})_f(?P<frame>\d{1,9})\.(jpe?g|png)",
        re.IGNORECASE | re.ASCII,
    ),
    "0001_c2_f0046182.jpg",
)
"""Person, camera, frame; its distractors are people of one camera, named like all others."""

LAYOUT: Final = Layout(
    f"DukeMTMC-reID: {', '.join(THREE_FOLDERS.values())}, named like {NAMES.example}",
    reader_of(NAMES),
    options=("keypoints", "allow_skipped", "skip_broken"),
)
