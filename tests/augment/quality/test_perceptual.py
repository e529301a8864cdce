"""Perceptual distances: LPIPS where it is installed, ours on an exported network."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from augment.quality.perceptual import (
    as_network_input,
    cosine_distance,
    load_lpips,
    load_reid,
)
from manifests.runtime.console import UserError

ROOT = Path(__file__).resolve().parents[3]


class Network(nn.Module):
    """Mean colour of the upper and of the lower half."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        upper, lower = images[:, :, :64].mean(dim=(2, 3)), images[:, :, 64:].mean(dim=(2, 3))
        return torch.cat((upper, lower), dim=1)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    path = tmp_path / "net.pt2"
    images = torch.zeros(2, 3, 128, 64)
    batch = torch.export.Dim("batch", min=1, max=256)
    torch.export.save(
        torch.export.export(Network().eval(), (images,), dynamic_shapes=({0: batch},)), path
    )
    return path


def test_an_exported_network_gives_features_for_any_batch(exported: Path):
    images = torch.rand(5, 3, 128, 64) * 2 - 1
    torch.testing.assert_close(load_reid(exported, "cpu")(images), Network()(images))


def test_a_file_that_is_no_exported_network_is_refused(tmp_path: Path):
    path = tmp_path / "net.pt2"
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"net\.pt2 was not written by 'reid export'"):
        load_reid(path, "cpu")
    with pytest.raises(UserError, match="found nothing of this name at"):
        load_reid(tmp_path / "other.pt2", "cpu")


def test_what_torch_logs_of_a_foreign_file_is_not_shown(tmp_path: Path):
    path = tmp_path / "net.txt"
    path.write_bytes(b"nothing")
    program = "import sys; from pathlib import Path\n"
    program += "from manifests.compute.exported_networks import load_network\n"
    program += "load_network(Path(sys.argv[1]), 'cpu', '--reid')"
    command = [sys.executable, "-c", program, str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    *_, told = ended.stderr.splitlines()
    assert "--reid: " in told
    assert "was not written by 'reid export'" in told
    # What torch logs names the level, the day and its own file.
    assert "pt2_archive/_package.py:" not in ended.stderr


def test_equal_vectors_have_distance_zero_and_opposite_ones_two():
    vector = torch.tensor([[3.0, 4.0]])
    assert cosine_distance(vector, 5 * vector).item() == pytest.approx(0)
    assert cosine_distance(vector, -vector).item() == pytest.approx(2)


def test_a_masked_image_is_medium_grey_outside_the_mask():
    images = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    mask = torch.tensor([[[True, False], [False, True]]])
    assert as_network_input(images, mask)[0, 0].tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_lpips_without_weights_or_package_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"lpips is not installed|give --alexnet FILE"):
        load_lpips(None, "cpu")


def test_lpips_of_an_alexnet_file_is_the_packages_own(tmp_path):
    package = pytest.importorskip("lpips", reason="lpips is not installed")
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    alexnet = models.alexnet(weights=None)
    torch.save(alexnet.state_dict(), tmp_path / "alexnet.pth")
    ours = load_lpips(str(tmp_path / "alexnet.pth"), "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = package.LPIPS(net="alex", pnet_rand=True, verbose=False)
    layers = dict(alexnet.features.named_children())
    for part in theirs.net.children():
        for place, layer in part.named_children():
            layer.load_state_dict(layers[place].state_dict())
    first, second = torch.rand(2, 3, 3, 128, 64) * 2 - 1
    with torch.inference_mode():
        expected = theirs(first, second).flatten()
    torch.testing.assert_close(ours(first, second), expected)
    assert (ours(first, second) > 0).all()
    assert ours(first, first).abs().max() < 1e-6
