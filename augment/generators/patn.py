"""PATN: progressive pose attention transfer.

Paper: Zhu et al., "Progressive Pose Attention Transfer for Person Image Generation", CVPR 2019.
Authors' code: tengteng95/Pose-Transfer (MIT). Differences: discriminators return logits and the
loss contains their sigmoid; reflection padding by indexing; the output of the last pose path that
the authors compute and discard is not concatenated; any width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import torch
from jaxtyping import Float
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
from manifests.keypoints import NUM_JOINTS
from manifests.runtime.settings import Frozen, Positive


class AttentionBlock(nn.Module):
    """One pose-attentional transfer block.

    The pose path decides where the image features change: ``image + path(image) * sigmoid(pose)``.
    """

    def __init__(self, channels: int, norm: resnet.Norm, dropout: float, *, first: bool) -> None:
        super().__init__()
        self.image_path = resnet.residual_path(channels, channels, norm, dropout)
        self.pose_path = resnet.residual_path(
            channels if first else 2 * channels, channels, norm, dropout, last_norm=False
        )

    def forward(
        self,
        image: Float[Tensor, "batch channels height width"],
        pose: Float[Tensor, "batch pose_channels height width"],
    ) -> tuple[Tensor, Tensor]:
        """Return the next image features and the pose path's output before the sigmoid."""
        change = self.pose_path(pose)
        return image + self.image_path(image) * torch.sigmoid(change), change


class Patn(PoseTransfer):
    """PATN with its two discriminators."""

    class Config(TwoDiscriminatorsConfig):
        """Published values are the defaults, for Market-1501."""

        base_width: Positive = 64
        """Channels of the first layer; the blocks have four times as many."""
        num_blocks: Positive = 9

    sampling: ClassVar[tuple[str, ...]] = ("image_encoder", "pose_encoder", "blocks", "decoder")
    discriminator_names: ClassVar[tuple[str, ...]] = two_discriminators.DISCRIMINATORS

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or self.Config()
        channels = 4 * c.base_width
        self.image_encoder = resnet.encoder(3, c.base_width, c.norm)
        self.pose_encoder = resnet.encoder(2 * NUM_JOINTS, c.base_width, c.norm)
        self.blocks = nn.ModuleList(
            AttentionBlock(channels, c.norm, c.dropout, first=index == 0)
            for index in range(c.num_blocks)
        )
        self.decoder = resnet.decoder(c.base_width, c.norm)
        for child in self.sampling:
            self.get_submodule(child).apply(initialise)
        self.discriminators = TwoDiscriminators(c)

    def stages(self) -> tuple[Stage, ...]:
        """Return the training against two discriminators, the generator first."""
        return self.discriminators.stages(self.sampling)

    def generate(
        self, condition: Condition, random: RowRandom, options: Frozen
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return the person of ``condition`` in the target pose, RGB in [-1, 1]."""
        del random, options
        height, width = condition.image.shape[-2:]
        return self._transfer(
            condition.image,
            gaussians(condition.pose, height, width),
            gaussians(condition.target_pose, height, width),
        )

    def _transfer(self, image: Tensor, pose_maps: Tensor, target_maps: Tensor) -> Tensor:
        features = self.image_encoder(image)
        pose = self.pose_encoder(torch.cat([pose_maps, target_maps], dim=1))
        for index, block in enumerate(self.blocks):
            if index:
                pose = torch.cat([pose, features], dim=1)
            features, pose = block(features, pose)
        return self.decoder(features)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images that the network was made for."""
        return self.config.image_height, self.config.image_width

    def run(self, pair: Pair, stage: str) -> Mapping[str, Tensor]:
        """Return the ``fake`` and the ``target_maps`` that all phases look at."""
        del stage
        condition = pair.condition
        height, width = pair.target.shape[-2:]
        target_maps = gaussians(condition.target_pose, height, width)
        fake = self._transfer(
            condition.image, gaussians(condition.pose, height, width), target_maps
        )
        return {"fake": fake.float(), "target_maps": target_maps}

    def losses(self, phase: str, pair: Pair, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the published terms of one phase, weighted."""
        return self.discriminators.losses(phase, pair, outputs)

    @classmethod
    def from_official(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of the generator, or of a discriminator, under our names.

        Instance-normalised (DeepFashion) files saved by old torch carry running statistics that
        the network never had; they are left out. In batch-normalised files they are real.
        """
        if not any(name in weights for name in ("stream1_down.2.weight", "2.weight")):
            weights = {name: value for name, value in weights.items() if "running_" not in name}
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
    r"^stream1_up\.": "decoder.",
}
