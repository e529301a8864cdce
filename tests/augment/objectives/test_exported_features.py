"""Activations of an exported network in the place of VGG19's."""

from __future__ import annotations

import json
import subprocess

import pytest
import torch
from torch import Tensor, nn

from augment.objectives.exported_features import OUTPUT, ExportedFeatures
from augment.objectives.features import load_features
from manifests import io
from manifests.runtime.console import UserError
from tests.helpers.training import TRAIN

SIZE = (32, 16)


class Tower(nn.Module):
    """Rectified activations at full, half and a quarter of the height, two of them at half."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 5, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.third = nn.Conv2d(5, 6, 1)
        self.fourth = nn.Conv2d(6, 7, 2, stride=2)
        self.linear = nn.Linear(7, 2)

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        full = torch.relu(self.first(images))
        second = torch.relu_(self.norm(self.second(full)))
        again = torch.relu(self.third(second))
        return {"full": full, "half": again, "quarter": torch.relu(self.fourth(again))}

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.linear(self.maps(images)["quarter"].mean(dim=(2, 3))))


def write(path, network=None, size=SIZE):
    torch.manual_seed(0)
    network = (network or Tower()).eval()
    batch = torch.export.Dim("batch", min=1)
    example = torch.zeros(2, 3, *size)
    program = torch.export.export(network, (example,), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    return network


def pictures(count=3, size=SIZE):
    return 2 * torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(1)) - 1


def test_a_layer_is_the_last_rectified_activation_of_its_resolution(tmp_path):
    network = write(tmp_path / "net.pt2")
    layers = ("relu1_2", "relu2_1", "relu3_1", "relu5_2")
    features = load_features(str(tmp_path / "net.pt2"), layers, imagenet_normalised=True)
    images = pictures().requires_grad_()

    found = features(images)

    expected = network.maps(images)
    # A sixteenth of the height is not there; a quarter is nearest.
    for layer, name in zip(layers, ("full", "half", "quarter", "quarter"), strict=True):
        torch.testing.assert_close(found[layer], expected[name])
    gradients = [
        torch.autograd.grad(maps.square().sum(), images)[0]
        for maps in (found["relu3_1"], expected["quarter"])
    ]
    torch.testing.assert_close(*gradients)
    assert all(len(features(pictures(count))["relu1_2"]) == count for count in (1, 5))


def test_gradients_reach_no_weight_and_bf16_changes_nothing(tmp_path):
    write(tmp_path / "net.pt2")
    features = load_features(str(tmp_path / "net.pt2"), ("relu2_1",), imagenet_normalised=False)
    plain = features(pictures())["relu2_1"]
    with torch.autocast("cpu", torch.bfloat16):
        found = features(pictures().bfloat16().float())["relu2_1"]
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert (found - plain).abs().max() < 0.02 * plain.abs().max()


def test_what_cannot_give_activations_is_refused(tmp_path):
    def of(name):
        return load_features(str(tmp_path / name), ("relu1_2",), imagenet_normalised=True)

    with pytest.raises(UserError, match=r"--config\.features: found nothing .*gone\.pt2"):
        of("gone.pt2")(pictures())
    write(tmp_path / "net.pt2")
    with pytest.raises(UserError, match=r"net\.pt2 does not take images of .*\(3, 64, 32\)"):
        of("net.pt2")(pictures(size=(64, 32)))
    write(tmp_path / "flat.pt2", nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 16, 2), nn.ReLU()))
    with pytest.raises(UserError, match=r"flat\.pt2 has no rectified activations"):
        of("flat.pt2")(pictures())


def test_a_training_names_the_network_by_its_digest(tiny_images, tiny_root, tmp_path):
    path = tmp_path / "net.pt2"
    write(path, size=(128, 64))
    images, out = str(tiny_root / "images.parquet"), str(tmp_path / "run")
    command = [*TRAIN, "--images", images, "--out", out]
    command = ["1" if part == "12" else str(path) if part == "none" else part for part in command]
    subprocess.run(command, check=True, capture_output=True)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert "generator/perceptual" in log[0]
    config = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    assert config["features_sha256"] == io.sha256_file(path)


def test_the_networks_own_output_is_a_layer_too(tmp_path):
    network = write(tmp_path / "net.pt2")
    features = ExportedFeatures(str(tmp_path / "net.pt2"), ("relu3_1", OUTPUT))
    found = features(pictures())
    assert list(found) == ["relu3_1", OUTPUT]
    torch.testing.assert_close(found[OUTPUT], network(pictures()))
    torch.testing.assert_close(found["relu3_1"], network.maps(pictures())["quarter"])
