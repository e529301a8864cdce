"""The authors' files: taken over whole, or refused with names of both sides."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from augment.checkpoints import store
from augment.checkpoints.convert import convert_weights
from augment.generators import system
from augment.nets.official_names import without_tied_weights
from augment.training.inputs import load_initial_weights
from manifests.runtime.console import UserError

HERE = Path(__file__).resolve().parents[2] / "golden"

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


def _pair_discriminator(channels: int) -> dict[str, Tensor]:
    """Return the published names of PATN's and XingGAN's discriminators, which they share."""
    convolutions = {"1": (64, channels, 7, 7), "4": (128, 64, 3, 3), "7": (256, 128, 3, 3)}
    for block in (10, 11, 12):
        for place in (1, 6):
            convolutions[f"{block}.conv_block.{place}"] = (256, 256, 3, 3)
    weights: dict[str, Tensor] = {}
    for name, shape in convolutions.items():
        *path, place = name.split(".")
        norm = ".".join([*path, str(int(place) + 1)])
        weights[f"model.{name}.weight"] = torch.zeros(()).expand(shape)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            weights[f"model.{norm}.{leaf}"] = torch.randn(shape[0])
        weights[f"model.{norm}.num_batches_tracked"] = torch.tensor(7)
    return weights


DISCRIMINATORS = {
    "patn": {
        "discriminators.shape": _pair_discriminator(21),
        "discriminators.appearance": _pair_discriminator(6),
    },
    "xinggan": {
        "discriminators.shape": _pair_discriminator(21),
        "discriminators.appearance": _pair_discriminator(6),
    },
    "gfla": {"discriminator": _spectral((1, 3))},
    "dptn": {"discriminator": _spectral((0, 2))},
}


def _convert(
    name: str, weights: dict[str, Tensor], folder: Path, *discriminators: dict[str, Tensor]
) -> Path:
    files = [folder / f"official-{place}.pth" for place in range(1 + len(discriminators))]
    for file, tensors in zip(files, (weights, *discriminators), strict=True):
        torch.save(tensors, file)
    convert_weights(name, system(name).Config(), files, folder / "ours.safetensors")
    return folder / "ours.safetensors"


def _refused(
    name: str, weights: dict[str, Tensor], folder: Path, *discriminators: dict[str, Tensor]
) -> str:
    """Return why the files were refused, which changed nothing."""
    out = folder / "ours.safetensors"
    out.write_bytes(b"of an earlier conversion")
    with pytest.raises(UserError) as error:
        _convert(name, weights, folder, *discriminators)
    assert out.read_bytes() == b"of an earlier conversion"
    return str(error.value)


@pytest.mark.parametrize("name", FILES)
def test_every_published_name_is_found_again_from_ours(name) -> None:
    generator = {key.removeprefix("model."): value for key, value in _official(name).items()}
    for file in (generator, *DISCRIMINATORS[name].values()):
        bare = {key.removeprefix("model."): value for key, value in file.items()}
        ours = system(name).from_official(bare)
        assert all(bare[system(name).official_name(key)] is ours[key] for key in ours)


@pytest.mark.parametrize(("name", "owner"), list(itertools.permutations(FILES, 2)))
def test_weights_of_another_system_are_refused_with_names_of_both(name, owner, tmp_path) -> None:
    message = _refused(name, _official(owner), tmp_path)
    assert any(key.removeprefix("model.") in message for key in _official(owner))
    expected = r"expected names that begin with (\S+), |missing \d+: \S+ \(theirs: (\S+)\)"
    (names,) = re.findall(expected, message)
    bare = [key.removeprefix("model.") for key in _official(name)]
    assert any(key.startswith("".join(names)) for key in bare)


BOTH_NAMES = {
    "patn": ("model.stream1_up.7.bias", "decoder.7.bias"),
    "xinggan": ("model.atte_con2.weight", "fusion.attention.6.weight"),
    "gfla": ("flow_net.mask2.0.bias", "flow_net.mask.bias"),
    "dptn": ("PTM.decoder.norm.bias", "transformer.norm.bias"),
}
"""A tensor's published name, and ours."""


@pytest.mark.parametrize("name", FILES)
def test_a_missing_tensor_is_named_as_theirs_and_as_ours(name, tmp_path) -> None:
    theirs, ours = BOTH_NAMES[name]
    weights = _official(name)
    del weights[theirs]
    message = _refused(name, weights, tmp_path)
    assert f"tensors missing 1: {ours} (theirs: {theirs.removeprefix('model.')})" in message


