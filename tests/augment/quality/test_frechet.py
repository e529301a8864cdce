"""Frechet distance against closed forms and SciPy's matrix root."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from augment.quality.frechet import frechet_distance, merge, moments

TOLERANCE = 1e-9  # float64 eigenvalues of 20 x 20 matrices of order one


def vectors(seed: int, count: int = 500, width: int = 20) -> torch.Tensor:
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(width, width)) / np.sqrt(width)
    return torch.from_numpy(random.normal(size=(count, width)) @ mixing + random.normal(size=width))


def test_the_distance_equals_the_formula_with_scipys_root():
    first, second = vectors(0), vectors(1)
    c1, c2 = np.cov(first.numpy(), rowvar=False), np.cov(second.numpy(), rowvar=False)
    step = first.numpy().mean(axis=0) - second.numpy().mean(axis=0)
    expected = step @ step + np.trace(c1 + c2 - 2 * np.real(sqrtm(c1 @ c2)))
    ours = frechet_distance(moments(first), moments(second))
    assert ours == pytest.approx(expected, abs=TOLERANCE)
    assert frechet_distance(moments(second), moments(first)) == pytest.approx(ours, abs=TOLERANCE)


def test_the_distance_of_a_set_to_itself_is_zero():
    found = moments(vectors(2))
    assert frechet_distance(found, found) == pytest.approx(0, abs=TOLERANCE)


def test_fewer_vectors_than_features_give_a_real_distance():
    few, other = vectors(3, 5), vectors(4, 7)
    c1, c2 = np.cov(few.numpy(), rowvar=False), np.cov(other.numpy(), rowvar=False)
    # The trace of the root by singular values: |C1^(1/2) C2^(1/2)|_* of the centred vectors.
    a = (few - few.mean(0)).numpy() / np.sqrt(4)
    b = (other - other.mean(0)).numpy() / np.sqrt(6)
    nuclear = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    step = few.numpy().mean(axis=0) - other.numpy().mean(axis=0)
    expected = step @ step + np.trace(c1) + np.trace(c2) - 2 * nuclear
    # Eigenvalues of zero come out as about 1e-16; their roots are 1e-8.
    assert frechet_distance(moments(few), moments(other)) == pytest.approx(expected, abs=1e-6)


def test_moments_in_batches_equal_those_of_all_vectors_far_from_the_origin():
    far = vectors(5) + 1e6
    found = None
    for batch in far.split(64):
        found = merge(found, moments(batch))
    assert found is not None
    assert found.count == 500
    np.testing.assert_allclose(found.mean, far.mean(dim=0), rtol=1e-14)
    np.testing.assert_allclose(found.covariance, np.cov(far.numpy(), rowvar=False), atol=1e-8)


def test_one_vector_has_no_distance():
    with pytest.raises(ValueError, match="found 1 and 500 vectors"):
        frechet_distance(moments(vectors(0, 1)), moments(vectors(1)))
