"""Depthwise convolutions that are computed in float32 within a network in bf16."""

import copy

import pytest
import torch
from torch import nn

from reid.models.backbone import BackboneOptions
from reid.models.network import build_network
from reid.training.depthwise import InFloat32, depthwise_in_float32
from reid.training.loop import Trainer
from reid.training.settings import TrainSettings

SLOW = {"stride": 2}, {"dilation": 2}, {"kernel_size": 5}


def convolution(**changes: int) -> nn.Conv2d:
    return nn.Conv2d(8, 8, **{"kernel_size": 3, "groups": 8, "padding": 1, **changes})


def computed(module: nn.Module, image: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return module(image)


@pytest.mark.parametrize("changes", SLOW)
def test_a_slow_convolution_computes_in_float32_and_gives_what_it_was_given(changes):
    torch.manual_seed(0)
    plain = convolution(**changes)
    image = torch.randn(2, 8, 12, 12)
    expected, rough = plain(image), computed(plain, image)
    network = nn.Sequential(copy.deepcopy(plain))
    depthwise_in_float32(network)
    found = computed(network, image)
    assert torch.equal(found, expected)
    assert not torch.equal(rough.float(), expected)
    assert computed(network, image.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("changes", [{}, {"groups": 4, "stride": 2}, {"groups": 1, "stride": 2}])
def test_others_are_left_to_autocast(changes):
    network = nn.Sequential(convolution(**changes))
    depthwise_in_float32(network)
    assert type(network[0]) is nn.Conv2d


def test_a_kind_of_convolution_keeps_its_own_forward_and_all_keep_their_state():
    class Doubled(nn.Conv2d):
        def forward(self, input):  # noqa: A002
            return 2 * super().forward(input)

    plain = Doubled(8, 8, 3, stride=2, groups=8)
    network = nn.Sequential(copy.deepcopy(plain))
    depthwise_in_float32(network)
    image = torch.randn(2, 8, 12, 12)
    assert torch.equal(computed(network, image), plain(image))
    assert network.state_dict().keys() == nn.Sequential(plain).state_dict().keys()
    assert isinstance(network[0], InFloat32)
    # A copy, as of weights that are averaged, computes alike.
    assert torch.equal(computed(copy.deepcopy(network), image), plain(image))


@pytest.mark.parametrize(("precision", "expected"), [("bf16", 3), ("float32", 0)])
def test_a_training_in_bf16_has_them_in_mobilenet(precision, expected):
    settings = TrainSettings.model_validate(
        {"images": "i", "out": "o", "model": "torchvision/mobilenet_v2", "last_stride": 1,
         "precision": precision}, strict=False
    )  # fmt: skip
    options = BackboneOptions(num_people=4, height=64, width=32, last_stride=1)
    network = build_network(settings.model, options, neck="none", with_features=False)
    Trainer(network, settings, torch.device("cpu"))
    assert sum(isinstance(m, InFloat32) for m in network.module.modules()) == expected
