"""Instance normalisation that keeps channels innermost."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from augment.nets.preactivation import InstanceNorm

FLOAT_NOISE = 1e-5
BF16_NOISE = 2**-7
"""One step of the last digit of the largest value."""


LARGE = (40, 30)
SMALL = (6, 5)


def _features(size: tuple[int, int] = LARGE) -> torch.Tensor:
    numbers = torch.Generator().manual_seed(0)
    features = 3 * torch.randn(2, 8, *size, generator=numbers) + 7
    return features.to(memory_format=torch.channels_last)


def _norms() -> tuple[InstanceNorm, nn.InstanceNorm2d]:
    torch.manual_seed(1)
    ours, torchs = InstanceNorm(8), nn.InstanceNorm2d(8, affine=True)
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    torchs.load_state_dict(ours.state_dict())
    return ours, torchs


@pytest.mark.parametrize("size", [LARGE, SMALL])
def test_it_equals_torchs(size: tuple[int, int]) -> None:
    ours, torchs = _norms()
    with torch.no_grad():
        assert (ours(_features(size)) - torchs(_features(size))).abs().max() < FLOAT_NOISE


@pytest.mark.parametrize("size", [LARGE, SMALL])
def test_in_bf16_it_equals_torchs_but_for_rounding(size: tuple[int, int]) -> None:
    ours, torchs = (norm.bfloat16() for norm in _norms())
    features = _features(size).bfloat16()
    with torch.no_grad():
        difference = (ours(features) - torchs(features)).abs().max()
        assert difference <= BF16_NOISE * torchs(features).abs().max()


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_it_keeps_the_channels_of_large_features_innermost(kind: torch.dtype) -> None:
    with torch.no_grad():
        found = _norms()[0].to(kind)(_features().to(kind))
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_with_gradients_it_is_torchs() -> None:
    ours, torchs = _norms()
    assert torch.equal(ours(_features()), torchs(_features()))


def test_it_changes_nothing_that_it_is_given() -> None:
    features = _features()
    with torch.no_grad():
        _norms()[0](features)
    assert torch.equal(features, _features())
