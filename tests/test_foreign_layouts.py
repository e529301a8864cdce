"""Folders of public data sets, built of made-up people, become the table of a comparison."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from augment.cli import PROGRAM as AUGMENT
from manifests import pixels
from manifests.runtime.console import Exit
from reid.cli import PROGRAM as REID
from tests.helpers.reid_people import picture

NUM_TRAIN, NUM_TEST, FRAMES = 3, 2, 2
PARTS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}


def shots() -> list[tuple[str, int, int, int]]:
    """Return split, person, camera and frame of every image; the first frames are the queries."""
    people = range(1, NUM_TRAIN + NUM_TEST + 1)
    return [
        ("train" if person <= NUM_TRAIN else "gallery" if frame else "query", person, camera, frame)
        for person in people
        for camera in (1, 2)
        for frame in range(FRAMES)
    ]


def draw(file: Path, person: int, camera: int, frame: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    encode = pixels.encode_png if file.suffix == ".png" else pixels.encode_jpeg
    file.write_bytes(encode(picture(person, camera, frame)))


def three_folders(name: Callable[[int, int, int], str]) -> Callable[[Path], Path]:
    def build(root: Path) -> Path:
        for split, *shot in shots():
            draw(root / PARTS[split] / name(*shot), *shot)
        return root

    return build


def market1501(root: Path) -> Path:
    """Build crops as PNG, as of PKU-Reid, with junk and a distractor."""
    three_folders(lambda p, c, f: f"{p:04d}_c{c}s1_{f:06d}_01.png")(root)
    draw(root / "bounding_box_test/0000_c1s1_000009_01.png", 90, 1, 0)
    draw(root / "bounding_box_test/-1_c2s1_000009_01.png", 91, 2, 0)
    return root


def dukemtmc(root: Path) -> Path:
    """Build crops of which one person is seen by one camera alone: a distractor like any other."""
    three_folders(lambda p, c, f: f"{p:04d}_c{c}_f{44158 + f:07d}.jpg")(root)
    draw(root / "bounding_box_test/7139_c2_f0160869.jpg", 90, 2, 0)
    return root


def msmt17(root: Path) -> Path:
    """Build the second edition's folders with their four lists; people are counted from 0."""
    lists: dict[str, list[str]] = {"train": [], "val": [], "query": [], "gallery": []}
    for split, person, camera, frame in shots():
        number = person - 1 if split == "train" else person - 1 - NUM_TRAIN
        part = "mask_train_v2" if split == "train" else "mask_test_v2"
        name = f"{number:04d}/{number:04d}_{frame:03d}_{camera:02d}_0303morning_{frame:04d}_0.jpg"
        draw(root / part / name, person, camera, frame)
        listed = "val" if split == "train" and frame else split
        lists[listed].append(f"{name} {number}\n")
    for name, lines in lists.items():
        (root / f"list_{name}.txt").write_text("".join(lines))
    return root


def cuhk03_original(root: Path) -> Path:
    """Build the original images by torchreid's names, and its file of splits beside them."""
    splits: dict[str, list[list[object]]] = {"train": [], "query": [], "gallery": []}
    for split, person, camera, frame in shots():
        name = f"1_{person:03d}_{camera}_{5 * camera + frame:02d}.png"
        draw(root / "images_detected" / name, person, camera, frame)
        splits[split].append([f"/data/cuhk03/images_detected/{name}", person, camera - 1])
    (root / "splits_new_detected.json").write_text(json.dumps([splits]))
    return root / "images_detected"


LAYOUTS = {
    "market1501": ("market1501", market1501, (1, 1)),
    "dukemtmc": ("dukemtmc", dukemtmc, (0, 0)),
    "msmt17": ("msmt17", msmt17, (0, 0)),
    "cuhk03": ("cuhk03", three_folders(lambda p, c, f: f"{p:04d}_c{c}_{f}.png"), (0, 0)),
    "original cuhk03": ("cuhk03", cuhk03_original, (0, 0)),
}
"""Name of the layout, who builds its folder, and how many junk images and distractors it has."""

SMALL = [
    "--recipe", "short", "--model", "osnet_x0_25", "--steps", "2", "--batch-size", "4",
    "--height", "64", "--width", "32", "--device", "cpu", "--no-score",
]  # fmt: skip


@pytest.mark.parametrize("data_set", LAYOUTS)
def test_a_folder_becomes_the_table_of_a_comparison(data_set, tmp_path, monkeypatch, capsys):
    layout, build, (num_junk, num_distractors) = LAYOUTS[data_set]
    root = build(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    images = ["--images", "images.parquet"]

    def run(program, *arguments: str) -> str:
        capsys.readouterr()
        assert program.run([*arguments, "--quiet"]) == Exit.DONE
        return capsys.readouterr().out

    run(AUGMENT, "index", str(root), "--layout", layout, "--out", "images.parquet")
    run(REID, "train", *images, *SMALL, "--out", "one")
    shutil.copytree("one", "other")
    for name in ("one", "other"):
        run(REID, "score", name, *images)
    table = run(REID, "compare", "one", "other")

    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]
    assert rows[2:] == ["one", "other"]
    report = json.loads(Path("one/report.json").read_text())
    assert report["num_matched"] == 2 * NUM_TEST
    gallery = report["protocol"]["gallery"]
    assert (gallery["num_junk"], gallery["num_distractors"]) == (num_junk, num_distractors)
    assert report["config"]["val_people"] == 0
    people = json.loads(Path("one/run.json").read_text())["people"]
    assert len(people) == NUM_TRAIN
