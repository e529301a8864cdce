"""Market-1501 folders and keypoint files, both ways (Zheng et al. 2015)."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from manifests import rules
from manifests.datasets.crops import Report
from manifests.datasets.keypoint_files import KeypointOptions, keypoint_text
from manifests.datasets.layouts import Layout, LayoutOptions
from manifests.datasets.named_crops import THREE_FOLDERS, NamedCrops, read_named_crops, reader_of
from manifests.io import Images, write_bytes
from manifests.runtime.console import UserError
from manifests.synthetic import Synthetic

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
    options=("keypoints", "allow_skipped"),
)


def export(images: Images, synthetic: Synthetic | None, out: Path) -> int:
    """Write a Market-1501 folder, whole or not at all, and return its number of images.

    Real images keep their names; synthetic ones go to ``bounding_box_train``, named after their
    source: ``0002_c1s1_000451_03_aug00007.jpg``. Rows that failed are left out. Annotated joints
    go to ``keypoints.csv`` and ``keypoints_synthetic.csv``.

    Raises:
        UserError: If the folder exists and is not empty, a real image has no Market-1501 name, an
            image is missing or no JPEG, or a rule of ``rules.check_synthetic`` is broken.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists already, expected a new or an empty folder")
    for name in images.strings("image_id"):
        if not NAME.fullmatch(name):
            raise UserError(
                f"image '{name}': expected a Market-1501 name like 0002_c1s1_000451_03.jpg"
            )
    if synthetic is not None:
        rules.check_synthetic(images, synthetic)
    temporary = out.absolute().with_name(f".{out.name}.{uuid.uuid4().hex}.tmp")
    try:
        for folder in FOLDERS.values():
            (temporary / folder).mkdir(parents=True)
        num_images = _export_real(images, temporary)
        if synthetic is not None:
            num_images += _export_synthetic(synthetic.without_errors(), temporary)
        # One flush for all: a call per small file would take minutes.
        os.sync()
        temporary.replace(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return num_images


def _export_real(images: Images, out: Path) -> int:
    for row, (name, split) in enumerate(
        zip(images.strings("image_id"), images.strings("split"), strict=True)
    ):
        file = images.file(row)
        if not file.is_file():
            raise UserError(f"{file}: image '{name}' is missing")
        shutil.copyfile(file, out / FOLDERS[split] / name)
    annotated = np.flatnonzero(np.asarray(images.table["keypoints"].is_valid()))
    _write_keypoints(images.take(annotated), out / "keypoints.csv")
    return len(images)


def _export_synthetic(synthetic: Synthetic, out: Path) -> int:
    names = synthetic_names(synthetic)
    data = synthetic.read_bytes(np.arange(len(synthetic)))
    for name, image in zip(names, data, strict=True):
        # torchreid looks for *.jpg only: another format would read as no images at all.
        if not image.startswith(b"\xff\xd8\xff"):
            raise UserError(
                f"{synthetic.root}: synthetic image '{name}' is no JPEG; a Market-1501 folder "
                "holds JPEG only, generate with the JPEG format"
            )
        (out / FOLDERS["train"] / name).write_bytes(image)
    text = keypoint_text(names, synthetic.keypoints())
    write_bytes(text.encode(), out / "keypoints_synthetic.csv")
    return len(names)


def synthetic_names(synthetic: Synthetic) -> list[str]:
    """Return the file names of synthetic images, from which readers take person and camera."""
    columns = ("source_id", "k", "camera_id", "background_id")
    return [
        synthetic_name(source, k, None if background is None else camera)
        for source, k, camera, background in zip(
            *(synthetic.table[name].to_pylist() for name in columns), strict=True
        )
    ]


def synthetic_name(source_id: str, k: int, camera: int | None = None) -> str:
    """Return the file name of a person's ``k``-th synthetic image.

    Args:
        source_id: The image that the person was seen in, a Market-1501 name.
        k: Counted from 0.
        camera: Which camera the image looks like, if not the source's.

    >>> synthetic_name("0002_c1s1_000451_03.jpg", 7)
    '0002_c1s1_000451_03_aug00007.jpg'
    >>> synthetic_name("0002_c1s1_000451_03.jpg", 7, camera=4)
    '0002_c4s1_000451_03_aug00007.jpg'
    """
    stem = source_id.split(".", maxsplit=1)[0]
    if camera is not None:
        stem = re.sub(r"_c\d", f"_c{camera}", stem, count=1)
    return f"{stem}_aug{k:05d}.jpg"


def _write_keypoints(images: Images, path: Path) -> None:
    text = keypoint_text(images.strings("image_id"), images.keypoints())
    write_bytes(text.encode(), path)
