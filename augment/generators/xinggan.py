"""XingGAN: appearance and shape cross-attend, twenty images are blended.

Paper: Tang et al., "XingGAN for Person Image Generation", ECCV 2020. Authors' code:
Ha0Tang/XingGAN (CC BY-NC-SA 4.0); this file is written from a description and shares no line with
it. The authors' weights keep their non-commercial terms after conversion. Differences:
discriminators return logits and the loss contains their sigmoid; reflection padding by indexing;
any width. Like the released code, and unlike the paper, both directions of a block share one set
of attention weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from augment.interface.condition import Condition, Pair
from augment.interface.randomness import RowRandom
from augment.interface.schedule import Stage
from augment.interface.system import PoseTransfer
from augment.nets import resnet
from augment.objectives import two_discriminators
from augment.objectives.two_discriminators import (
    TwoDiscriminators,
    TwoDiscriminatorsConfig,
    initialise,
)
from augment.pose.maps import gaussians
from augment.pose.pose import Pose
from manifests.keypoints import NUM_JOINTS
from manifests.runtime.settings import Depth, Frozen, NotNegative, Width

NUM_CANDIDATES: Final = 10
"""Images made from the appearance, and as many from the shape."""


class XingBlock(nn.Module):
    """Each of appearance and shape attends to where the other resembles it."""

    def __init__(self, channels: int, norm: resnet.Norm, dropout: float, *, first: bool) -> None:
        super().__init__()
        self.image_path = resnet.residual_path(channels, channels, norm, dropout)
        self.pose_path = resnet.residual_path(
            channels if first else 2 * channels, channels, norm, dropout, last_norm=False
        )
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.strength = nn.Parameter(torch.zeros(1))

    def forward(
        self,
        image: Float[Tensor, "batch channels height width"],
        pose: Float[Tensor, "batch pose_channels height width"],
    ) -> tuple[
        Float[Tensor, "batch channels height width"],
        Float[Tensor, "batch twice_channels height width"],
    ]:
        """Return the next appearance, and the next shape with that appearance before it."""
        appearance, shape = self.image_path(image), self.pose_path(pose)
        new_appearance = self._attend(appearance, shape)
        new_shape = self._attend(shape, appearance)
        return new_appearance, torch.cat([new_appearance, new_shape], dim=1)

    def _attend(self, features: Tensor, others: Tensor) -> Tensor:
        """Return ``features`` plus their own values, mixed by similarity to ``others``."""
        query, key, value = (
            tokens.flatten(2).transpose(1, 2)
            for tokens in (self.query(features), self.key(others), self.value(features))
        )
        mixed = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return features + self.strength * mixed.transpose(1, 2).unflatten(2, features.shape[2:])


class Fusion(nn.Module):
    """Candidate images from appearance and shape, blended with the source pixel by pixel."""

    def __init__(self, base_width: int, norm: resnet.Norm) -> None:
        super().__init__()
        channels = 4 * base_width
        self.image_decoder = resnet.decoder(base_width, norm, 3 * NUM_CANDIDATES)
        self.squeeze = nn.Sequential(
            _transposed(2 * channels, channels, norm, kernel=1),
            resnet.norm_layer(norm, channels),
            nn.ReLU(inplace=True),
        )
        self.pose_decoder = resnet.decoder(base_width, norm, 3 * NUM_CANDIDATES)
        self.attention = nn.Sequential(
            _transposed(3 * channels, channels, norm),
            resnet.norm_layer(norm, channels),
            nn.ReLU(inplace=True),
            _transposed(channels, channels // 2, norm),
            resnet.norm_layer(norm, channels // 2),
            nn.ReLU(inplace=True),
            _transposed(channels // 2, 2 * NUM_CANDIDATES + 1, norm, kernel=1),
        )

    def forward(
        self,
        source: Float[Tensor, "batch 3 height width"],
        appearance: Float[Tensor, "batch channels rows columns"],
        shape: Float[Tensor, "batch twice_channels rows columns"],
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return the blend; its weights are positive and sum to 1 at each pixel."""
        logits = self.attention(torch.cat([appearance, shape], dim=1))
        weights = torch.softmax(logits.float(), dim=1)
        candidates = torch.cat(
            [
                self.image_decoder(appearance),
                self.pose_decoder(self.squeeze(shape)),
                source,
            ],
            dim=1,
        )
        # A matrix product per pixel takes several times as long.
        return (weights[:, :, None] * candidates.float().unflatten(1, (-1, 3))).sum(dim=1)


