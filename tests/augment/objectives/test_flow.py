"""The losses that make a flow right."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from augment.nets.warping import positions
from augment.objectives.flow import bending, correctness

FLOAT_NOISE = 1e-5


def _features(seed: int, height: int = 6, width: int = 5) -> torch.Tensor:
    return torch.rand(2, 8, height, width, generator=torch.Generator().manual_seed(seed))


def test_correctness_follows_its_formula_position_by_position() -> None:
    source, target = _features(0), _features(1)
    flow = torch.zeros(2, 2, 6, 5)
    terms = []
    for batch in range(2):
        for row in range(6):
            for column in range(5):
                wanted = target[batch, :, row, column]
                best = max(
                    float(F.cosine_similarity(source[batch, :, y, x], wanted, dim=0))
                    for y in range(6)
                    for x in range(5)
                )
                total, weights = torch.zeros(8), 0.0
                for down in (-1, 0, 1, 2):
                    for right in (-1, 0, 1, 2):
                        weight = math.exp(-(down**2 + right**2) / 8)
                        y, x = min(max(row + down, 0), 5), min(max(column + right, 0), 4)
                        total += weight * source[batch, :, y, x]
                        weights += weight
                found = float(F.cosine_similarity(total / weights, wanted, dim=0))
                terms.append(math.exp(-found / (best + 1e-8)))
    expected = np.mean(terms) - math.exp(-1)
    assert abs(float(correctness(source, target, flow)) - expected) < FLOAT_NOISE


def test_the_flow_to_the_true_place_is_more_correct_than_none() -> None:
    source = _features(2, 16, 16)
    target = source.roll(-3, dims=3)
    none, true = torch.zeros(2, 2, 16, 16), torch.zeros(2, 2, 16, 16)
    true[:, 0] = 3.0
    assert correctness(source, target, true) < correctness(source, target, none)


def test_a_flow_of_half_the_size_is_repeated_with_its_values() -> None:
    source, target = _features(3, 8, 8), _features(4, 8, 8)
    small = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(5))
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert correctness(source, target, small) == correctness(source, target, large)


def test_an_affine_flow_does_not_bend() -> None:
    x, y = positions(8, 6, torch.zeros(()))
    flow = torch.stack([0.5 * x - 0.2 * y + 3, 0.1 * x + 2 * y - 1])[None]
    assert bending(flow, 3) < FLOAT_NOISE


def test_bending_is_the_misfit_of_least_squares_in_every_window() -> None:
    flow = torch.randn(2, 2, 5, 4, generator=torch.Generator().manual_seed(6))
    grid = (positions(5, 4, flow) + flow).double().numpy()
    design = np.array([[x, y, 1.0] for y in range(3) for x in range(3)])
    total = 0.0
    for batch in range(2):
        for top in range(3):
            for left in range(2):
                for axis in range(2):
                    window = grid[batch, axis, top : top + 3, left : left + 3].ravel()
                    fit = design @ np.linalg.lstsq(design, window, rcond=None)[0]
                    total += float(((window - fit) ** 2).sum())
    assert abs(float(bending(flow, 3)) - total / (2 * 3 * 2)) < FLOAT_NOISE


def test_reduced_precision_around_them_does_not_move_the_losses() -> None:
    source, target = _features(7), _features(8)
    flow = torch.randn(2, 2, 6, 5, generator=torch.Generator().manual_seed(9))
    with torch.autocast("cpu", torch.bfloat16):
        assert correctness(source, target, flow).dtype == torch.float32
        assert bending(flow, 3).dtype == torch.float32
        reduced = correctness(source, target, flow), bending(flow, 3)
    assert reduced == (correctness(source, target, flow), bending(flow, 3))
