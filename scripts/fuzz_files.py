"""Small valid files of made-up people for every reader, and how each is read: for ``fuzz.py``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import torch

from augment.checkpoints import store
from augment.generation import run_config, shards
from augment.generators.patn import Patn
from augment.quality.pairs import read_pairs
from manifests import io, masks, pixels, rules
from manifests.compute.external_weights import read_state_dict
from manifests.compute.training_log import TrainingLog
from manifests.compute.training_state import read_training_state, write_training_state
from manifests.datasets import cuhk03, folder, market1501, msmt17
from manifests.datasets.index import IndexSettings
from manifests.datasets.keypoint_files import KeypointOptions, keypoint_text, read_keypoint_files
from manifests.datasets.layouts import NO_OPTIONS
from manifests.datasets.mask_files import add_masks
from manifests.keypoint_check import KeypointCheck
from manifests.keypoints import COCO_NAMES, JOINT_NAMES
from manifests.pages.training_page import read_log
from manifests.people.dataset import SampleSettings, draw_data_set
from manifests.runtime.command_line import parse
from manifests.runtime.flags import read_files
from manifests.schema import MANIFEST, SCREEN, SHARD, SPLITS
from manifests.synthetic import read_synthetic
from reid.data.labels import Labels
from reid.data.leakage import origin_of
from reid.evaluation.ranking import rank
from reid.evaluation.report import read_scored, write_report
from reid.models.run_folder import read_run


@dataclass(frozen=True, slots=True)
class Reader:
    """Some valid files, the one to damage, and how they are read."""

    name: str
    files: Mapping[str, bytes]
    read: Callable[[Path], object]
    """From the folder of the files."""
    damaged: str
    """The file to damage."""
    is_slow: bool = False
    """Whether it takes ten times as long as others, so that it has fewer turns."""


def made_up_readers(scratch: Path) -> list[Reader]:
    """Return the readers with valid files of made-up people."""
    draw_data_set(scratch / "people", SampleSettings(people=2, test_people=2))
    people = scratch / "people"
    points = [people / f"keypoints-{part}.csv" for part in ("train", "test")]
    images, _ = market1501.index(people, points)
    return [
        *_of_images(people, images),
        *_of_tables(scratch, images),
        *_of_text(people, images),
        *_of_weights(scratch),
        *_of_runs(scratch),
    ]


def _one(name: str, file: str, data: bytes, read: Callable[[Path], object]) -> Reader:
    return Reader(name, {file: data}, lambda here: read(here / file), file)


def _of_images(people: Path, images: io.Images) -> Iterator[Reader]:
    picture = pixels.read(images.file(0))
    name = images.strings("image_id")[0]
    mask = (people / "masks" / name).with_suffix(".png").read_bytes()
    yield _one("jpeg", "a.jpg", pixels.encode_jpeg(picture), pixels.read)
    yield _one("png", "a.png", pixels.encode_png(picture), pixels.read)
    yield _one("mask", "a.png", mask, lambda path: pixels.decode_mask(path.read_bytes(), "a.png"))


def _of_tables(scratch: Path, images: io.Images) -> Iterator[Reader]:
    def read_images(path: Path) -> None:
        found = io.read_images(path, scratch)
        rules.check_images(found, str(path))
        found.keypoints()
        masks.mask_makers(found.provenance)
        masks.read_masks(found, (16, 32))
        for chunk in io.open_images(path, scratch).chunks(3):
            chunk.keypoints()

    few = images.only("train").take(np.arange(12))
    names = few.strings("image_id")
    io.write_images(few, scratch / "images.parquet")
    yield _one("images", "i.parquet", (scratch / "images.parquet").read_bytes(), read_images)
    rows = [
        dict.fromkeys(SHARD.names)
        | {name: row[name] for name in few.table.column_names if name in SHARD.names}
        | {
            "image_id": f"made-{number}",
            "k": 0,
            "source_id": row["image_id"],
            "pose_id": row["image_id"],
            "seed": 1,
        }
        | {"image": {"bytes": few.file(number).read_bytes(), "path": "a.jpg"}}
        for number, row in enumerate(few.table.to_pylist())
    ]
    located = [{**row, "shard": "part-0.parquet", "shard_row": n} for n, row in enumerate(rows)]
    io.write_table(pa.Table.from_pylist(rows, SHARD), scratch / "shard.parquet", {})
    io.write_table(pa.Table.from_pylist(located, MANIFEST), scratch / "manifest.parquet", {})
    files = {
        "_SUCCESS": b"{}",
        "manifest.parquet": (scratch / "manifest.parquet").read_bytes(),
        "data/part-0.parquet": (scratch / "shard.parquet").read_bytes(),
    }

    def read_generated(out: Path) -> None:
        found = read_synthetic(out)
        found.keypoints()
        sound = found.without_errors()
        for data in sound.read_bytes(np.arange(len(sound))):
            pixels.size(data, str(out))
        rules.check_synthetic(few, found)

    yield Reader("manifest", files, read_generated, "manifest.parquet")
    yield Reader("shard", files, read_generated, "data/part-0.parquet")
    yield Reader("errors of a shard", files, _num_errors, "data/part-0.parquet")
    facts = {"train_sha256": "0", "real_fraction": 0.5, "data_seed": 1}
    recipe = {"num_real": 12, "recipe": {"real_fraction": 1.0}}
    record = {"config": {}, "settings": {"weights_facts": facts}, "screened_by": recipe}
    files = {**files, "run.json": json.dumps(record).encode()}
    yield Reader(
        "run.json of a set",
        files,
        lambda out: origin_of(few, few, read_synthetic(out)),
        "run.json",
    )
    found = [("made-0", "1", 0.5, 1, "1", 1.0), ("made-1", "1", -0.5, 2, "2", None)]
    rows = [dict(zip(SCREEN.names, row, strict=True)) for row in found]
    io.write_table(pa.Table.from_pylist(rows, SCREEN), scratch / "s.parquet", {})
    screened = (scratch / "s.parquet").read_bytes()
    yield _one(
        "screen.parquet", "s.parquet", screened, lambda path: io.read_table(path, SCREEN, "")
    )
    drawn = [(scratch / "people" / "masks" / name).with_suffix(".png") for name in names[:3]]
    masks_of = {f"masks/{file.name}": file.read_bytes() for file in drawn}
    yield Reader(
        "folder of masks",
        masks_of,
        lambda here: add_masks(few.take(np.arange(3)), here / "masks"),
        min(masks_of),
    )


def _num_errors(out: Path) -> int:
    return shards.num_errors(out / "data" / "part-0.parquet")


def _of_text(people: Path, images: io.Images) -> Iterator[Reader]:
    joints = images.keypoints()
    names = images.strings("image_id")
    seen = np.flatnonzero(~np.isnan(joints).any(axis=(1, 2)))[:6]
    sizes = np.array([[64.0, 128.0]])

    def read_keypoints(path: Path) -> None:
        found = read_keypoint_files(KeypointOptions((path,)))
        for name in found.poses:
            check = KeypointCheck()
            check.add(found.joints(name, (64, 128))[None], sizes)
            check.finish(str(path))
        found.provenance()

    text = keypoint_text([names[row] for row in seen.tolist()], joints[seen])
    flat = np.concatenate([joints[seen[0]], np.ones((18, 1))], axis=1).ravel()
    openpose = {"version": 1.3, "people": [{"pose_keypoints_2d": flat.tolist()}]}
    body = [flat.reshape(18, 3)[JOINT_NAMES.index(name)] for name in COCO_NAMES]
    coco = {
        "images": [{"id": 1, "file_name": names[0], "width": 64, "height": 128}],
        "annotations": [{"image_id": 1, "keypoints": np.concatenate(body).tolist(), "score": 0.5}],
    }
    yield _one("keypoint list", "k.csv", text.encode(), read_keypoints)
    yield _one("COCO's JSON", "k.json", json.dumps(coco).encode(), read_keypoints)
    file = f"{names[0]}_keypoints.json"
    yield Reader("OpenPose's JSON", {file: json.dumps(openpose).encode()}, read_keypoints, file)
    rows = [f"{images.table['path'][row].as_py()},p{row // 2},{row % 3},train" for row in range(4)]
    table = "\n".join(["path,person_id,camera_id,split", *rows]) + "\n"
    yield _one(
        "CSV of images", "t.csv", table.encode(),
        lambda path: folder.index_table(people, path, NO_OPTIONS),
    )  # fmt: skip
    pairs = "from,to\n" + "".join(f"{names[row]},{names[row + 1]}\n" for row in range(4))
    yield _one("pairs", "p.csv", pairs.encode(), lambda path: read_pairs(path, names, 10))
    jpeg = images.file(0).read_bytes()
    lists = {f"list_{part}.txt": b"" for part in ("train", "val", "query", "gallery")}
    lists["list_train.txt"] = b"0000/0000_000_01_0303morning_0015_0.jpg 0\n"
    lists |= {"train/0000/0000_000_01_0303morning_0015_0.jpg": jpeg, "test/.keep": b""}
    yield Reader("lists", lists, lambda here: msmt17.read(here, NO_OPTIONS), "list_train.txt")
    yield _one("settings", "s.yaml", _SETTINGS, lambda path: read_files(["--config", str(path)]))
    splits = [{part: [[f"/x/1_00{n}_1_01.png", n, 0]] for n, part in enumerate(SPLITS)}]
    labeled = {f"images_labeled/1_00{n}_1_01.png": jpeg for n in range(3)}
    labeled["splits_new_labeled.json"] = json.dumps(splits).encode()
    yield Reader(
        "splits of CUHK03",
        labeled,
        lambda here: cuhk03.read(here / "images_labeled", NO_OPTIONS),
        "splits_new_labeled.json",
    )
    flags = "sample\0--out\0i.parquet\0--keypoint-scale\0unit\0--keypoints\0k.csv\0--masks\0m"
    yield Reader(
        "flags",
        {"flags": flags.encode()},
        lambda here: _parse(here / "flags"),
        "flags",
        is_slow=True,
    )
    pattern = rb"(?P<person_id>\d{4})_c(?P<camera_id>\d)s\d_.*"
    yield _one("pattern", "pattern", pattern, lambda path: _pattern(people, path))


_SETTINGS: Final = b"""\
# augment generate --config settings.yaml --out NEW makes this run again.
images: i.parquet
per-id: 10
options: {keep: 2.5, sample-pose: false}
poses: [a.parquet, "b.parquet"]
"""


def _parse(path: Path) -> None:
    arguments = os.fsdecode(path.read_bytes()).split("\0")
    # Help exits, and is none of what is tried.
    parse(IndexSettings, "augment index", "", [a for a in arguments if a not in {"-h", "--help"}])


def _pattern(people: Path, path: Path) -> None:
    text = os.fsdecode(path.read_bytes())
    # Nested repeats take for ever in any program that takes expressions.
    if text.count("+") + text.count("*") < 6:
        folder.index_pattern(people / "query", text, NO_OPTIONS)


def _of_weights(scratch: Path) -> Iterator[Reader]:
    config = Patn.Config(base_width=1, num_blocks=1, discriminator_width=1, features="none")
    network = Patn(config)
    header = store.Header(generator="patn", config=config.model_dump(mode="json"), facts={"a": 1})
    store.save_weights(network.sampling_state(), scratch / "w.safetensors", header)
    yield _one("weights", "w.safetensors", (scratch / "w.safetensors").read_bytes(), store.load)
    tensors = {"conv.weight": torch.ones(2, 3), "module.b": torch.zeros(2)}
    checkpoint = {"state_dict": tensors, "epoch": 3, "rank1": np.float32(0.5)}
    torch.save(checkpoint, scratch / "c.pth")
    arrays: dict[str, Any] = {name: value.numpy() for name, value in tensors.items()}
    np.savez(scratch / "a.npz", **arrays)
    for file in ("c.pth", "a.npz"):
        data = (scratch / file).read_bytes()
        yield _one(file[-3:], file, data, lambda path: read_state_dict(path, "--weights"))
    write_training_state({"step": 3, "network": tensors}, scratch / "last.pt")
    cpu = torch.device("cpu")
    data = (scratch / "last.pt").read_bytes()
    yield _one("state", "last.pt", data, lambda path: read_training_state(path, cpu))


def _of_runs(scratch: Path) -> Iterator[Reader]:
    run = run_config.RunConfig(content=_content(), rows_per_shard=4)
    run_config.begin(scratch / "out", run, {"images": "i.parquet"})
    record = {"run.json": (scratch / "out" / "run.json").read_bytes()}
    yield Reader("run.json of images", record, run_config.require_run_config, "run.json")
    success = shards.Success(
        content_key=run.content_key, layout_key=run.layout_key, rows=8, shards=2,
        manifest_sha256="0" * 64,
    )  # fmt: skip
    mark = {"_SUCCESS": success.to_json().encode()}
    yield Reader("_SUCCESS", mark, lambda out: shards.read_success(out, run), "_SUCCESS")
    facts = {
        "config": _RECIPE,
        "people": ["1", "2"],
        "num_real": 12,
    }
    record = {"run.json": json.dumps(facts).encode()}
    yield Reader("run.json of a training", record, _read_run, "run.json")
    lines = b"".join(b'{"step": %d, "loss": 0.5, "seconds": 2.5}\n' % step for step in range(4))
    yield _one("log", "log.jsonl", lines, read_log)
    yield _one("log to go on", "log.jsonl", lines, lambda path: TrainingLog(path, 2, 5).close())
    query = Labels(np.array(["1", "2"]), np.array([1, 1]), np.array(["a", "b"]))
    ranking = rank(np.array([[0.1, 0.2], [0.2, 0.1]], np.float32), query,
                   Labels(query.people, np.array([2, 2]), query.images))  # fmt: skip
    report = {"config": {"seed": 0}, "weights": "last", "protocol": {"query": {}, "gallery": {}}}
    write_report(scratch / "scored", report, ranking, query)
    files = {
        name: (scratch / "scored" / name).read_bytes()
        for name in ("report.json", "queries.parquet")
    }
    yield Reader("report.json", files, read_scored, "report.json")
    # Without the digest, by which any change is found.
    entries = json.loads(files["report.json"])
    del entries["queries_sha256"]
    files = {**files, "report.json": json.dumps(entries).encode()}
    yield Reader("queries.parquet", files, read_scored, "queries.parquet")
    settings = {"sample.json": (scratch / "people" / "sample.json").read_bytes()}
    chosen = SampleSettings(people=2, test_people=2)
    yield Reader("sample.json", settings, lambda out: draw_data_set(out, chosen), "sample.json")


_RECIPE: Final = {
    "model": "osnet_x0_25",
    "width": 32,
    "height": 64,
    "images_sha256": "0",
    "synthetic_sha256": None,
    "real_fraction": 1.0,
    "data_seed": 0,
    "val_people": 0,
    "seed": 0,
}


def _read_run(out: Path) -> None:
    run = read_run(out)
    _ = run.people, run.is_complete, run.default_weights


def _content() -> run_config.Content:
    sampling = run_config.Sampling(
        device="cpu", precision="float32", batch_size=2, threads=1, cpu=None, torch="2"
    )
    return run_config.Content(
        generator="patn", weights_sha256="0", images_sha256="0", poses_sha256="0", rows=8, per_id=2,
        seed=0, width=64, height=128, encoding=run_config.Encoding(), sampling=sampling,
    )  # fmt: skip
