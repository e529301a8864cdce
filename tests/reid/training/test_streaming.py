"""Images that are read when a step asks for them give the bits of those held in memory."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from manifests.io import Images, read_images, write_images
from manifests.masks import mask_column, read_masks
from manifests.runtime.console import Console, Exit, UserError
from manifests.scenes import Scenes, take_apart
from manifests.schema import IMAGES
from manifests.synthetic import read_synthetic
from reid.data import streamed
from reid.data.dataset import Selection, TrainingSet, load_training_set, select
from reid.data.inputs import Inputs
from reid.data.streamed import StreamedPixels, StreamedScenes, streamed_scenes
from reid.training import batches as module
from reid.training.batches import Batch, Batches, Destination
from reid.training.settings import TrainSettings
from reid.training.train import train
from tests.helpers.reid_people import write_people, write_synthetic

CPU = Destination(torch.device("cpu"))
QUIET = Console(quiet=True)
SIZE = (32, 64)
NOTHING = 1e-9
"""Gigabytes that hold no image."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder with people whose masks differ, and generated images of them in a shard."""
    home = tmp_path_factory.mktemp("streaming")
    write_people(home / "real")
    images = read_images(home / "real/images.parquet")
    masks = np.zeros((len(images), 64, 32), bool)
    for row in range(len(images)):
        masks[row, 16 : 50 + row % 7, 8 + row % 3 : 22] = True
    count = len(images)
    columns = {
        "width": pa.array([32] * count, pa.int32()),
        "height": pa.array([64] * count, pa.int32()),
        "mask": mask_column(list(masks)),
        "mask_source": pa.array(["files"] * count),
    }
    table = images.table
    for name, column in columns.items():
        field = IMAGES.field(name)
        table = table.set_column(IMAGES.get_field_index(name), field, column.cast(field.type))
    write_images(Images(table, images.root, {}), home / "masked.parquet")
    write_synthetic(home / "synthetic", per_person=5)
    return home


def settings(folder: Path, **changes: object) -> TrainSettings:
    plain = TrainSettings(
        images=folder / "masked.parquet",
        synthetic=folder / "synthetic",
        out=folder / "out",
        steps=12,
        batch_size=8,
        height=64,
        width=32,
        device="cpu",
    )
    return plain.model_copy(update=changes)


def load(folder: Path, most: float) -> tuple[Selection, TrainingSet]:
    images, made = read_images(folder / "masked.parquet"), read_synthetic(folder / "synthetic")
    chosen = select(images, made, real_fraction=0.7, num_validation_people=1, data_seed=0)
    return chosen, load_training_set(chosen, made, SIZE, most)


def batches(folder: Path, plan: TrainSettings, most: float, start: int = 0) -> Batches:
    chosen, data = load(folder, most)
    assert isinstance(data.pixels, StreamedPixels) == (most < 1)
    scenes: Scenes | StreamedScenes = (
        streamed_scenes(chosen.train, SIZE)
        if isinstance(data.pixels, StreamedPixels)
        else take_apart(data.pixels[: len(chosen.train)], *read_masks(chosen.train, SIZE))
    )
    return Batches(data, plan, CPU, start, scenes)


def assert_same(one: Batch, other: Batch) -> None:
    assert one.step == other.step
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.labels, other.labels)
    assert (one.added is None) == (other.added is None)
    if one.added is not None and other.added is not None:
        assert torch.equal(one.added.images, other.added.images)


PLANS = {
    "one pool": {"synthetic_mix": "replace"},
    "added, before streets too": {"scene_added": 3, "synthetic_added": 5},
    "people, with streets behind some": {
        "train_sampler": "identity",
        "num_instances": 2,
        "synthetic_share": 0.5,
        "augmentation": TrainSettings(images=Path("i"), out=Path("o")).augmentation.model_copy(
            update={"scene": 0.5}
        ),
    },
}


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("name", PLANS)
def test_batches_that_are_read_step_by_step_are_those_from_memory(
    name, workers, folder, monkeypatch
):
    plan = settings(folder, **PLANS[name], workers=workers)
    held = list(batches(folder, plan, 1.0 * 10**9))
    assert len(held) == 12
    for rows_ahead in (1, 20, 10**6):
        monkeypatch.setattr(module, "ROWS_AHEAD", rows_ahead)
        for one, other in zip(batches(folder, plan, 0), held, strict=True):
            assert_same(one, other)
    for one, other in zip(batches(folder, plan, 0, start=7), held[7:], strict=True):
        assert_same(one, other)
    assert_same(batches(folder, plan, 0).batch(5), held[5])


