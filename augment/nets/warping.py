"""Moving features along a flow, in plain PyTorch.

Equal to the three CUDA operations of GFLA's published code (Ren et al. 2020), and to TensorFlow's
crop-and-resize. Convention: a flow
is in pixels of the grid it lives on, channel 0 is x (to the right), channel 1 is y (down);
position ``(column, row)`` of the result is fetched from ``(column, row) + flow``. Positions beyond
the border take the border's value.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from manifests.compute.devices import upload


def positions(height: int, width: int, like: Tensor) -> Float[Tensor, "2 height width"]:
    """Return x and y of every pixel.

    Convention: (x, y), pixel centres at integers, origin at the centre of the top-left pixel.

    >>> positions(1, 3, torch.zeros(()))[:, 0].tolist()
    [[0.0, 1.0, 2.0], [0.0, 0.0, 0.0]]
    """
    rows = torch.arange(height, device=like.device, dtype=like.dtype)
    columns = torch.arange(width, device=like.device, dtype=like.dtype)
    return torch.stack(
        [columns.expand(height, width), rows[:, None].expand(height, width)],
    )


def extract_blocks(
    source: Float[Tensor, "batch channels height width"],
    flow: Float[Tensor, "batch 2 height width"],
    size: int,
) -> Float[Tensor, "batch channels size_height size_width"]:
    """Return, for each pixel, the ``size`` x ``size`` samples around where its flow points.

    Sampling is bilinear. The block of a pixel stands at that pixel's index of the ``size`` times
    larger result. An even block reaches one pixel further up and left than down and right.

    Args:
        source: What is sampled.
        flow: In pixels of ``source``.
        size: Edge of a block.
    """
    height, width = source.shape[-2:]
    # Positions in bfloat16 would be off by half a pixel.
    with torch.autocast(source.device.type, enabled=False):
        centres = positions(height, width, flow) + flow
        offsets = positions(size, size, flow) - size // 2
        points = centres.repeat_interleave(size, -2).repeat_interleave(size, -1)
        points = points + offsets.repeat(1, height, width)
        return sample(source.to(flow.dtype), points)


def sample(
    source: Float[Tensor, "batch channels height width"],
    points: Float[Tensor, "batch 2 rows columns"],
) -> Float[Tensor, "batch channels rows columns"]:
    """Return the bilinear samples at ``points``, the border's value beyond it.

    Convention: points are (x, y), pixel centres at integers, origin at the centre of the top-left
    pixel.
    """
    height, width = source.shape[-2:]
    last = upload(torch.tensor([width - 1, height - 1], dtype=points.dtype), points.device)
    grid = (2 * points / last[:, None, None] - 1).permute(0, 2, 3, 1)
    return F.grid_sample(source, grid, "bilinear", "border", align_corners=True)


def crop_and_resize(
    source: Float[Tensor, "batch channels height width"],
    boxes: Float[Tensor, "batch boxes 4"],
    size: int,
) -> Float[Tensor, "batch boxes channels size size"]:
    """Return what boxes show, stretched to squares, as DPIG calls TensorFlow's crop-and-resize.

    Its corners are shares of height and width there, but shares of ``height - 1`` and
    ``width - 1`` are looked at: a box ends a little before its corner. Sampling is bilinear.

    Args:
        source: What is sampled.
        boxes: (left, top, right, bottom) in pixels.
        size: Edge of the squares.
    """
    height, width = source.shape[-2:]
    with torch.autocast(source.device.type, enabled=False):
        step = torch.arange(size, device=boxes.device, dtype=boxes.dtype) / (size - 1)
        left, top, right, bottom = boxes[..., None].unbind(-2)
        x = (left + step * (right - left)) * ((width - 1) / width)
        y = (top + step * (bottom - top)) * ((height - 1) / height)
        points = torch.stack(
            [x[:, :, None].expand(-1, -1, size, -1), y[..., None].expand(-1, -1, -1, size)], dim=1
        )
        # One above the other the squares are one image to sample.
        squares = sample(source.to(boxes.dtype), points.flatten(2, 3))
        return squares.unflatten(2, (-1, size)).transpose(1, 2)


def unfold_weights(
    weights: Float[Tensor, "batch square height width"], size: int
) -> Float[Tensor, "batch 1 size_height size_width"]:
    """Return the ``size * size`` weights of each pixel at the pixels of its block.

    >>> unfold_weights(torch.arange(4.0).reshape(1, 4, 1, 1), 2)[0, 0].tolist()
    [[0.0, 1.0], [2.0, 3.0]]
    """
    return F.pixel_shuffle(weights, size)


def resample_gaussian(
    source: Float[Tensor, "batch channels height width"],
    flow: Float[Tensor, "batch 2 height width"],
    size: int = 4,
    sigma_px: float = 2.0,
) -> Float[Tensor, "batch channels height width"]:
    """Return, for each pixel, the Gaussian mean of ``size`` x ``size`` pixels where it points.

    Wider than bilinear sampling, so that a flow's gradient feels more than the nearest pixels;
    the published training does not converge with bilinear sampling.

    Args:
        source: What is sampled.
        flow: In pixels of ``source``.
        size: Edge of the neighbourhood; an even one reaches one pixel further down and right.
        sigma_px: Standard deviation of the weights.
    """
    height, width = source.shape[-2:]
    with torch.autocast(source.device.type, enabled=False):
        points = positions(height, width, flow) + flow
        pixels, weights = zip(
            *(
                _neighbours(points[:, axis], limit, size, sigma_px)
                for axis, limit in enumerate((width, height))
            ),
            strict=True,
        )
        flat = source.to(flow.dtype).flatten(2)
        result = torch.zeros_like(flat)
        for row in range(size):
            for column in range(size):
                index = (pixels[1][row] * width + pixels[0][column]).flatten(1)[:, None]
                weight = (weights[1][row] * weights[0][column]).flatten(1)[:, None]
                result = result + weight * flat.gather(2, index.expand_as(flat))
        return result.unflatten(2, (height, width))


def _neighbours(
    coordinate: Float[Tensor, "batch height width"], limit: int, size: int, sigma_px: float
) -> tuple[Int64[Tensor, "size batch height width"], Float[Tensor, "size batch height width"]]:
    """Return the pixels around a coordinate along one axis, and their weights, which sum to 1.

    The weights of two axes multiply, and so do their sums: each axis is normalised by itself.
    """
    corner = coordinate.detach().floor()
    steps = torch.arange(size, device=coordinate.device) - (size - 1) // 2
    steps = steps[:, None, None, None]
    distance = coordinate - corner - steps
    weights = torch.exp(-(distance**2) / (2 * sigma_px**2))
    pixels = (corner.long() + steps).clamp(0, limit - 1)
    return pixels, weights / weights.sum(dim=0)
