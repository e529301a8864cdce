"""Structural similarity in batches on the device, equal to scikit-image's.

Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity". The
published evaluators of PATN, XingGAN, GFLA and DPTN call scikit-image with a Gaussian window,
``use_sample_covariance=False`` and, per image, the data range of the *generated* image.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from manifests.runtime.console import UserError

SIGMA_PX = 1.5
RADIUS_PX = 5
"""scikit-image cuts the window at ``int(3.5 * SIGMA_PX + 0.5)``: 11 x 11 taps."""

CPU_CHUNK = 2
"""Images at once on a CPU: what stays in its cache is twice as fast as a batch of 32."""

GPU_CHUNK = 512
"""Images at once elsewhere: bounds the memory, below 2 GiB in double precision."""

MIDDLE_GRAY = 127.5
"""Subtracted before squaring; variances do not change, single precision loses fewer digits."""


def ssim(
    generated: UInt8[Tensor, "batch 3 height width"],
    target: UInt8[Tensor, "batch 3 height width"],
    *,
    data_range: Float[Tensor, " batch"] | None = None,
    within: Bool[Tensor, "batch height width"] | None = None,
    dtype: torch.dtype = torch.float64,
) -> Float[Tensor, " batch"]:
    """Return the structural similarity of each generated image to its target, in [-1, 1].

    Wang et al. 2004, eq. 13, with K1 = 0.01 and K2 = 0.03, averaged over the channels and over
    the pixels whose whole 11 x 11 Gaussian window lies inside the image. scikit-image filters to
    the edge and then crops the same 5 pixels, so its border rule never shows.

    Two constant images of data range 0 give NaN, as in scikit-image.

    Args:
        generated: RGB, 0 to 255.
        target: RGB, 0 to 255.
        data_range: The dynamic range of each image; ``range_of(generated)`` where left out.
        within: The pixels that are averaged over, of those with a whole window; all where left
            out. An image without any gives NaN. Windows still reach beyond them.
        dtype: ``torch.float64`` agrees with scikit-image to 1e-6 (in fact to 1e-12);
            ``torch.float32`` to 1e-4, at several times the speed.

    Raises:
        UserError: If an image is smaller than the window.

    >>> image = torch.arange(2 * 3 * 32 * 16).remainder(251).to(torch.uint8).view(2, 3, 32, 16)
    >>> ssim(image, image).tolist()
    [1.0, 1.0]
    """
    height, width = generated.shape[-2:]
    if min(height, width) <= 2 * RADIUS_PX:
        raise UserError(f"SSIM: found images of {width} x {height}, expected at least 11 x 11")
    if data_range is None:
        data_range = range_of(generated)
    num_images = CPU_CHUNK if generated.device.type == "cpu" else GPU_CHUNK
    chunks = zip(*(side.split(num_images) for side in (generated, target, data_range)), strict=True)
    maps = (_similarity(one, other, span, dtype) for one, other, span in chunks)
    if within is None:
        return torch.cat([values.mean(dim=(1, 2, 3), dtype=torch.float64) for values in maps])
    pixels = within[:, RADIUS_PX : height - RADIUS_PX, RADIUS_PX : width - RADIUS_PX]
    sums = [
        (values.mean(dim=1, dtype=torch.float64) * part).sum(dim=(1, 2))
        for values, part in zip(maps, pixels.split(num_images), strict=True)
    ]
    return torch.cat(sums) / pixels.sum(dim=(1, 2))


def range_of(images: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, " batch"]:
    """Return the brightest minus the darkest value of each image, over all channels."""
    low, high = images.flatten(1).aminmax(dim=1)
    return high.to(torch.float64) - low.to(torch.float64)


def masked(
    images: UInt8[Tensor, "batch 3 height width"], mask: Bool[Tensor, "batch height width"]
) -> UInt8[Tensor, "batch 3 height width"]:
    """Return the images, black outside the mask.

    Masked SSIM is ``ssim(masked(generated, mask), masked(target, mask))`` with the body mask of
    the target's joints; the black surroundings count, which is why its values are high.
    """
    return images * mask[:, None]


def composed(
    generated: UInt8[Tensor, "batch 3 height width"],
    target: UInt8[Tensor, "batch 3 height width"],
    mask: Bool[Tensor, "batch height width"],
) -> UInt8[Tensor, "batch 3 height width"]:
    """Return the generated images inside the mask, and the targets outside.

    Beside the targets they differ in the person alone, whatever the generators put behind it.
    """
    return torch.where(mask[:, None], generated, target)


def _similarity(
    generated: UInt8[Tensor, "batch 3 height width"],
    target: UInt8[Tensor, "batch 3 height width"],
    data_range: Float[Tensor, " batch"],
    dtype: torch.dtype,
) -> Float[Tensor, "batch 3 rows columns"]:
    scale = data_range.to(dtype)[:, None, None, None]
    c1, c2 = (0.01 * scale) ** 2, (0.03 * scale) ** 2

    x, y = generated.to(dtype) - MIDDLE_GRAY, target.to(dtype) - MIDDLE_GRAY
    averaged = _blur(torch.stack((x, y, x * x + y * y, x * y)))
    mean_x, mean_y, power, product = averaged
    covariance = product - mean_x * mean_y
    variances = power - mean_x * mean_x - mean_y * mean_y
    mean_x, mean_y = mean_x + MIDDLE_GRAY, mean_y + MIDDLE_GRAY
    luminance = (2 * mean_x * mean_y + c1) / (mean_x * mean_x + mean_y * mean_y + c1)
    structure = (2 * covariance + c2) / (variances + c2)
    return luminance * structure


def _blur(maps: Float[Tensor, "... height width"]) -> Float[Tensor, "... rows columns"]:
    """Return the maps averaged over every window that fits inside."""
    height, width = maps.shape[-2:]
    # A product with a banded matrix: several times the speed of a convolution with one channel.
    return _window(height, maps) @ (maps @ _window(width, maps).T)


def _window(size: int, like: Tensor) -> Float[Tensor, "windows size"]:
    """Return one row of Gaussian weights per window that fits into ``size`` pixels."""
    pixel = torch.arange(size, dtype=torch.float64)
    centre = pixel[RADIUS_PX : size - RADIUS_PX, None]
    distance = pixel - centre
    weights = torch.exp(-0.5 * (distance / SIGMA_PX) ** 2)
    weights = torch.where(distance.abs() <= RADIUS_PX, weights, 0.0)
    weights = weights / weights.sum(dim=1, keepdim=True)
    return weights.to(like.device, like.dtype)
