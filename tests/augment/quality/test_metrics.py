"""The measures on real pairs against stored scores of the published formulas."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from augment.pose.pose import Pose
from augment.quality.masks import body_mask
from augment.quality.pckh import count_joints
from augment.quality.pixelwise import l1
from augment.quality.ssim import masked, ssim

pytestmark = pytest.mark.market1501

TOLERANCE = 1e-6  # the contract; double precision agrees to 1e-14
SHARED = Path(__file__).resolve().parents[4] / "shared"


def folder(variable: str, fallback: str) -> Path:
    path = Path(os.environ.get(variable) or SHARED / fallback)
    if not path.exists():
        pytest.skip(f"{variable} is not set and {path} does not exist")
    return path


@pytest.fixture(scope="module")
def scores() -> list[dict]:
    return json.loads((folder("AUGMENT_GOLDEN", "golden") / "metrics.json").read_text())


@pytest.fixture(scope="module")
def joints() -> dict[str, np.ndarray]:
    annotated = {}
    path = folder("MARKET1501_KEYPOINTS", "data")
    for split in ("train", "test"):
        text = (path / f"market-annotation-{split}.csv").read_text()
        for line in text.splitlines()[1:]:
            name, ys, xs = line.split(":")
            pose = np.stack([json.loads(xs), json.loads(ys)], axis=-1).astype(np.float32)
            pose[(pose == -1).any(axis=-1)] = np.nan
            annotated[name] = pose
    return annotated


@pytest.fixture(scope="module")
def market1501() -> Path:
    return folder("MARKET1501", "data/Market-1501-v15.09.15")


def read(root: Path, names: list[str]) -> torch.Tensor:
    found = [
        next(
            root / part / name
            for part in ("bounding_box_test", "bounding_box_train")
            if (root / part / name).exists()
        )
        for name in names
    ]
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in found])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def test_ssim_mask_ssim_l1_and_mask_equal_the_stored_scores(scores, joints, market1501):
    generated = read(market1501, [row["generated"] for row in scores])
    target = read(market1501, [row["target"] for row in scores])
    mask = body_mask(
        Pose(torch.from_numpy(np.stack([joints[row["target"]] for row in scores]))), (64, 128)
    )
    assert mask.sum(dim=(1, 2)).tolist() == [row["mask_pixels"] for row in scores]
    for name, ours in (
        ("ssim", ssim(generated, target)),
        ("mask_ssim", ssim(masked(generated, mask), masked(target, mask))),
        ("l1", l1(generated, target)),
    ):
        np.testing.assert_allclose(ours, [row[name] for row in scores], atol=TOLERANCE)


def test_pckh_counts_equal_the_stored_counts(scores, joints):
    counts = count_joints(
        np.stack([joints[row["generated"]] for row in scores]),
        np.stack([joints[row["target"]] for row in scores]),
    )
    ours = [
        [int(right), int(visible)] if scored else None
        for right, visible, scored in zip(counts.right, counts.visible, counts.scored, strict=True)
    ]
    assert ours == [row["pckh"] for row in scores]
    assert None in ours
