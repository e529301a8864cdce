from __future__ import annotations

import shutil
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from manifests.runtime.console import UserError
from reid.models.backbone import BackboneOptions
from reid.models.head import BackboneWithHead
from reid.models.network import build_network, network_of
from reid.models.torchreid_adapter import build_model
from reid.models.weights import start_from
from reid.training.loop import compiled

IMAGES = torch.randn(4, 3, 64, 32, generator=torch.Generator().manual_seed(0))


SIX = BackboneOptions(num_people=6, height=64, width=32)


def bnneck() -> BackboneWithHead:
    network = build_network("osnet_x0_25", SIX, neck="bnneck", with_features=True).module
    assert isinstance(network, BackboneWithHead)
    return network


def test_the_neck_classifies_normalised_features_and_gives_plain_ones_to_metric_losses():
    network = bnneck()
    logits, features = network(IMAGES)
    normalised = nn.functional.batch_norm(features, None, None, training=True)
    expected = normalised @ network.classifier.weight.T
    torch.testing.assert_close(logits, expected, atol=1e-6, rtol=0)
    assert network.classifier.bias is None
    assert not network.neck.bias.requires_grad


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_network_with_a_neck_has_the_gradients_of_a_plain_one():
    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), *pooled)
    plain = BackboneWithHead(backbone, 8, 6, neck="bnneck", with_features=True)
    plain = plain.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    network = deepcopy(plain)
    for forward in (plain, compiled(network)):
        logits, features = forward(IMAGES)
        (logits.square().sum() + features.square().sum()).backward()
    found = {name: weight.grad for name, weight in network.named_parameters()}
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(found[name], weight.grad, atol=1e-5, rtol=1e-5)


def test_in_evaluation_the_neck_gives_normalised_features():
    network = bnneck()
    network(IMAGES)
    network.eval()
    plain = network.backbone(IMAGES)
    assert torch.equal(network(IMAGES), network.neck(plain))
    assert not torch.equal(network(IMAGES), plain)


def test_weights_of_a_plain_network_go_into_the_backbone_of_one_with_a_neck(tmp_path):
    given = build_model("osnet_x0_25", 20)
    save_file(given.state_dict(), tmp_path / "given.safetensors")
    network = bnneck()
    loaded = start_from(network, tmp_path / "given.safetensors")
    assert loaded.by == "name"
    assert {name.partition(".")[0] for name in loaded.skipped} == {"classifier", "neck"}
    assert torch.equal(network.backbone.conv1.conv.weight, given.conv1.conv.weight)


def test_a_last_stride_of_one_doubles_the_last_map_of_a_resnet_and_changes_no_weight():
    maps = {}
    for stride in (1, 2):
        torch.manual_seed(0)
        options = replace(SIX, last_stride=stride)
        network = build_network("resnet18", options, neck="none", with_features=False)
        maps[stride] = network.module.eval().featuremaps(IMAGES)
    assert maps[2].shape[2:] == (2, 1)
    assert maps[1].shape[2:] == (4, 2)


def test_a_neck_or_stride_that_a_network_cannot_have_is_refused():
    options = replace(SIX, last_stride=1)
    with pytest.raises(UserError, match="ResNet family with a last stride of 2, found OSNet"):
        build_network("osnet_x0_25", options, neck="none", with_features=False)
    with pytest.raises(UserError, match=r"one feature and one classifier.*found PCB"):
        build_network("pcb_p4", SIX, neck="bnneck", with_features=False)


def test_a_recipe_from_before_the_choice_of_neck_and_stride_has_neither():
    network = network_of({"model": "osnet_x0_25", "height": 64, "width": 32}, 6).module
    assert network.state_dict().keys() == build_model("osnet_x0_25", 6).state_dict().keys()
