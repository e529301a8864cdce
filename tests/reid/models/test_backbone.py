from __future__ import annotations

import sys
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

from manifests.runtime.command_line import parse
from manifests.runtime.console import Console, UserError
from reid.cli import PROGRAM
from reid.data.augmentation import IMAGENET, Normalisation, normalise
from reid.models import backbones
from reid.models.backbone import BackboneOptions, source_names, source_of
from reid.models.features import embed, load_network
from reid.models.network import ReidNetwork, build_network
from reid.models.run_folder import read_run
from reid.models.torchreid_adapter import build_model
from reid.models.weights import start_from
from reid.training.batches import Batches, Destination
from reid.training.settings import settings_for
from tests.helpers.reid_people import write_people

SIX = BackboneOptions(num_people=6, height=64, width=32)
QUIET = Console(quiet=True)

PATCHES = """
from torch import nn

from reid.data.augmentation import Normalisation
from reid.models.backbone import Backbone

PACKAGE = "torch"


def names():
    return ["patches8"]


def build(name, options):
    size = options.height, options.width
    module = nn.Sequential(
        nn.Conv2d(3, 5, 8, 8), nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return Backbone(module, 5, Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)), size)
"""
"""A source of one network, as somebody might add it."""


@pytest.fixture
def patches(tmp_path, monkeypatch) -> str:
    """Add a source by a single file; nothing else knows of it."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "patches.py").write_text(PATCHES)
    monkeypatch.setattr(backbones, "__path__", [*backbones.__path__, str(folder)])
    monkeypatch.delitem(sys.modules, f"{backbones.__name__}.patches", raising=False)
    return "patches/patches8"


def network_of(model: str, **changes: object) -> ReidNetwork:
    options = replace(SIX, **changes)
    return build_network(model, options, neck="bnneck", with_features=True)


def last_map(network: ReidNetwork, module: nn.Module) -> tuple[int, ...]:
    """Return height and width of a layer's output for 64 x 32 images."""
    shapes: list[tuple[int, ...]] = []
    hook = module.register_forward_hook(lambda layer, inputs, output: shapes.append(output.shape))
    network.module.eval()(torch.zeros(1, 3, 64, 32))
    hook.remove()
    return tuple(shapes[-1][2:])


def test_a_source_of_one_file_is_trained_scored_and_exported_with_its_normalisation(
    patches, tmp_path
):
    images, run = write_people(tmp_path / "people"), tmp_path / "run"
    sizes = ["--height", "64", "--width", "32", "--batch-size", "8", "--steps", "2"]
    arguments = ["--images", str(images), "--out", str(run), "--model", patches, *sizes, "--quiet"]
    PROGRAM.run(["train", *arguments, "--device", "cpu"])
    network = load_network(read_run(run), "last")
    assert network.normalisation == Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert (run / "report.json").exists()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 32, 3), np.uint8)
    found = embed(network, pixels, "features", QUIET)
    inputs = normalise(torch.from_numpy(pixels), network.normalisation)
    with torch.inference_mode():
        expected = network.module.eval()(inputs).numpy()
        imagenet = network.module(normalise(torch.from_numpy(pixels), IMAGENET)).numpy()
    np.testing.assert_array_equal(found, expected)
    assert abs(found - imagenet).max() > 0.01 * abs(found).max()
    file = tmp_path / "net.pt2"
    PROGRAM.run(["export", str(run), "--out", str(file), "--quiet"])
    plain = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    exported = torch.export.load(file).module()(plain).detach().numpy()
    # float32 rounding.
    np.testing.assert_allclose(exported, found, atol=1e-4 * abs(found).max())


