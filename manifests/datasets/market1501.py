"""Market-1501 folders and keypoint files, both ways (Zheng et al. 2015)."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float

from manifests import rules
from manifests.datasets.crops import (
    Crop,
    Report,
    check_folder,
    images_of,
    kind_of_skipped_file,
)
from manifests.datasets.csv_table import read_csv
from manifests.datasets.layouts import Layout
from manifests.io import Images, sha256_file, write_bytes
from manifests.keypoints import NUM_JOINTS, visible
from manifests.runtime.console import UserError
from manifests.synthetic import Synthetic

FOLDERS: Final = {
    "train": "bounding_box_train",
    "query": "query",
    "gallery": "bounding_box_test",
}
NAME: Final = re.compile(r"(-1|\d{4})_c(\d)s(\d)_(\d{6})_(\d{2})\.jpg(\.jpg)?")
"""Person, camera, sequence, frame, detection; 24 files of the real data end in ``.jpg.jpg``."""

KEYPOINT_COLUMNS: Final = ("name", "keypoints_y", "keypoints_x")
MISSING: Final = -1

_SYNTHETIC_NAME = re.compile(r".*_aug\d{5}\.jpg")


def index(root: Path, keypoint_files: Sequence[Path] = ()) -> tuple[Images, Report]:
    """Return the images of a Market-1501 folder.

    Convention: keypoints are (x, y), pixels of the stored image, pixel centres at integers.

    Args:
        root: Has ``bounding_box_train``, ``query`` and ``bounding_box_test``; the last two may be
            empty.
        keypoint_files: See ``read_keypoints``; images that none of them names have no annotation.

    Raises:
        UserError: If a folder is missing, no file has a Market-1501 name, a keypoint file is
            wrong, an image is damaged, or a rule of ``rules.check_images`` is broken.
    """
    check_folder(root)
    for name in FOLDERS.values():
        check_folder(root / name)
    joints = _joints_of(keypoint_files)
    crops: list[Crop] = []
    skipped_files: Counter[str] = Counter()
    for split, folder in FOLDERS.items():
        for entry in sorted(os.scandir(root / folder), key=lambda entry: entry.name):
            crop = _crop(split, folder, entry.name) if entry.is_file() else None
            if crop is None:
                skipped_files[_kind(entry)] += 1
            else:
                crops.append(crop)
    if not crops:
        raise UserError(
            f"{root}: found no file with a Market-1501 name like 0002_c1s1_000451_03.jpg "
            f"in {', '.join(FOLDERS.values())}"
        )
    _check_unique(root, crops)
    provenance = {"layout": "market1501"}
    for number, file in enumerate(keypoint_files):
        provenance[f"keypoints_sha256_{number}"] = sha256_file(file)
    images = images_of(crops, root, joints, provenance)
    report = Report(
        counts=rules.check_images(images, str(root)),
        skipped_files=dict(skipped_files),
        num_double_endings=sum(crop.path.endswith(".jpg.jpg") for crop in crops),
        num_unknown_names=len(joints.keys() - {crop.image_id for crop in crops}),
    )
    return images, report


LAYOUT: Final = Layout(
    f"a folder with {', '.join(FOLDERS.values())}, named like 0002_c1s1_000451_03.jpg",
    lambda root, options: index(root, options.keypoints),
    options=("keypoints",),
)


def read_keypoints(path: Path) -> dict[str, Float[np.ndarray, "18 2"]]:
    """Return the joints per file name of one keypoint file.

    The format of the pose-transfer papers: ``name:keypoints_y:keypoints_x``, each a list of 18
    numbers in the order of ``keypoints.JOINT_NAMES``; -1 in either makes the joint missing.

    Convention: (x, y), pixels of the stored image, pixel centres at integers.

    Raises:
        UserError: If the file is missing, the separator or the columns are others, a list has not
            18 finite numbers, or a name is repeated; names the file and the line.
    """
    frame = read_csv(path, ":")
    if tuple(frame.columns) != KEYPOINT_COLUMNS:
        raise UserError(
            f"{path}:1: found the header '{':'.join(map(str, frame.columns))}', "
            f"expected '{':'.join(KEYPOINT_COLUMNS)}'"
        )
    joints: dict[str, np.ndarray] = {}
    cells = (frame.index, *(frame[column] for column in KEYPOINT_COLUMNS))
    for line, name, y, x in zip(*cells, strict=True):
        where = f"{path}:{line}"
        if name in joints:
            raise UserError(f"{where}: found a second row for '{name}', expected one")
        pose = np.array(
            [_numbers(x, "keypoints_x", where), _numbers(y, "keypoints_y", where)], np.float32
        ).T
        pose[(pose == MISSING).any(axis=1)] = np.nan
        joints[name] = pose
    return joints


def keypoint_text(image_ids: Sequence[str], joints: Float[np.ndarray, "rows 18 2"]) -> str:
    r"""Return a keypoint file with one row per image.

    Convention: (x, y), pixels of the stored image; a joint at exactly -1 would read as missing.

    >>> keypoint_text(["a.jpg"], np.full((1, 18, 2), np.nan))[:40]
    'name:keypoints_y:keypoints_x\na.jpg: [-1,'
    """
    filled = np.where(visible(joints)[..., None], joints, MISSING)
    lines = [":".join(KEYPOINT_COLUMNS)]
    for name, pose in zip(image_ids, filled, strict=True):
        x, y = ([_short(value) for value in axis] for axis in pose.T.tolist())
        lines.append(f"{name}: {json.dumps(y)}: {json.dumps(x)}")
    return "\n".join(lines) + "\n"


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


def _crop(split: str, folder: str, name: str) -> Crop | None:
    match = NAME.fullmatch(name)
    if match is None:
        return None
    person, camera, sequence, frame = match.groups()[:4]
    return Crop(name, f"{folder}/{name}", split, person, int(camera), int(sequence), int(frame))


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_dir():
        return "folders"
    if _SYNTHETIC_NAME.fullmatch(entry.name):
        return "synthetic images"
    return kind_of_skipped_file(entry.name)


def _check_unique(root: Path, crops: Sequence[Crop]) -> None:
    seen: dict[str, str] = {}
    for crop in crops:
        if crop.image_id in seen:
            raise UserError(
                f"{root}: found '{crop.image_id}' in {seen[crop.image_id]} and in {crop.split}; "
                "expected every file name once"
            )
        seen[crop.image_id] = crop.split


def _joints_of(files: Sequence[Path]) -> dict[str, np.ndarray]:
    joints: dict[str, np.ndarray] = {}
    for file in files:
        of_file = read_keypoints(file)
        repeated = sorted(joints.keys() & of_file.keys())
        if repeated:
            raise UserError(
                f"{file}: found '{repeated[0]}', which an earlier keypoint file has too"
            )
        joints |= of_file
    return joints


def _numbers(cell: object, column: str, where: str) -> list[float]:
    try:
        numbers = json.loads(str(cell))
    except ValueError:
        numbers = None
    if not isinstance(numbers, list) or not all(
        isinstance(n, int | float) and math.isfinite(n) for n in numbers
    ):
        raise UserError(f"{where}: {column} is '{str(cell)[:40]}', expected a list of numbers")
    if len(numbers) != NUM_JOINTS:
        raise UserError(f"{where}: {column} has {len(numbers)} joints, expected {NUM_JOINTS}")
    return numbers


def _short(value: float) -> int | float:
    return int(value) if value == int(value) else value
