"""BlazePose on ten made-up people: joints and masks are those of the stored run, to a pixel."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from augment.pose.estimators import blazepose
from manifests.datasets import market1501
from manifests.io import Images, read_images, write_images
from manifests.masks import read_masks
from manifests.people.dataset import KEYPOINT_FILES, SampleSettings, draw_data_set
from manifests.runtime.console import UserError

GOLDEN = Path(__file__).resolve().parents[2] / "golden/blazepose.npz"
ROOT = GOLDEN.parents[2]
NUM_CROPS = 10
PIXEL = 1.0
"""Kernels of another processor round otherwise; a pixel of a crop is 2.5 of the network's."""


def ten_people(folder: Path) -> Images:
    """Draw made-up people; return the table of the first ten crops of the train split."""
    draw_data_set(folder / "people", SampleSettings(people=4, test_people=1))
    keypoints = [folder / "people" / name for name in KEYPOINT_FILES.values()]
    images = market1501.index(folder / "people", keypoints)[0].only("train")
    return images.take(np.linspace(0, len(images) - 1, NUM_CROPS).astype(int))


def dilated(masks: np.ndarray) -> np.ndarray:
    square = np.ones((3, 3), np.uint8)
    return np.stack([cv2.dilate(mask.astype(np.uint8), square) > 0 for mask in masks])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return the tables of two processes with one thread and with three."""
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    try:
        blazepose.packaged_file()
    except UserError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("golden")
    write_images(ten_people(folder), folder / "images.parquet")
    outs = [folder / f"{threads}.parquet" for threads in (1, 3)]
    for threads, out in zip((1, 3), outs, strict=True):
        subprocess.run(
            [sys.executable, "-m", "augment.cli", "detect", "--masks", "--replace", "--quiet",
             "--images", str(folder / "images.parquet"), "--threads", str(threads),
             "--out", str(out)],
            check=True, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    return outs


def test_processes_with_other_numbers_of_threads_write_the_same_bytes(runs: list[Path]):
    assert runs[0].read_bytes() == runs[1].read_bytes()


def test_joints_of_ten_made_up_people_are_the_stored_ones_to_a_pixel(runs: list[Path]):
    found, stored = read_images(runs[0]).keypoints(), np.load(GOLDEN)["joints"]
    np.testing.assert_allclose(found, stored, rtol=0, atol=PIXEL)
    assert np.isfinite(stored[..., 0]).sum() > NUM_CROPS * 12


def test_masks_of_ten_made_up_people_are_the_stored_ones_to_a_pixel(runs: list[Path]):
    stored = np.load(GOLDEN)
    masks = np.unpackbits(stored["masks"], axis=1).reshape(-1, 128, 64).astype(bool)
    found, known = read_masks(read_images(runs[0]), (64, 128))
    np.testing.assert_array_equal(known, stored["has_mask"])
    assert known.sum() >= NUM_CROPS - 2
    assert not (found & ~dilated(masks)).any()
    assert not (masks & ~dilated(found)).any()