def test_batches_are_normalised_as_their_network_wants_it(tmp_path):
    from reid.data.dataset import TrainingSet
    from reid.training.settings import TrainSettings

    data = TrainingSet(
        pixels=np.full((4, 64, 32, 3), 255, np.uint8),
        labels=np.arange(4),
        synthetic=np.zeros(4, bool),
        weight=np.ones(4, np.float32),
        people=("a", "b", "c", "d"),
    )
    settings = TrainSettings(images=tmp_path, out=tmp_path, batch_size=4)
    settings = settings.model_copy(
        update={"augmentation": settings.augmentation.model_copy(update={"pad": 0, "erase": 0.0})}
    )
    halves = Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    destination = Destination(torch.device("cpu"), normalisation=halves)
    images = Batches(data, settings, destination, 0).batch(0).images
    torch.testing.assert_close(images, torch.full_like(images, 2.0))


@pytest.mark.parametrize("neck", ["none", "bnneck"])
def test_torchreids_networks_draw_the_weights_that_torchreid_draws(neck):
    torch.manual_seed(3)
    expected = build_model("osnet_x0_25", 6).state_dict()
    torch.manual_seed(3)
    found = build_network("osnet_x0_25", SIX, neck=neck, with_features=False).module.state_dict()
    prefix = "backbone." if neck == "bnneck" else ""
    own = {name: found[prefix + name] for name in expected if prefix + name in found}
    assert expected.keys() - own.keys() == (
        {"classifier.weight", "classifier.bias"} if neck == "bnneck" else set()
    )
    assert all(torch.equal(own[name], expected[name]) for name in own)


@pytest.mark.parametrize(
    ("model", "width"),
    [
        ("osnet_x0_25", 512),
        ("torchvision/mobilenet_v2", 1280),
        ("torchvision/resnet18", 512),
        ("timm/efficientnet_lite0", 1280),
        ("timm/mobilenetv3_small_050", 1024),
        ("timm/convnext_atto", 320),
        ("timm/vit_tiny_patch16_224", 192),
    ],
)
@pytest.mark.parametrize("neck", ["none", "bnneck"])
def test_a_backbone_gives_as_many_features_as_it_says_and_its_head_logits(model, width, neck):
    if model.startswith("timm/"):
        pytest.importorskip("timm", reason="the extra [timm] is not installed")
    network = build_network(model, SIX, neck=neck, with_features=True).module
    logits, features = network.train()(torch.randn(2, 3, 64, 32))
    assert (logits.shape, features.shape) == ((2, 6), (2, width))
    assert network.eval()(torch.randn(2, 3, 64, 32)).shape == (2, width)


def test_a_head_without_neck_gives_logits_alone_unless_features_are_asked_for():
    plain = build_network("torchvision/resnet18", SIX, neck="none", with_features=False).module
    assert plain.train()(torch.randn(2, 3, 64, 32)).shape == (2, 6)


@pytest.mark.parametrize(
    ("model", "layer"),
    [("torchvision/mobilenet_v2", "features.18"), ("torchvision/resnet18", "layer4")],
)
def test_a_last_stride_of_one_doubles_the_last_map(model, layer):
    for stride, expected in ((1, (4, 2)), (2, (2, 1))):
        network = network_of(model, last_stride=stride)
        assert last_map(network, network.module.backbone.get_submodule(layer)) == expected


def test_timm_keeps_the_last_map_where_it_can_and_says_where_it_cannot():
    pytest.importorskip("timm", reason="the extra [timm] is not installed")
    for stride, expected in ((1, (4, 2)), (2, (2, 1))):
        network = network_of("timm/efficientnet_lite0", last_stride=stride)
        assert last_map(network, network.module.backbone.conv_head) == expected
    with pytest.raises(UserError, match=r"vit_tiny_patch16_224: timm cannot .*--last-stride 1"):
        network_of("timm/vit_tiny_patch16_224", last_stride=1)


def test_a_network_is_normalised_as_its_published_weights_are():
    pytest.importorskip("timm", reason="the extra [timm] is not installed")
    halves = (0.5, 0.5, 0.5)
    assert network_of("timm/vit_tiny_patch16_224").normalisation == Normalisation(halves, halves)
    assert network_of("timm/efficientnet_lite0").normalisation == IMAGENET


