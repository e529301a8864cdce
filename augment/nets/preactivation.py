"""Blocks with the normalisation before the convolution, shared by GFLA and DPTN.

All convolutions have biases, activations are leaky ReLU with slope 0.1, and instance normalisation
has trained scales and no running statistics, so training and inference compute the same function.
The places of the layers are those of the authors' checkpoints.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from augment.nets.padding import ReflectionPad

SLOPE: Final = 0.1
"""Negative slope of the leaky ReLU."""

MIN_GROUPED_POSITIONS: Final = 1_024
"""From here on torch's kernel for groups, which may be one channel each, is the faster one."""

ORTHOGONAL_GAIN: Final = 0.02
"""As published."""


def initialise(module: nn.Module, gain: float = ORTHOGONAL_GAIN) -> None:
    """Draw convolutions and linear layers anew: orthogonal with a gain, biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.orthogonal_(layer.weight, gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class InstanceNorm(nn.InstanceNorm2d):
    """Instance normalisation with trained scales that leaves channels innermost in memory.

    Torch's kernel hands on a tensor with channels outermost, so on a CPU every convolution behind
    it starts with a copy; that took a quarter of GFLA's forward pass. Images are made by other
    sums; trainings use torch's kernel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True)

    def forward(
        self,
        input: Float[Tensor, "batch channels height width"],  # noqa: A002 - torch's name
    ) -> Float[Tensor, "batch channels height width"]:
        """Return each channel of each image with its own mean and deviation taken out."""
        innermost = input.is_contiguous(memory_format=torch.channels_last)
        if input.device.type != "cpu" or torch.is_grad_enabled() or not innermost:
            return super().forward(input)
        if input.dtype == torch.float32:
            return self._in_two_passes(input)
        if input.shape[2] * input.shape[3] >= MIN_GROUPED_POSITIONS:
            # Its mean of squares less the square of the mean is off by less than bf16's rounding.
            return F.group_norm(input, self.num_features, self.weight, self.bias, self.eps)
        return super().forward(input)

    def _in_two_passes(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        positions = input.permute(0, 2, 3, 1).flatten(1, 2)
        mean = positions.mean(dim=1)
        variance = (positions - mean[:, None]).square_().mean(dim=1)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return torch.addcmul(shift[:, :, None, None], input, scale[:, :, None, None])


def _normalise(channels: int) -> tuple[nn.Module, nn.Module]:
    return InstanceNorm(channels), nn.LeakyReLU(SLOPE)


class Down(nn.Module):
    """Half the height and width."""

    def __init__(self, inputs: int, outputs: int, *, normalises_input: bool = True) -> None:
        """Build two convolutions.

        Args:
            inputs: Channels that come in.
            outputs: Channels of both convolutions.
            normalises_input: Whether the input is normalised and rectified first; otherwise it
                enters the convolution as it is.
        """
        super().__init__()
        self.model = nn.Sequential(
            *(_normalise(inputs) if normalises_input else ()),
            nn.Conv2d(inputs, outputs, 4, stride=2, padding=1),
            *_normalise(outputs),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )

    def forward(
        self, x: Float[Tensor, "batch inputs height width"]
    ) -> Float[Tensor, "batch outputs rows columns"]:
        """Return the features at half the size."""
        return self.model(x)


def encoder(in_channels: int, width: int, *, normalises_input: bool = True) -> nn.Sequential:
    """Return three layers to ``4 * width`` channels at an eighth of the height and width.

    Args:
        in_channels: Channels of the images or maps.
        width: Channels of the first layer.
        normalises_input: Whether the images are normalised, as in GFLA; not in DPTN.
    """
    return nn.Sequential(
        Down(in_channels, width, normalises_input=normalises_input),
        Down(width, 2 * width),
        Down(2 * width, 4 * width),
    )


class Residual(nn.Module):
    """Two convolutions beside an identity, or beside a trained 1 x 1 convolution."""

    def __init__(self, channels: int, *, trained_shortcut: bool = False) -> None:
        super().__init__()
        self.model = nn.Sequential(
            *_normalise(channels),
            nn.Conv2d(channels, channels, 3, padding=1),
            *_normalise(channels),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.shortcut = nn.Sequential()
        if trained_shortcut:
            self.shortcut.append(nn.Conv2d(channels, channels, 1))

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the sum of both branches."""
        return self.model(x) + self.shortcut(x)


class Up(nn.Module):
    """Twice the height and width, beside a transposed convolution."""

    def __init__(self, inputs: int, outputs: int, hidden: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            *_normalise(inputs),
            nn.Conv2d(inputs, hidden, 3, padding=1),
            *_normalise(hidden),
            nn.ConvTranspose2d(hidden, outputs, 3, stride=2, padding=1, output_padding=1),
        )
        self.shortcut = nn.Sequential(
            nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)
        )

    def forward(
        self, x: Float[Tensor, "batch inputs rows columns"]
    ) -> Float[Tensor, "batch outputs height width"]:
        """Return the features at twice the size."""
        return self.model(x) + self.shortcut(x)


class Jump(nn.Module):
    """What a skip connection does to the encoder's features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.LeakyReLU(SLOPE), ReflectionPad(1), nn.Conv2d(channels, channels, 3)
        )

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the features to add."""
        return self.model(x)


class ToImage(nn.Module):
    """From features to RGB in [-1, 1]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.LeakyReLU(SLOPE), ReflectionPad(1), nn.Conv2d(channels, 3, 3), nn.Tanh()
        )

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return the image."""
        return self.model(x)
