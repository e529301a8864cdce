"""``augment export``: the images of a finished run as files, whole or not at all."""

from __future__ import annotations

import csv
import io as text_io
import json
import os
import shutil
import tarfile
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import numpy as np
from tyro.conf import Positional

from manifests.datasets import market1501
from manifests.datasets.keypoint_files import keypoint_text
from manifests.io import read_images
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.settings import Frozen
from manifests.runtime.storage import StoragePathFlag
from manifests.synthetic import Synthetic, read_synthetic

Layout = Literal["market1501", "webdataset", "folder"]

TABLE_COLUMNS: Final = ("path", "person_id", "camera_id", "split")
"""What 'augment index FOLDER --table FOLDER/images.csv' reads."""

_JPEG = b"\xff\xd8\xff"


class ExportSettings(Frozen):
    """Write the images of a finished run as files; rows that failed are left out."""

    run: Positional[StoragePathFlag]
    """Folder of the run, or its URL."""
    to: Layout
    """market1501: bounding_box_train/*.jpg with keypoints; webdataset: tar files; folder: one
    folder per person, with an images.csv for 'augment index FOLDER --table'."""
    out: Path
    """New folder."""
    images: Path | None = None
    """With market1501: the real images of this table come along."""
    root: Path | None = None
    """Where the real images lie, if not where the table says."""


def export(settings: ExportSettings, console: Console) -> Exit:
    """Write the files.

    Raises:
        UserError: If the run is not finished or damaged, the new folder exists and is not empty,
            it cannot be written, or the layout cannot hold the images.
    """
    synthetic = read_synthetic(settings.run)
    if settings.images is not None and settings.to != "market1501":
        raise UserError(f"--images: found with --to {settings.to}, expected with --to market1501")
    if settings.images is not None:
        images = read_images(settings.images, settings.root)
        count = market1501.export(images, synthetic, settings.out)
    else:
        sound = synthetic.without_errors()
        with appearing(settings.out) as folder:
            WRITERS[settings.to](sound, folder)
        count = len(sound)
    failed = len(synthetic) - len(synthetic.without_errors())
    left_out = f", {failed:,} failed rows left out" if failed else ""
    console.say(f"{settings.out}: {count:,} images{left_out}", event="exported", images=count)
    return Exit.DONE


@contextmanager
def appearing(folder: Path) -> Generator[Path]:
    """Give a folder that takes its name when the block ends without an error.

    Raises:
        UserError: If the name is taken by something else than an empty folder, or cannot be
            written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists already, expected a new or an empty folder")
    beside = folder.absolute().with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    try:
        beside.mkdir(parents=True)
        yield beside
        # One flush for all: a call per small file would take minutes.
        os.sync()
        beside.replace(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def to_market1501(synthetic: Synthetic, folder: Path) -> None:
    """Write the synthetic images alone in Market-1501 layout; query and gallery stay empty.

    Raises:
        UserError: If an image is no JPEG: readers of the layout look for ``*.jpg`` only; or its
            source has no Market-1501 name: they take person and camera from it.
    """
    for name in market1501.FOLDERS.values():
        (folder / name).mkdir()
    names = market1501.synthetic_names(synthetic)
    for name, (row, data) in zip(names, _images(synthetic), strict=True):
        source = row["source_id"]
        if not market1501.NAME.fullmatch(source):
            raise UserError(
                f"{synthetic.root}: image '{name}' is named after '{source}', expected a "
                "Market-1501 name like 0002_c1s1_000451_03.jpg; export to another layout"
            )
        if not data.startswith(_JPEG):
            raise UserError(
                f"{synthetic.root}: image '{name}' is no JPEG, and a Market-1501 folder holds "
                "nothing else; export to another layout, or generate with --image-format jpg"
            )
        (folder / market1501.FOLDERS["train"] / name).write_bytes(data)
    text = keypoint_text(names, synthetic.keypoints())
    (folder / "keypoints_synthetic.csv").write_text(text, encoding="utf-8")


def to_folder(synthetic: Synthetic, folder: Path) -> None:
    """Write one folder per person, and ``images.csv`` for 'augment index FOLDER --table'."""
    table = text_io.StringIO()
    lines = csv.writer(table, lineterminator="\n")
    lines.writerow(TABLE_COLUMNS)
    for row, data in _images(synthetic):
        person, name = (_one_part(row[key]) for key in ("person_id", "image_id"))
        (folder / person).mkdir(exist_ok=True)
        path = folder / person / name
        if path.exists():
            raise UserError(
                f"{synthetic.root}: two images would be '{person}/{name}'; expected people and "
                "images whose names differ in more than slashes"
            )
        path.write_bytes(data)
        lines.writerow((f"{person}/{name}", row["person_id"], row["camera_id"], row["split"]))
    (folder / "images.csv").write_text(table.getvalue(), encoding="utf-8")


def to_webdataset(synthetic: Synthetic, folder: Path) -> None:
    """Write one tar file per shard: image and JSON of a row under one number."""
    tar: tarfile.TarFile | None = None
    shard = ""
    try:
        for number, (row, data) in enumerate(_images(synthetic)):
            if tar is None or row["shard"] != shard:
                shard = row["shard"]
                if tar is not None:
                    tar.close()
                path = folder / Path(shard).with_suffix(".tar").name
                tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed below
            ending = "jpg" if data.startswith(_JPEG) else "png"
            # Dots in a key would end it there, so keys are numbers and the names stand inside.
            _add(tar, f"{number:09d}.{ending}", data)
            _add(tar, f"{number:09d}.json", json.dumps(row, sort_keys=True).encode())
    finally:
        if tar is not None:
            tar.close()


WRITERS: Final[dict[Layout, Callable[[Synthetic, Path], None]]] = {
    "market1501": to_market1501,
    "webdataset": to_webdataset,
    "folder": to_folder,
}


def _images(synthetic: Synthetic) -> Iterator[tuple[dict[str, str], bytes]]:
    names = ("image_id", "person_id", "camera_id", "split", "source_id", "pose_id")
    names += ("background_id", "k", "shard")
    columns = [synthetic.table[name].to_pylist() for name in names]
    data = synthetic.read_bytes(np.arange(len(synthetic)))
    for *values, image in zip(*columns, data, strict=True):
        yield dict(zip(names, values, strict=True)), image


def _one_part(label: str) -> str:
    """Return a label as one part of a path: tables may hold ``a/b`` and ``..``."""
    part = label.replace("/", "_").replace("\\", "_")
    return part if part.strip(".") else "_" * max(1, len(part))


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, text_io.BytesIO(data))
