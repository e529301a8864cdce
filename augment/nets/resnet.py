"""The convolutional encoder, residual path, decoder and discriminator shared by PATN and XingGAN.

The order of layers, and so their indices, is the published code's; a dropout layer keeps its place
even at probability 0.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from augment.nets.dropout import Dropout
from augment.nets.padding import ReflectionPad

Norm = Literal["batch", "instance"]


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """Return batch normalisation, or instance normalisation without affine parameters."""
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.InstanceNorm2d(channels)


def _convolution(inputs: int, outputs: int, kernel: int, norm: Norm, stride: int = 1) -> nn.Conv2d:
    padding = 1 if stride == 2 else 0
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=norm == "instance")


def encoder(in_channels: int, base_width: int, norm: Norm) -> nn.Sequential:
    """Return the layers from an image to ``4 * base_width`` channels at a quarter of its size."""
    layers: list[nn.Module] = [
        ReflectionPad(3),
        _convolution(in_channels, base_width, 7, norm),
        norm_layer(norm, base_width),
        nn.ReLU(inplace=True),
    ]
    for width in (base_width, 2 * base_width):
        layers += [
            _convolution(width, 2 * width, 3, norm, stride=2),
            norm_layer(norm, 2 * width),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def upsampler(base_width: int, norm: Norm) -> list[nn.Module]:
    """Return the layers from ``4 * base_width`` channels back to ``base_width`` at full size."""
    layers: list[nn.Module] = []
    for width in (4 * base_width, 2 * base_width):
        layers += [
            nn.ConvTranspose2d(
                width, width // 2, 3, 2, padding=1, output_padding=1, bias=norm == "instance"
            ),
            norm_layer(norm, width // 2),
            nn.ReLU(inplace=True),
        ]
    return layers


def decoder(base_width: int, norm: Norm, out_channels: int = 3) -> nn.Sequential:
    """Return the layers from ``4 * base_width`` channels to an image in [-1, 1]."""
    return nn.Sequential(
        *upsampler(base_width, norm),
        ReflectionPad(3),
        nn.Conv2d(base_width, out_channels, 7),
        nn.Tanh(),
    )


def residual_path(
    in_channels: int, out_channels: int, norm: Norm, dropout: float, *, last_norm: bool = True
) -> nn.Sequential:
    """Return two reflection-padded 3 x 3 convolutions, the inner one with dropout behind it."""
    layers: list[nn.Module] = [
        ReflectionPad(1),
        _convolution(in_channels, in_channels, 3, norm),
        norm_layer(norm, in_channels),
        nn.ReLU(inplace=True),
        Dropout(dropout),
        ReflectionPad(1),
        _convolution(in_channels, out_channels, 3, norm),
    ]
    if last_norm:
        layers.append(norm_layer(norm, out_channels))
    return nn.Sequential(*layers)


class ResidualBlock(nn.Module):
    """A residual path around the identity."""

    def __init__(self, channels: int, norm: Norm, dropout: float) -> None:
        super().__init__()
        self.path = residual_path(channels, channels, norm, dropout)

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return features plus their residual."""
        return features + self.path(features)


class PairDiscriminator(nn.Sequential):
    """Tells whether two stacked inputs belong together.

    Three residual blocks behind the encoder; the whole feature map is the output, without a
    one-channel head. Returns logits: the published network ends in a sigmoid, which our losses
    contain.
    """

    def __init__(self, in_channels: int, base_width: int, norm: Norm, dropout: float) -> None:
        super().__init__(
            *encoder(in_channels, base_width, norm),
            *(ResidualBlock(4 * base_width, norm, dropout) for _ in range(3)),
        )
