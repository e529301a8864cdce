"""The frozen VGG19."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import vgg19

from augment.objectives.features import ACTIVATIONS, Features, load_features, random_weights
from manifests.runtime.console import UserError

FLOAT_NOISE = 1e-5
"""Two float32 evaluations of the same convolutions."""


def test_every_layer_equals_torchvisions() -> None:
    weights = random_weights()
    layers = tuple(ACTIVATIONS)
    network = vgg19(weights=None).features
    network.load_state_dict(weights)
    images = torch.rand(1, 3, 64, 32) * 2 - 1
    found = Features("vgg19-random", layers, imagenet_normalised=False)(images)
    x = images
    names = iter(layers)
    with torch.no_grad():
        for layer in network:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                name = next(names)
                assert found[name].shape == x.shape
                assert (found[name] - x).abs().max() < FLOAT_NOISE * x.abs().max()


def test_the_published_indices_of_layers_hold() -> None:
    assert ACTIVATIONS["relu1_2"] == 3
    assert ACTIVATIONS["relu3_1"] == 11
    assert ACTIVATIONS["relu5_4"] == 35


def test_imagenet_normalisation_maps_the_mean_colour_to_zero() -> None:
    features = Features("vgg19-random", ("relu1_1",), imagenet_normalised=True)
    mean = torch.tensor([0.485, 0.456, 0.406])[None, :, None, None]
    images = (2 * mean - 1).expand(1, 3, 8, 8)
    assert features(images)["relu1_1"].abs().max() < FLOAT_NOISE


def test_gradients_reach_the_image_and_no_weight() -> None:
    features = load_features("vgg19-random", ("relu1_2",), imagenet_normalised=True)
    assert features is not None
    image = torch.rand(1, 3, 8, 8, requires_grad=True)
    features(image)["relu1_2"].sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0


def test_an_owner_neither_trains_nor_saves_it() -> None:
    owner = nn.Linear(1, 1)
    owner.features = load_features("vgg19-random", ("relu1_1",), imagenet_normalised=False)
    assert len(list(owner.parameters())) == 2
    assert sorted(owner.state_dict()) == ["bias", "weight"]


def test_random_weights_are_the_same_every_time() -> None:
    first, second = random_weights(), random_weights()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_file_is_read_with_or_without_prefix(tmp_path) -> None:
    from safetensors.torch import save_file

    weights = random_weights()
    images = torch.rand(1, 3, 8, 8)
    expected = Features("vgg19-random", ("relu2_1",), imagenet_normalised=False)(images)["relu2_1"]
    torch.save({f"features.{name}": value for name, value in weights.items()}, tmp_path / "a.pth")
    save_file(weights, tmp_path / "b.safetensors")
    for name in ("a.pth", "b.safetensors"):
        features = load_features(str(tmp_path / name), ("relu2_1",), imagenet_normalised=False)
        assert features is not None
        assert torch.equal(features(images)["relu2_1"], expected)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: None, "found nothing of this name"),
        (lambda p: p.write_bytes(b"not a network"), "cannot be read"),
        (lambda p: torch.save([1, 2], p), "state dict"),
        (lambda p: torch.save({"features.0.weight": torch.zeros(3)}, p), "expected shape"),
    ],
)
def test_a_file_that_is_no_vgg19_is_refused(tmp_path, make, says) -> None:
    path = tmp_path / "weights.pth"
    make(path)
    features = Features(str(path), ("relu1_1",), imagenet_normalised=False)
    with pytest.raises(UserError, match=says):
        features(torch.zeros(1, 3, 8, 8))


def test_a_misspelt_setting_is_refused() -> None:
    features = Features("vgg91", ("relu1_1",), imagenet_normalised=False)
    with pytest.raises(UserError, match="vgg19-random"):
        features(torch.zeros(1, 3, 8, 8))


def test_none_means_no_features() -> None:
    assert load_features("none", ("relu1_1",), imagenet_normalised=False) is None
