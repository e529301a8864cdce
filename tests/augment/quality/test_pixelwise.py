"""Pixelwise measures against plain formulas and scikit-image."""

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio

from augment.quality.pixelwise import l1, psnr

TOLERANCE = 1e-9  # means of 24,576 float64 numbers


def two_batches() -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(0)
    first, second = random.integers(0, 256, (2, 3, 3, 128, 64), dtype=np.uint8)
    return torch.from_numpy(first), torch.from_numpy(second)


def test_l1_is_the_mean_absolute_difference_of_images_in_minus_one_to_one():
    generated, target = two_batches()
    scaled = generated.numpy() / 127.5 - 1, target.numpy() / 127.5 - 1
    expected = np.abs(scaled[0] - scaled[1]).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(l1(generated, target), expected, atol=TOLERANCE)


def test_psnr_equals_scikit_image_on_images_in_zero_to_one():
    generated, target = two_batches()
    expected = [
        peak_signal_noise_ratio(b.numpy() / 255, a.numpy() / 255, data_range=1)
        for a, b in zip(generated, target, strict=True)
    ]
    np.testing.assert_allclose(psnr(generated, target), expected, atol=TOLERANCE)


def test_psnr_of_equal_images_is_infinite():
    image = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    assert psnr(image, image).item() == float("inf")