def test_a_plain_name_and_torchreids_with_its_source_are_one_setting():
    arguments = ["--model", "torchreid/osnet_x0_5", "--images", "i", "--out", "o"]
    found, _ = parse(settings_for(arguments), "reid train", "", arguments)
    assert found.model == "osnet_x0_5"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("osnet_x025", r"torchreid has no network 'osnet_x025'; did you mean osnet_x0_25 or "),
        ("osnet", r"no network 'osnet'; did you mean osnet_x\d_\d+ or osnet_\w+ or osnet_\w+\?$"),
        ("mobilenet_v2", r"did you mean .*torchvision/mobilenet_v2"),
        ("torchvision/mobilnet_v2", r"did you mean torchvision/mobilenet_v2\?$"),
        ("torchvision/xyz", r"has no network 'xyz'; it has mobilenet_v2, resnet18"),
        (
            "torchvison/resnet18",
            r"source 'torchvison', expected .*; did you mean torchvision",
        ),
    ],
)
def test_a_misspelt_network_is_told_with_the_nearest_names(model, message):
    with pytest.raises(UserError, match=message) as refused:
        source_of(model)
    assert str(refused.value).startswith(f"--model {model}: ")


def test_a_network_of_timm_is_found_without_its_source():
    pytest.importorskip("timm", reason="the extra [timm] is not installed")
    with pytest.raises(UserError, match=r"did you mean .*timm/efficientnet_lite0"):
        source_of("efficientnet_lite0")
    with pytest.raises(UserError, match=r"did you mean timm/efficientnet_lite0 "):
        source_of("timm/efficientnet_lit0")


def test_without_timm_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"timm is not installed; pip install .*\[timm\]"):
        source_of("timm/efficientnet_lite0")


def test_the_sources_are_the_files_of_their_folder(patches):
    assert source_names() == ["patches", "timm", "torchreid", "torchvision"]


def older_names(state: dict[str, torch.Tensor]) -> OrderedDict[str, torch.Tensor]:
    """Return a state under names that no network has, in its order, as older files are."""
    return OrderedDict((f"features.{row}", tensor) for row, tensor in enumerate(state.values()))


def test_weights_under_other_names_are_taken_by_position_if_all_shapes_agree(tmp_path):
    given = torchvision.models.mobilenet_v2()
    path = tmp_path / "older.pth"
    torch.save(older_names(given.state_dict()), path)
    network = network_of("torchvision/mobilenet_v2")
    loaded = start_from(network.module, path)
    assert loaded.by == "position"
    assert {name.partition(".")[0] for name in loaded.skipped} == {"classifier", "neck"}
    expected, found = given.state_dict(), network.module.backbone.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    with pytest.raises(UserError, match="tensors fit the network"):
        start_from(network_of("torchvision/resnet18").module, path)


def test_a_run_from_weights_of_a_torchvision_network_begins_with_its_backbone(tmp_path):
    images, run = write_people(tmp_path / "people"), tmp_path / "run"
    given = torchvision.models.resnet18()
    torch.save(given.state_dict(), tmp_path / "given.pth")
    sizes = ["--height", "64", "--width", "32", "--batch-size", "8", "--steps", "1"]
    arguments = ["--images", str(images), "--out", str(run), *sizes, "--quiet", "--no-score"]
    arguments += ["--model", "torchvision/resnet18", "--weights", str(tmp_path / "given.pth")]
    PROGRAM.run(["train", *arguments, "--device", "cpu", "--learning-rate", "1e-9"])
    trained = load_file(run / "last.safetensors")["backbone.conv1.weight"]
    torch.testing.assert_close(trained, given.conv1.weight.detach(), atol=1e-6, rtol=0)
    assert "torchvision" in read_run(run).facts["versions"]
