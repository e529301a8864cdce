"""SSIM against scikit-image, which the published evaluators call."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from augment.quality.ssim import RADIUS_PX, composed, masked, range_of, ssim
from manifests.runtime.console import UserError

DOUBLE_TOLERANCE = 1e-10  # sums of 121 float64 products of bytes; the contract asks for 1e-6
SINGLE_TOLERANCE = 1e-4  # float32 variances of values up to 255, differences of near-equal sums


def images(seed: int, count: int = 4, height: int = 128, width: int = 64) -> torch.Tensor:
    """Return smooth noise, so that neighbouring pixels are alike as in photographs."""
    noise = np.random.default_rng(seed).integers(0, 256, (count, 3, height, width))
    smooth = (noise + np.roll(noise, 1, -1) + np.roll(noise, 1, -2)) // 3
    return torch.from_numpy(smooth.astype(np.uint8))


def reference(generated: torch.Tensor, target: torch.Tensor) -> list[float]:
    """Return what the published evaluator computes, image by image."""
    return [
        structural_similarity(
            a.numpy(),
            b.numpy(),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            channel_axis=0,
            data_range=int(a.max()) - int(a.min()),
        )
        for a, b in zip(generated, target, strict=True)
    ]


def test_double_precision_equals_scikit_image():
    generated, target = images(0), images(1)
    generated[1] = generated[1] // 3 + 20
    generated[2] = (target[2].int() * 3 // 4 + generated[2].int() // 4).byte()
    ours = ssim(generated, target)
    np.testing.assert_allclose(ours, reference(generated, target), atol=DOUBLE_TOLERANCE)
    assert ours.dtype == torch.float64


def test_single_precision_is_close_to_scikit_image():
    generated, target = images(2), images(3)
    generated[0] = (generated[0] // 64) + 180
    target[1] = 255
    ours = ssim(generated, target, dtype=torch.float32)
    np.testing.assert_allclose(ours, reference(generated, target), atol=SINGLE_TOLERANCE)


def test_odd_sizes_down_to_one_window_equal_scikit_image():
    for height, width in ((11, 11), (11, 37), (29, 12)):
        generated, target = images(4, 2, height, width), images(5, 2, height, width)
        np.testing.assert_allclose(
            ssim(generated, target), reference(generated, target), atol=DOUBLE_TOLERANCE
        )


def test_masked_images_equal_scikit_image_on_the_masked_images():
    generated, target = images(6), images(7)
    mask = torch.zeros(4, 128, 64, dtype=torch.bool)
    mask[:, 20:90, 10:40] = True
    ours = ssim(masked(generated, mask), masked(target, mask))
    outside = torch.from_numpy(~mask.numpy())[:, None].expand(-1, 3, -1, -1)
    expected = reference(generated.masked_fill(outside, 0), target.masked_fill(outside, 0))
    np.testing.assert_allclose(ours, expected, atol=DOUBLE_TOLERANCE)


def person_masks() -> torch.Tensor:
    """Return one mask per image: wide, narrow, at the border of the image, of one pixel."""
    mask = torch.zeros(4, 128, 64, dtype=torch.bool)
    mask[0, 20:90, 10:40] = True
    mask[1, 5:120, 30:33] = True
    mask[2, 60:128, 0:30] = True
    mask[3, 64, 32] = True
    return mask


def test_within_a_mask_it_is_the_mean_of_scikit_images_map():
    generated, target, mask = images(10), images(11), person_masks()
    inside = torch.zeros_like(mask)
    inside[:, RADIUS_PX:-RADIUS_PX, RADIUS_PX:-RADIUS_PX] = True
    expected = []
    for a, b, part in zip(generated, target, mask & inside, strict=True):
        _, values = structural_similarity(
            a.numpy(),
            b.numpy(),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            channel_axis=0,
            data_range=int(a.max()) - int(a.min()),
            full=True,
        )
        expected.append(values[:, part.numpy()].mean())
    ours = ssim(generated, target, within=mask)
    np.testing.assert_allclose(ours, expected, atol=DOUBLE_TOLERANCE)
    everywhere = ssim(generated, target, within=torch.ones_like(mask))
    np.testing.assert_allclose(everywhere, ssim(generated, target), atol=DOUBLE_TOLERANCE)
    assert ssim(generated, target, within=torch.zeros_like(mask)).isnan().all()


def test_a_composed_image_shows_the_person_before_the_targets_background():
    generated, target, mask = images(12), images(13), person_masks()
    made = composed(generated, target, mask)
    shown = mask[:, None].expand_as(made)
    assert torch.equal(made[shown], generated[shown])
    assert torch.equal(made[~shown], target[~shown])


def test_a_score_does_not_depend_on_the_rest_of_the_batch():
    generated, target = images(8), images(9)
    alone = torch.cat([ssim(a[None], b[None]) for a, b in zip(generated, target, strict=True)])
    torch.testing.assert_close(ssim(generated, target), alone, atol=1e-12, rtol=0)


def test_the_data_range_is_taken_over_all_channels_of_one_image():
    batch = torch.full((2, 3, 16, 16), 100, dtype=torch.uint8)
    batch[0, 0, 0, 0], batch[0, 2, 3, 3] = 7, 250
    assert range_of(batch).tolist() == [243.0, 0.0]


def test_an_image_smaller_than_the_window_is_refused():
    small = torch.zeros(1, 3, 10, 64, dtype=torch.uint8)
    with pytest.raises(UserError, match="64 x 10"):
        ssim(small, small)
