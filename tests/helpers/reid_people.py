"""Made-up people as coloured blocks: tiny tables of images for the tests of the re-ID stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from manifests.io import Images, write_images, write_table
from manifests.pixels import encode_jpeg
from manifests.schema import IMAGES, MANIFEST, SHARD

HEIGHT, WIDTH = 64, 32


def picture(person: int, camera: int, frame: int) -> np.ndarray:
    """Return a block person: two colours of clothes, a camera's tint, some noise."""
    clothes = np.random.default_rng(person).integers(20, 235, (2, 3))
    noise = np.random.default_rng([person, camera, frame])
    image = np.full((HEIGHT, WIDTH, 3), 60 + 25 * camera, np.float64)
    left = 6 + int(noise.integers(0, 8))
    image[8:36, left : left + 14] = clothes[0]
    image[36:60, left : left + 14] = clothes[1]
    image += noise.normal(0, 12, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def write_people(
    folder: Path, num_train: int = 6, num_test: int = 4, frames: int = 2, cameras: int = 2
) -> Path:
    """Draw people in folder/images and return the path of their images table."""
    rows: list[dict[str, object]] = []

    def add(split: str, person_id: str, person: int, camera: int, frame: int) -> None:
        name = f"{person_id}_c{camera}_{split}_{frame}.jpg"
        file = folder / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode_jpeg(picture(person, camera, frame)))
        row = dict.fromkeys(IMAGES.names) | {"image_id": name, "path": name, "split": split}
        rows.append(row | {"person_id": person_id, "camera_id": camera})

    for person in range(1, num_train + num_test + 1):
        name = f"{person:04d}"
        for camera in range(1, cameras + 1):
            for frame in range(frames):
                if person <= num_train:
                    add("train", name, person, camera, frame)
                else:
                    add("query" if frame == 0 else "gallery", name, person, camera, frame)
    add("gallery", "0000", 900, 1, 0)
    add("gallery", "-1", 901, 1, 0)
    table = pa.Table.from_pylist(rows, schema=IMAGES)
    path = folder / "images.parquet"
    write_images(Images(table, folder / "images", {}), path)
    return path


def write_synthetic(folder: Path, num_train: int = 6, per_person: int = 2) -> Path:
    """Draw further images of the train people as a finished folder of generated images."""
    rows: list[dict[str, object]] = []
    for person in range(1, num_train + 1):
        for k in range(per_person):
            name = f"{person:04d}_g{k}.jpg"
            source = f"{person:04d}_c1_train_0.jpg"
            row = dict.fromkeys(SHARD.names) | {"image_id": name, "split": "train"}
            row |= {"person_id": f"{person:04d}", "camera_id": 1, "k": k, "seed": 0}
            row |= {"source_id": source, "pose_id": source, "generator": "blocks"}
            data = encode_jpeg(picture(person, 1, 50 + k))
            rows.append(row | {"image": {"bytes": data, "path": name}})
    shard = pa.Table.from_pylist(rows, schema=SHARD)
    write_table(shard, folder / "data" / "part-000000.parquet", {})
    manifest = shard.drop_columns(["image"])
    manifest = manifest.append_column(
        MANIFEST.field("shard"), pa.array(["part-000000.parquet"] * len(rows))
    ).append_column(MANIFEST.field("shard_row"), pa.array(range(len(rows)), pa.int32()))
    write_table(manifest.cast(MANIFEST), folder / "manifest.parquet", {})
    (folder / "_SUCCESS").write_text("")
    return folder
