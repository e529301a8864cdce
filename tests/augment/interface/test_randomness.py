import numpy as np
import pytest
import torch

from augment.interface.randomness import RowRandom
from manifests.runtime.random_numbers import random_bits

SEEDS = random_bits(0, "rows", 6)


@pytest.mark.parametrize("draw", ["normal", "uniform"])
def test_numbers_of_a_row_follow_from_its_seed_alone_whatever_is_drawn_and_how_often(draw):
    together, alone = RowRandom(SEEDS, "cpu"), RowRandom(SEEDS[3:4], "cpu")
    for shape in ((5,), (2, 4, 3), ()):
        batch, row = getattr(together, draw)(*shape), getattr(alone, draw)(*shape)
        assert batch.shape == (6, *shape)
        assert torch.equal(row[0], batch[3])


def test_rows_and_draws_are_independent():
    random = RowRandom(SEEDS, "cpu")
    first, second = random.normal(1_000), random.normal(1_000)
    table = torch.cat([first, second])
    correlation = torch.corrcoef(table) - torch.eye(len(table))
    # Five standard errors of the correlation of 1,000 pairs.
    assert correlation.abs().max() < 5 / 1_000**0.5


def test_golden_noise():
    np.testing.assert_allclose(
        RowRandom(np.array([0, 2**64 - 1], np.uint64), "cpu").normal(2).numpy(),
        [[1.5195527, 0.55061656], [-1.7481266, -0.6791829]],
        rtol=1e-6,  # the last bit of the logarithm and cosine is the C library's
    )


def test_normal_numbers_are_standard_normal():
    noise = RowRandom(random_bits(0, "rows", 2_000), "cpu").normal(10)

    # Five standard errors of 20,000 numbers.
    assert abs(noise.mean()) < 5 / 20_000**0.5
    assert abs(noise.std() - 1) < 5 / (2 * 20_000) ** 0.5
    assert abs((noise.abs() < 1).float().mean() - 0.6827) < 0.017


def test_uniform_numbers_fill_the_open_interval_evenly():
    numbers = RowRandom(random_bits(0, "rows", 2_000), "cpu").uniform(10)

    assert 0 < numbers.min() < 0.001
    assert 0.999 < numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 5 / (12 * 20_000) ** 0.5
