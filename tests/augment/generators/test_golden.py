"""Are we the authors' networks? Their outputs lie in ``tests/golden`` and ``$AUGMENT_GOLDEN``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from augment.generators import names, system
from augment.interface.condition import Condition
from augment.interface.system import PoseTransfer
from augment.pose.pose import Pose
from tests.golden.fill import reference_inputs, reference_tensor
from tests.helpers.sampling import generated

HERE = Path(__file__).resolve().parents[2] / "golden"
SHARED = Path(__file__).resolve().parents[4] / "shared"
REAL = Path(os.environ.get("AUGMENT_GOLDEN", SHARED / "golden"))
MARKET1501 = Path(os.environ.get("MARKET1501", SHARED / "data" / "Market-1501-v15.09.15"))
KEYPOINTS = Path(os.environ.get("MARKET1501_KEYPOINTS", SHARED / "data"))

PARITY = 1e-4
"""Largest difference in [-1, 1]: float32 through up to 40 convolutions in another order."""

NETWORKS = {
    "patn_batch": ("patn", {"norm": "batch"}),
    "patn_instance": ("patn", {"norm": "instance"}),
    "xing_batch": ("xinggan", {"norm": "batch"}),
    "gfla_market": ("gfla", {}),
    "dptn": ("dptn", {}),
}

TIED_WEIGHTS = (".conv1.", ".conv2.", ".bypass.")
"""The authors' second names of a tensor; the first name's value is the one that counts."""


def _network(golden: str) -> PoseTransfer:
    name, settings = NETWORKS[golden]
    if name not in names():
        pytest.skip(f"there is no system {name} yet")
    cls = system(name)
    return cls(cls.Config(features="none", **settings)).eval()


def _card(golden: str) -> dict:
    return json.loads((HERE / f"noise_{golden}.json").read_text())


def _published(golden: str) -> dict[str, torch.Tensor]:
    card = _card(golden)
    shapes = {name.removeprefix("model."): shape for name, shape in card["state_dict"].items()}
    return {
        name: reference_tensor(name, tuple(shape), card["seed"])
        for name, shape in shapes.items()
        if not any(tied in name for tied in TIED_WEIGHTS)
    }


def _filled(golden: str) -> PoseTransfer:
    network = _network(golden)
    weights = type(network).from_official(_published(golden))
    missing, unexpected = network.load_state_dict(weights, strict=False)
    assert not unexpected
    assert not [name for name in missing if name.split(".")[0] in network.sampling]
    return network


def _parity(golden: str, condition: Condition, folder: Path, file: str) -> None:
    with torch.no_grad():
        image = generated(_filled(golden), condition)
    expected = np.load(folder / file)["output"]
    assert image.shape == expected.shape
    assert np.abs(image.numpy() - expected).max() < PARITY


@pytest.mark.parametrize("golden", NETWORKS)
def test_made_up_inputs_give_the_authors_images(golden) -> None:
    images, source, target = reference_inputs(2, _card(golden)["seed"])
    condition = Condition(
        torch.from_numpy(images),
        Pose(torch.from_numpy(source).float()),
        Pose(torch.from_numpy(target).float()),
    )
    _parity(golden, condition, HERE, f"noise_{golden}.npz")


@pytest.mark.parametrize("golden", NETWORKS)
def test_the_generator_has_the_published_number_of_parameters(golden) -> None:
    network = _network(golden)
    found = sum(
        parameter.numel()
        for child in network.sampling
        for parameter in network.get_submodule(child).parameters()
    )
    assert found == _card(golden)["parameters"]


def _joints(table: Path, image: str) -> np.ndarray:
    """Return (x, y) of one row of an annotation file, a missing joint NaN."""
    with table.open() as lines:
        row = next(line for line in lines if line.startswith(image + ":"))
    _, ys, xs = row.split(":")
    joints = np.stack([json.loads(xs), json.loads(ys)], axis=-1).astype(np.float32)
    joints[(joints < 0).any(axis=-1)] = np.nan
    return joints


@pytest.mark.market1501
@pytest.mark.parametrize("golden", NETWORKS)
def test_real_pairs_give_the_authors_images(golden) -> None:
    for path in (REAL / f"{golden}.json", MARKET1501, KEYPOINTS / "market-annotation-test.csv"):
        if not path.exists():
            pytest.skip(f"needs {path}")
    pairs = np.array(json.loads((REAL / f"{golden}.json").read_text())["pairs"])
    images, poses = [], []
    for column in (0, 1):
        found = [_annotated(str(image)) for image in pairs[:, column]]
        images.append(np.stack([image for image, _ in found]))
        poses.append(Pose(torch.from_numpy(np.stack([joints for _, joints in found]))))
    image = torch.from_numpy(images[0]).permute(0, 3, 1, 2).float() / 127.5 - 1
    _parity(golden, Condition(image, *poses), REAL, f"{golden}.npz")


def _annotated(image: str) -> tuple[np.ndarray, np.ndarray]:
    for split, folder in (("train", "bounding_box_train"), ("test", "bounding_box_test")):
        path = next(MARKET1501.glob(f"**/{folder}/{image}"), None)
        if path is not None:
            pixels = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
            return pixels, _joints(KEYPOINTS / f"market-annotation-{split}.csv", image)
    raise AssertionError(f"{image} is not under {MARKET1501}")