@pytest.mark.parametrize("name", FILES)
def test_an_extra_tensor_is_named_as_theirs_and_as_ours(name, tmp_path) -> None:
    theirs, ours = (f"{word}_more" for word in BOTH_NAMES[name])
    message = _refused(name, {**_official(name), theirs: torch.zeros(1)}, tmp_path)
    assert f"tensors unknown 1: {ours} (theirs: {theirs.removeprefix('model.')})" in message


@pytest.mark.parametrize(
    ("name", "beginning"),
    [
        ("patn", "stream1_down."),
        ("xinggan", "stream1_down."),
        ("gfla", "source.block0."),
        ("dptn", "block0."),
    ],
)
def test_a_strange_tensor_is_named_beside_what_was_expected(name, beginning, tmp_path) -> None:
    weights = _official(name)
    wrapper = "model." if next(iter(weights)).startswith("model.") else ""
    message = _refused(name, {**weights, f"{wrapper}surprise.weight": torch.zeros(1)}, tmp_path)
    assert f"(surprise.weight); expected names that begin with {beginning}, " in message


def test_gfla_weights_for_fashion_images_are_called_so(tmp_path) -> None:
    weights = _official("gfla")
    weights["target.attn0.fully_connect_layer.0.weight"] = torch.zeros(128, 512, 3, 3)
    weights["target.attn1.fully_connect_layer.0.weight"] = torch.zeros(128, 256, 5, 5)
    message = _refused("gfla", weights, tmp_path)
    found, _, expected = message.partition("expected")
    assert "DeepFashion" in found
    assert re.search(r"target\.attn[01]\.fully_connect_layer\.0\.weight", found)
    assert "Market-1501 (one attention, 'target.attn1'" in expected


def test_a_tensor_saved_twice_must_be_saved_equal() -> None:
    rules = {r"^jump\.conv1\.": "jump.model.2."}
    one, other = torch.ones(2), torch.zeros(2)
    tied_weights = {"jump.conv1.bias": one, "jump.model.2.bias": one.clone()}
    assert list(without_tied_weights(tied_weights, rules)) == ["jump.model.2.bias"]
    with pytest.raises(UserError, match=r"jump\.conv1\.bias"):
        without_tied_weights({**tied_weights, "jump.conv1.bias": other}, rules)


def test_dptn_is_read_under_its_wrapper_and_its_older_name(tmp_path) -> None:
    old = {
        "module." + name.replace("PTM.", "transformer."): value
        for name, value in _official("dptn").items()
    }
    assert store.read_header(_convert("dptn", old, tmp_path)).generator == "dptn"
    new = {f"module.{name}": value for name, value in _official("dptn").items()}
    before = (tmp_path / "ours.safetensors").stat().st_size
    assert _convert("dptn", new, tmp_path).stat().st_size == before


def test_xinggans_published_names_are_read_whole(tmp_path) -> None:
    weights = _official("xinggan")
    weights["model.att.3.gamma"] = torch.full((1,), 0.5)
    path = _convert("xinggan", weights, tmp_path)
    sampling = store.load(path)
    assert [child for child, _ in sampling.named_children()] == list(sampling.sampling)
    assert torch.equal(sampling.get_parameter("blocks.3.strength"), torch.tensor([0.5]))
    assert store.read_header(path).facts["terms"] == "CC BY-NC-SA 4.0, non-commercial"


@pytest.mark.parametrize(("name", "first"), [("gfla", (1, 3)), ("dptn", (0, 2))])
def test_a_discriminator_saved_by_the_old_spectral_norm_gives_the_same_scores(name, first) -> None:
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


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_published_discriminators_fit_strictly_into_ours(name) -> None:
    with torch.device("meta"):
        network = system(name)()
    for place, weights in DISCRIMINATORS[name].items():
        bare = {key.removeprefix("model."): value for key, value in weights.items()}
        ours = network.from_official(bare)
        assert {key[: len(place) + 1] for key in ours} == {f"{place}."}
        stripped = {key[len(place) + 1 :]: value for key, value in ours.items()}
        network.get_submodule(place).load_state_dict(stripped, strict=True, assign=True)


