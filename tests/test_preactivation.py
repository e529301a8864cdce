"""Instance normalisation that keeps channels innermost."""

from __future__ import annotations

import torch
from torch import nn

from augment.nets.preactivation import InstanceNorm

FLOAT_NOISE = 1e-5


def _features() -> torch.Tensor:
    numbers = torch.Generator().manual_seed(0)
    features = 3 * torch.randn(2, 8, 6, 5, generator=numbers) + 7
    return features.to(memory_format=torch.channels_last)


def _norms() -> tuple[InstanceNorm, nn.InstanceNorm2d]:
    torch.manual_seed(1)
    ours, torchs = InstanceNorm(8), nn.InstanceNorm2d(8, affine=True)
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    torchs.load_state_dict(ours.state_dict())
    return ours, torchs


def test_it_equals_torchs_and_keeps_the_channels_innermost() -> None:
    ours, torchs = _norms()
    with torch.no_grad():
        found = ours(_features())
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert (found - torchs(_features())).abs().max() < FLOAT_NOISE


def test_with_gradients_it_is_torchs() -> None:
    ours, torchs = _norms()
    assert torch.equal(ours(_features()), torchs(_features()))


def test_it_changes_nothing_that_it_is_given() -> None:
    features = _features()
    with torch.no_grad():
        _norms()[0](features)
    assert torch.equal(features, _features())
