"""Warping against plain loops, one number at a time."""

from __future__ import annotations

import math

import pytest
import torch

from augment.nets.warping import (
    crop_and_resize,
    extract_blocks,
    positions,
    resample_gaussian,
    unfold_weights,
)

DOUBLE_NOISE = 1e-12
"""The same formula in float64, in another order."""

HEIGHT, WIDTH = 5, 4


def _inputs(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features and a flow that leaves the image on every side."""
    numbers = torch.Generator().manual_seed(seed)
    source = torch.randn(2, 3, HEIGHT, WIDTH, dtype=torch.float64, generator=numbers)
    flow = 3 * torch.randn(2, 2, HEIGHT, WIDTH, dtype=torch.float64, generator=numbers)
    return source, flow


def _pixel(channel: torch.Tensor, row: int, column: int) -> float:
    return float(channel[min(max(row, 0), HEIGHT - 1), min(max(column, 0), WIDTH - 1)])


def _bilinear(channel: torch.Tensor, x: float, y: float) -> float:
    left, top = math.floor(x), math.floor(y)
    return sum(
        (1 - abs(x - column)) * (1 - abs(y - row)) * _pixel(channel, row, column)
        for row in (top, top + 1)
        for column in (left, left + 1)
    )


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_blocks_equal_a_loop_over_every_sample(size) -> None:
    source, flow = _inputs(size)
    found = extract_blocks(source, flow, size)
    assert found.shape == (2, 3, HEIGHT * size, WIDTH * size)
    for batch, channel, y, x in torch.cartesian_prod(
        *(torch.arange(n) for n in found.shape)
    ).tolist():
        row, column = y // size, x // size
        expected = _bilinear(
            source[batch, channel],
            column + float(flow[batch, 0, row, column]) + x % size - size // 2,
            row + float(flow[batch, 1, row, column]) + y % size - size // 2,
        )
        assert abs(float(found[batch, channel, y, x]) - expected) < DOUBLE_NOISE


def test_gaussian_means_equal_a_loop_over_every_neighbour() -> None:
    source, flow = _inputs(0)
    found = resample_gaussian(source, flow)
    for batch, channel, row, column in torch.cartesian_prod(
        *(torch.arange(n) for n in found.shape)
    ).tolist():
        x = column + float(flow[batch, 0, row, column])
        y = row + float(flow[batch, 1, row, column])
        total = weights = 0.0
        for down in (-1, 0, 1, 2):
            for right in (-1, 0, 1, 2):
                dx = x - (math.floor(x) + right)
                dy = y - (math.floor(y) + down)
                weight = math.exp(-(dx**2) / 8) * math.exp(-(dy**2) / 8)
                place = (math.floor(y) + down, math.floor(x) + right)
                total += weight * _pixel(source[batch, channel], *place)
                weights += weight
        assert abs(float(found[batch, channel, row, column]) - total / weights) < DOUBLE_NOISE


def test_weights_land_at_row_and_column_of_their_channel() -> None:
    weights = torch.randn(2, 9, HEIGHT, WIDTH, dtype=torch.float64)
    found = unfold_weights(weights, 3)
    for batch, _, y, x in torch.cartesian_prod(*(torch.arange(n) for n in found.shape)).tolist():
        channel = (y % 3) * 3 + x % 3
        assert found[batch, 0, y, x] == weights[batch, channel, y // 3, x // 3]


def test_convention_a_flow_of_one_to_the_right_fetches_the_right_neighbour() -> None:
    source = positions(HEIGHT, WIDTH, torch.zeros(()))[None]
    flow = torch.zeros(1, 2, HEIGHT, WIDTH)
    flow[:, 0] = 1.0
    found = extract_blocks(source, flow, 1)
    assert torch.equal(found[0, 1], source[0, 1])
    assert torch.equal(found[0, 0, :, :-1], source[0, 0, :, 1:])
    assert torch.equal(found[0, 0, :, -1], source[0, 0, :, -1])


@pytest.mark.parametrize(
    "warp",
    [
        lambda source, flow: extract_blocks(source, flow, 3),
        lambda source, flow: extract_blocks(source, flow, 2),
        resample_gaussian,
    ],
)
def test_gradients_of_features_and_flow_are_right(warp) -> None:
    # Thirds of a pixel keep every sample away from the corners of bilinear interpolation.
    numbers = torch.Generator().manual_seed(1)
    source = torch.randn(1, 2, 3, 4, dtype=torch.float64, generator=numbers, requires_grad=True)
    flow = torch.randint(-4, 5, (1, 2, 3, 4), generator=numbers).double() + 1 / 3
    assert torch.autograd.gradcheck(warp, (source, flow.requires_grad_()))


def test_gradients_of_unfolded_weights_are_right() -> None:
    weights = torch.randn(1, 9, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda weights: unfold_weights(weights, 3), (weights,))


def test_reduced_precision_around_it_does_not_move_a_sample() -> None:
    source = positions(32, 16, torch.zeros(()))[None]
    flow = torch.full((1, 2, 32, 16), 0.25)
    with torch.autocast("cpu", torch.bfloat16):
        warped, averaged = extract_blocks(source, flow, 3), resample_gaussian(source, flow)
    assert torch.equal(warped, extract_blocks(source, flow, 3))
    assert torch.equal(averaged, resample_gaussian(source, flow))


def test_boxes_are_cut_out_as_a_loop_over_every_sample_cuts_them() -> None:
    source, _ = _inputs(4)
    boxes = torch.tensor(
        [[[0, 0, 3, 4], [1, 1, 2, 3], [0, 0, 1, 1]], [[2, 2, 2, 2], [1, 3, 3, 4], [3, 0, 3, 4]]]
    )
    found = crop_and_resize(source, boxes.double(), 6)
    assert found.shape == (2, 3, 3, 6, 6)
    for image in range(2):
        for box, (left, top, right, bottom) in enumerate(boxes[image].tolist()):
            for channel in range(3):
                for row in range(6):
                    for column in range(6):
                        # Corners are shares of the size; shares of the last index are looked at.
                        y = (top / HEIGHT + (bottom - top) / HEIGHT * row / 5) * (HEIGHT - 1)
                        x = (left / WIDTH + (right - left) / WIDTH * column / 5) * (WIDTH - 1)
                        expected = _bilinear(source[image, channel], x, y)
                        assert (
                            abs(found[image, box, channel, row, column] - expected) < DOUBLE_NOISE
                        )
