"""The authors' files: taken over whole, or refused with names of both sides."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from augment.checkpoints import store
from augment.checkpoints.convert import convert_weights
from augment.generators import system
from augment.nets.official import without_twins
from manifests.console import UserError

HERE = Path(__file__).parent / "golden"

FILES = {
    "patn": "patn_batch",
    "xinggan": "xing_batch",
    "gfla": "gfla_market",
    "dptn": "dptn",
}


def _official(system_name: str) -> dict[str, Tensor]:
    """Return tensors of the published names and shapes that take no memory."""
    shapes = json.loads((HERE / f"noise_{FILES[system_name]}.json").read_text())["state_dict"]
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


def _spectral(first: tuple[int, int]) -> dict[str, Tensor]:
    """Return a discriminator's published names, as the old spectral norm wrote them."""
    convolutions = {
        f"block0.model.{first[0]}": (32, 3, 3, 3),
        f"block0.model.{first[1]}": (32, 32, 4, 4),
        "block0.shortcut.1": (32, 3, 1, 1),
        "encoder0.model.1": (32, 32, 3, 3),
        "encoder0.model.3": (64, 32, 4, 4),
        "encoder0.shortcut.1": (64, 32, 1, 1),
        "encoder1.model.1": (64, 64, 3, 3),
        "encoder1.model.3": (128, 64, 4, 4),
        "encoder1.shortcut.1": (128, 64, 1, 1),
        "conv": (1, 128, 1, 1),
    }
    weights: dict[str, Tensor] = {}
    for name, (outputs, inputs, height, width) in convolutions.items():
        weights[f"{name}.bias"] = torch.randn(outputs)
        weights[f"{name}.weight_orig"] = torch.randn(outputs, inputs, height, width)
        weights[f"{name}.weight_u"] = torch.randn(outputs)
        weights[f"{name}.weight_v"] = torch.randn(inputs * height * width)
    return weights


def _convert(name: str, weights: dict[str, Tensor], folder: Path) -> Path:
    torch.save(weights, folder / "official.pth")
    convert_weights(
        name, system(name).Config(), folder / "official.pth", folder / "ours.safetensors"
    )
    return folder / "ours.safetensors"


@pytest.mark.parametrize(("name", "owner"), list(itertools.permutations(FILES, 2)))
def test_weights_of_another_system_are_refused_and_nothing_is_written(name, owner, tmp_path):
    with pytest.raises(UserError):
        _convert(name, _official(owner), tmp_path)
    assert not (tmp_path / "ours.safetensors").exists()


@pytest.mark.parametrize("name", FILES)
def test_a_missing_tensor_is_named(name, tmp_path) -> None:
    weights = _official(name)
    gone = next(key for key in reversed(weights) if not key.endswith("num_batches_tracked"))
    weights = {
        key: value
        for key, value in weights.items()
        if key != gone and key != gone.replace("model.2", "conv1")
    }
    with pytest.raises(UserError, match="missing 1"):
        _convert(name, weights, tmp_path)
    assert not (tmp_path / "ours.safetensors").exists()


@pytest.mark.parametrize("name", FILES)
def test_an_extra_tensor_is_named(name, tmp_path) -> None:
    weights = _official(name)
    wrapper = "model." if next(iter(weights)).startswith("model.") else ""
    with pytest.raises(UserError, match=r"surprise\.weight"):
        _convert(name, {**weights, f"{wrapper}surprise.weight": torch.zeros(1)}, tmp_path)
    assert not (tmp_path / "ours.safetensors").exists()


def test_gfla_weights_for_fashion_images_are_called_so(tmp_path) -> None:
    weights = _official("gfla")
    weights["target.attn0.fully_connect_layer.0.weight"] = torch.zeros(128, 512, 3, 3)
    weights["target.attn1.fully_connect_layer.0.weight"] = torch.zeros(128, 256, 5, 5)
    with pytest.raises(UserError, match=r"DeepFashion.*attn1.*Market-1501"):
        _convert("gfla", weights, tmp_path)


def test_a_tensor_saved_twice_must_be_saved_equal() -> None:
    rules = {r"^jump\.conv1\.": "jump.model.2."}
    one, other = torch.ones(2), torch.zeros(2)
    twins = {"jump.conv1.bias": one, "jump.model.2.bias": one.clone()}
    assert list(without_twins(twins, rules)) == ["jump.model.2.bias"]
    with pytest.raises(UserError, match=r"jump\.conv1\.bias"):
        without_twins({**twins, "jump.conv1.bias": other}, rules)


def test_dptn_is_read_under_its_wrapper_and_its_older_name(tmp_path) -> None:
    old = {
        "module." + name.replace("PTM.", "transformer."): value
        for name, value in _official("dptn").items()
    }
    assert store.read_header(_convert("dptn", old, tmp_path)).generator == "dptn"
    new = {f"module.{name}": value for name, value in _official("dptn").items()}
    before = (tmp_path / "ours.safetensors").stat().st_size
    assert _convert("dptn", new, tmp_path).stat().st_size == before


@pytest.mark.parametrize(("name", "first"), [("gfla", (1, 3)), ("dptn", (0, 2))])
def test_a_discriminator_saved_by_the_old_spectral_norm_judges_the_same(name, first) -> None:
    weights = _spectral(first)
    with torch.device("meta"):
        network = system(name)()
    discriminator = network.get_submodule("discriminator")
    ours = type(network).from_official(weights)
    discriminator.load_state_dict(
        {key.removeprefix("discriminator."): value for key, value in ours.items()},
        strict=True,
        assign=True,
    )
    last = discriminator.eval().get_submodule("conv")
    weight, u, v = (weights[f"conv.weight_{part}"] for part in ("orig", "u", "v"))
    expected = weight / (u @ weight.flatten(1) @ v)
    assert torch.allclose(last.weight, expected)