def test_no_more_encoded_images_wait_than_those_of_a_bounded_number_of_steps(folder, monkeypatch):
    monkeypatch.setattr(module, "ROWS_AHEAD", 10)
    counts: list[int] = []
    real = StreamedPixels.encoded

    def counting(self: StreamedPixels, rows: np.ndarray) -> dict[int, bytes]:
        counts.append(self.count_encoded(rows))
        return real(self, rows)

    monkeypatch.setattr(StreamedPixels, "encoded", counting)
    given = 0
    for _ in batches(folder, settings(folder, synthetic_added=5), 0):
        given += 5
        # One group in use, one in the queue, one being read.
        assert sum(counts) <= given + 3 * 10 + 5 * module._STREAMING_WORKERS
    assert counts == [10] * 6


def test_a_pass_over_the_shards_reads_them_in_their_order(folder, monkeypatch):
    _, data = load(folder, 0)
    assert isinstance(data.pixels, StreamedPixels)
    seen: list[list[int]] = []
    synthetic = data.pixels._synthetic
    assert synthetic is not None
    real = type(synthetic).read_bytes

    def listening(self, rows):
        seen.append(rows.tolist())
        return real(self, rows)

    monkeypatch.setattr(type(synthetic), "read_bytes", listening)
    wanted = len(data.labels) - 1 - np.array([3, 0, 3, 7])
    found = data.pixels.encoded(np.concatenate([wanted, [0, 1]]))
    assert sorted(found) == sorted(set(wanted.tolist()))
    assert len(seen) == 1
    assert all(a < b for a, b in pairwise(seen[0]))


def test_a_training_from_files_and_shards_ends_in_the_bits_of_one_from_memory(
    folder, tmp_path, capsys
):
    common = {"scene_added": 2, "synthetic_added": 3, "val_people": 1, "steps": 4}
    held, read = (settings(folder, out=tmp_path / name, **common) for name in ("held", "read"))
    assert train(held, QUIET) is Exit.DONE
    assert train(read.model_copy(update={"max_decoded_gb": NOTHING}), Console()) is Exit.DONE
    assert "would take more than --max-decoded-gb 1e-09 when decoded" in capsys.readouterr().err
    for name in ("last.safetensors", "best.safetensors", "queries.parquet"):
        assert (held.out / name).read_bytes() == (read.out / name).read_bytes()


def test_a_run_may_go_on_in_memory_or_out_of_it(folder, tmp_path):
    plan = settings(folder, out=tmp_path / "run", steps=2, score=False)
    train(plan, QUIET)
    # Complete: with other settings it would be refused.
    assert train(plan.model_copy(update={"max_decoded_gb": NOTHING}), QUIET) is Exit.DONE


def test_all_broken_real_images_are_told_before_the_first_step(folder, tmp_path):
    write_people(tmp_path / "real")
    files = sorted((tmp_path / "real/images").glob("*_train_*.jpg"))
    for file in files[:2]:
        file.write_bytes(file.read_bytes()[:-9])
    table = tmp_path / "real/images.parquet"
    plan = settings(tmp_path, images=table, synthetic=None, max_decoded_gb=NOTHING)
    with pytest.raises(UserError, match=r"2 images cannot be used: .*is cut off"):
        train(plan, QUIET)
    assert not (plan.out / "state.pt").exists()


def test_a_damaged_shard_ends_a_training_with_one_sentence(folder, tmp_path):
    write_synthetic(tmp_path / "synthetic", per_person=5)
    plan = settings(
        folder, synthetic=tmp_path / "synthetic", out=tmp_path / "run", max_decoded_gb=NOTHING
    )
    shard = tmp_path / "synthetic/data/part-000000.parquet"
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(UserError, match=re.escape(f"{shard}: missing or damaged shard")):
        train(plan, QUIET)


def test_hashes_are_made_a_window_at_a_time(folder, monkeypatch):
    images = read_images(folder / "masked.parquet").only("train")
    expected = Inputs().hashes(images, SIZE)
    monkeypatch.setattr(streamed, "_WINDOW", 5)
    np.testing.assert_array_equal(Inputs().hashes(images, SIZE), expected)
