"""Data that tests share: real data where they lie, and a tiny made-up data set."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from manifests import pixels
from manifests.datasets import market1501 as market
from manifests.datasets.keypoint_files import keypoint_text
from manifests.io import Images, write_bytes, write_images, write_table
from manifests.schema import MANIFEST, SHARD
from manifests.synthetic import Synthetic, read_synthetic
from tests.helpers.poses import upright

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

TINY_FILES = {
    "bounding_box_train": (
        "0002_c1s1_000451_03.jpg",
        "0002_c1s1_000551_01.jpg",
        "0002_c2s1_000776_02.jpg",
        "0007_c1s2_000101_01.jpg",
        "0007_c3s2_000201_01.jpg",
        "0010_c2s1_000301_01.jpg",
    ),
    "query": ("0001_c1s1_001051_00.jpg", "0003_c3s3_064744_00.jpg"),
    "bounding_box_test": (
        "-1_c1s1_000401_03.jpg",
        "0000_c2s1_000001_02.jpg.jpg",
        "0001_c2s1_009001_01.jpg",
        "0003_c1s3_064750_01.jpg",
    ),
}


def _data(variable: str, beside: str) -> Path:
    path = Path(os.environ.get(variable, SHARED / beside))
    if not path.is_dir():
        pytest.skip(f"${variable} is not set and ../shared/{beside} does not exist")
    return path


@pytest.fixture(scope="session", autouse=True)
def heeded_signals() -> None:
    """Undo what ``nohup`` and a shell's ``&`` ignore, and commands then ignore as well."""
    for sort, default in (
        (signal.SIGHUP, signal.SIG_DFL),
        (signal.SIGINT, signal.default_int_handler),
    ):
        if signal.getsignal(sort) is signal.SIG_IGN:
            signal.signal(sort, default)


@pytest.fixture(scope="session")
def market1501() -> Path:
    """Return the real Market-1501 folder."""
    return _data("MARKET1501", "data/Market-1501-v15.09.15")


@pytest.fixture(scope="session")
def market1501_keypoints() -> Path:
    """Return the folder of the real keypoint files and of ``market-pairs-test.csv``."""
    return _data("MARKET1501_KEYPOINTS", "data")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Return the folder of outputs of the published networks on real pairs."""
    return _data("AUGMENT_GOLDEN", "golden")


@pytest.fixture
def person() -> Callable[..., np.ndarray]:
    """Return a painter of crops: a background and one rectangle of clothes."""

    def paint(seed: int, size: tuple[int, int] = (64, 128)) -> np.ndarray:
        background, clothes = np.random.default_rng(seed).integers(0, 256, (2, 3), np.uint8)
        image = np.full((size[1], size[0], 3), background, np.uint8)
        image[size[1] // 5 :, size[0] // 4 : -size[0] // 4] = clothes
        return image

    return paint


@pytest.fixture
def tiny_root(tmp_path: Path, person: Callable[..., np.ndarray]) -> Path:
    """Return a Market-1501 folder of 12 images: 3 train people, 2 test people, 3 cameras.

    Its ``keypoints.csv`` has a row for every train and gallery image; the right wrist is missing
    in all of them, and the gallery's junk image has no joint at all.
    """
    root = tmp_path / "tiny"
    generator = np.random.default_rng(0)
    annotated: dict[str, np.ndarray] = {}
    for folder, names in TINY_FILES.items():
        (root / folder).mkdir(parents=True)
        for name in names:
            image = person(int(name.split("_")[0]) + 1)
            (root / folder / name).write_bytes(pixels.encode_jpeg(image))
            if folder != "query":
                joints = upright(generator.integers(1, (63, 127), (18, 2)).astype(np.float32))
                joints[4] = np.nan
                annotated[name] = np.full_like(joints, np.nan) if name[0] == "-" else joints
    text = keypoint_text(list(annotated), np.stack(list(annotated.values())))
    (root / "keypoints.csv").write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def tiny_images(tiny_root: Path) -> Images:
    """Return the images table of ``tiny_root``; it also lies there as ``images.parquet``."""
    images, _ = market.index(tiny_root, [tiny_root / "keypoints.csv"])
    write_images(images, tiny_root / "images.parquet")
    return images


@pytest.fixture
def finish() -> Callable[..., Synthetic]:
    """Return a writer of finished OUT folders as ``augment generate`` leaves them."""

    def write(out: Path, rows: list[dict[str, object]], rows_per_shard: int = 4) -> Synthetic:
        locations = [
            {
                "shard": f"part-{row // rows_per_shard:06d}.parquet",
                "shard_row": row % rows_per_shard,
            }
            for row in range(len(rows))
        ]
        for start in range(0, len(rows), rows_per_shard):
            shard = pa.Table.from_pylist(rows[start : start + rows_per_shard], SHARD)
            write_table(shard, out / "data" / str(locations[start]["shard"]), {})
        rows_of_manifest = [
            {**row, **location} for row, location in zip(rows, locations, strict=True)
        ]
        write_table(pa.Table.from_pylist(rows_of_manifest, MANIFEST), out / "manifest.parquet", {})
        write_bytes(b"{}", out / "_SUCCESS")
        return read_synthetic(out)

    return write


@pytest.fixture
def synthetic_rows(tiny_images: Images) -> Callable[..., list[dict[str, object]]]:
    """Return a maker of shard rows: ``per_id`` images of every train person of ``tiny_images``."""

    def make(per_id: int, encode: Callable[[np.ndarray], bytes]) -> list[dict[str, object]]:
        train = tiny_images.only("train").table.to_pylist()
        first = {row["person_id"]: row for row in reversed(train)}
        rows: list[dict[str, object]] = []
        for person in sorted(first):
            for k in range(per_id):
                image_id = f"{person}_aug{k:05d}"
                pixel = np.full((128, 64, 3), (int(person), k, 90), np.uint8)
                rows.append(
                    {
                        **first[person],
                        "image_id": image_id,
                        "path": None,
                        "k": k,
                        "source_id": first[person]["image_id"],
                        "pose_id": train[k % len(train)]["image_id"],
                        "seed": 2**64 - 1 - k,
                        "image": {"bytes": encode(pixel), "path": f"{image_id}.jpg"},
                    }
                )
        return rows

    return make


@pytest.fixture(scope="session")
def market1501_images(market1501: Path, market1501_keypoints: Path) -> Images:
    """Return the images table of the real data; reading its 36,036 files takes seconds."""
    files = [market1501_keypoints / f"market-annotation-{part}.csv" for part in ("train", "test")]
    return market.index(market1501, files)[0]