class Xinggan(PoseTransfer):
    """XingGAN with its two discriminators, which are PATN's."""

    class Config(TwoDiscriminatorsConfig):
        """Published values are the defaults, for Market-1501."""

        base_width: Annotated[Width, Field(ge=2)] = 64
        """Channels of the first layer; the blocks have four times as many."""
        num_blocks: Depth = 9
        """Blocks that move the person from pose to pose."""
        weight_l1: NotNegative = 50.0
        """Weight of the mean absolute difference from the real image."""
        weight_perceptual: NotNegative = 50.0
        """Weight of the difference in features."""

    sampling: ClassVar[tuple[str, ...]] = ("image_encoder", "pose_encoder", "blocks", "fusion")
    discriminator_names: ClassVar[tuple[str, ...]] = two_discriminators.DISCRIMINATORS

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or self.Config()
        self.image_encoder = resnet.encoder(3, c.base_width, c.norm)
        self.pose_encoder = resnet.encoder(2 * NUM_JOINTS, c.base_width, c.norm)
        self.blocks = nn.ModuleList(
            XingBlock(4 * c.base_width, c.norm, c.dropout, first=index == 0)
            for index in range(c.num_blocks)
        )
        self.fusion = Fusion(c.base_width, c.norm)
        for child in self.sampling:
            self.get_submodule(child).apply(initialise)
        self.discriminators = TwoDiscriminators(c)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images that the network was made for."""
        return self.config.image_height, self.config.image_width

    def stages(self) -> tuple[Stage, ...]:
        """Return the training against two discriminators, the generator first."""
        return self.discriminators.stages(self.sampling)

    def generate(
        self, condition: Condition, random: RowRandom, options: Frozen
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return the person of ``condition`` in the target pose, RGB in [-1, 1]."""
        del random, options
        return self._transfer(condition, _maps(condition.target_pose, condition.image))

    def _transfer(self, condition: Condition, target_maps: Tensor) -> Tensor:
        image = condition.image
        maps = torch.cat([_maps(condition.pose, image), target_maps], dim=1)
        appearance, shape = self.image_encoder(image), self.pose_encoder(maps)
        for block in self.blocks:
            appearance, shape = block(appearance, shape)
        return self.fusion(image, appearance, shape)

    def run(self, pair: Pair, stage: str) -> Mapping[str, Tensor]:
        """Return the ``fake`` and the ``target_maps`` that all phases look at."""
        del stage
        target_maps = _maps(pair.condition.target_pose, pair.target)
        fake = self._transfer(pair.condition, target_maps)
        return {"fake": fake.float(), "target_maps": target_maps}

    def losses(self, phase: str, pair: Pair, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the published terms of one phase, weighted."""
        return self.discriminators.losses(phase, pair, outputs)

    @classmethod
    def from_official(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of the generator, or of a discriminator, under our names."""
        return two_discriminators.from_official(weights, RENAMED)

    @classmethod
    def official_name(cls, name: str) -> str:
        """Return what the authors' files call a tensor of ours."""
        return two_discriminators.official_name(name, RENAMED)


RENAMED: Final = {
    r"^stream1_down\.": "image_encoder.",
    r"^stream2_down\.": "pose_encoder.",
    r"^att\.(\d+)\.conv_block_stream1\.": r"blocks.\1.image_path.",
    r"^att\.(\d+)\.conv_block_stream2\.": r"blocks.\1.pose_path.",
    r"^att\.(\d+)\.(query|key|value)_conv\.": r"blocks.\1.\2.",
    r"^att\.(\d+)\.gamma$": r"blocks.\1.strength",
    r"^stream1_up\.": "fusion.image_decoder.",
    r"^stream2_up\.": "fusion.pose_decoder.",
    r"^x2_con\.": "fusion.squeeze.0.",
    r"^x2_norm\.": "fusion.squeeze.1.",
    r"^atte_con\.": "fusion.attention.0.",
    r"^atte_norm\.": "fusion.attention.1.",
    r"^atte_con1\.": "fusion.attention.3.",
    r"^atte_norm1\.": "fusion.attention.4.",
    r"^atte_con2\.": "fusion.attention.6.",
}


def _maps(pose: Pose, image: Tensor) -> Tensor:
    return gaussians(pose, *image.shape[-2:])


def _transposed(
    inputs: int, outputs: int, norm: resnet.Norm, kernel: int = 3
) -> nn.ConvTranspose2d:
    """Return a transposed convolution: 3 x 3 doubles the size, 1 x 1 keeps it."""
    bias = norm == "instance"
    if kernel == 1:
        return nn.ConvTranspose2d(inputs, outputs, 1, bias=bias)
    return nn.ConvTranspose2d(inputs, outputs, 3, 2, padding=1, output_padding=1, bias=bias)