@pytest.mark.parametrize("name", ["gfla", "dptn"])
def test_discriminators_are_kept_for_training_and_left_aside_by_sampling(name, tmp_path) -> None:
    (discriminator,) = DISCRIMINATORS[name].values()
    wrapped = {f"module.{key}": value for key, value in discriminator.items()}
    path = _convert(name, _official(name), tmp_path, wrapped)
    sampling = store.load(path)
    assert [child for child, _ in sampling.named_children()] == list(sampling.sampling)
    trained = system(name)()
    load_initial_weights(trained, path)
    last = trained.get_submodule("discriminator.conv")
    assert torch.equal(last.parametrizations.weight.original, discriminator["conv.weight_orig"])
    assert torch.equal(last.parametrizations.weight[0]._u, discriminator["conv.weight_u"])
    assert torch.equal(last.bias, discriminator["conv.bias"])


@pytest.mark.parametrize("name", ["gfla", "dptn"])
def test_newer_names_of_spectral_norms_mean_the_same(name) -> None:
    (discriminator,) = DISCRIMINATORS[name].values()
    newer = {
        key.replace("weight_orig", "parametrizations.weight.original")
        .replace("weight_u", "parametrizations.weight.0._u")
        .replace("weight_v", "parametrizations.weight.0._v"): value
        for key, value in discriminator.items()
    }
    assert newer.keys() != discriminator.keys()
    translated = system(name).from_official(newer)
    expected = system(name).from_official(discriminator)
    assert translated.keys() == expected.keys()
    assert all(translated[key] is expected[key] for key in expected)


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_discriminators_without_their_generator_are_refused(name, tmp_path) -> None:
    place, discriminator = next(iter(DISCRIMINATORS[name].items()))
    message = _refused(name, discriminator, tmp_path)
    assert place in message
    assert system(name).sampling[0] in message


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        (
            "gfla",
            {"conv.weight_v": None},
            r"missing 1: discriminator\.conv\..*_v .* conv\.weight_v\)",
        ),
        ("dptn", {"surprise.bias": torch.zeros(1)}, r"unknown 1: discriminator\.surprise\.bias"),
        (
            "patn",
            {"model.7.weight": None},
            r"missing 1: discriminators\.shape\.7\.weight .* 7\.weight\)",
        ),
        (
            "xinggan",
            {"model.13.bias": torch.zeros(1)},
            r"unknown 1: discriminators\.shape\.13\.bias",
        ),
        ("patn", {"model.1.weight": torch.zeros(64, 9, 7, 7)}, r"9 channels.* 21 .* 6 "),
        ("xinggan", {"model.1.weight": None}, r"None channels.* 21 .* 6 "),
    ],
)
def test_a_tensor_too_many_or_too_few_in_a_discriminator_is_named(
    name, change, named, tmp_path
) -> None:
    discriminator = {**next(iter(DISCRIMINATORS[name].values())), **change}
    discriminator = {key: value for key, value in discriminator.items() if value is not None}
    assert re.search(named, _refused(name, _official(name), tmp_path, discriminator))


@pytest.mark.parametrize(("name", "owner"), [("gfla", "dptn"), ("dptn", "gfla"), ("gfla", "patn")])
def test_another_systems_discriminator_is_refused(name, owner, tmp_path) -> None:
    discriminator = next(iter(DISCRIMINATORS[owner].values()))
    message = _refused(name, _official(name), tmp_path, discriminator)
    assert re.search(r"missing .* unknown|does not have", message)


def test_a_file_of_another_kind_is_refused_without_the_advice_to_run_it(tmp_path) -> None:
    path = tmp_path / "netG.pth"
    path.write_bytes(b"PAR1 is how a table begins")
    with pytest.raises(UserError) as refused:
        convert_weights("patn", system("patn").Config(), [path], tmp_path / "ours.safetensors")
    assert str(refused.value) == (
        f"--official: {path} cannot be read as weights (UnpicklingError), expected a state dict of "
        "tensors (.pth, .safetensors or .npz)"
    )


def test_a_file_given_twice_is_refused(tmp_path) -> None:
    discriminator = DISCRIMINATORS["gfla"]["discriminator"]
    message = _refused("gfla", _official("gfla"), tmp_path, discriminator, discriminator)
    assert re.search(r"official-2.*before it holds too", message)
