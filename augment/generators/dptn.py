"""DPTN: a transformer between two tasks, reconstructing the source and transferring its pose.

Paper: Zhang et al., "Exploring Dual-task Correlation for Pose Guided Person Image Generation",
CVPR 2022. Authors' code: PangzeCheung/Dual-task-Pose-Transformer-Network (CC BY-NC 4.0); this file
is written from a description and shares no line with it. The authors' weights keep their
non-commercial terms after conversion. Differences: reflection padding by indexing; Gram matrices
always in float32; the steps default to the paper's Market-1501 checkpoint, 811,200 samples; any
width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from augment.interface.condition import Condition, Pair
from augment.interface.randomness import RowRandom
from augment.interface.schedule import LinearTail, Stage
from augment.interface.system import PoseTransfer
from augment.nets.preactivation import Residual, ToImage, Up, encoder, initialise
from augment.nets.spectral import SpectralDiscriminator
from augment.nets.tokens import PoseTransformer
from augment.objectives import single_discriminator
from augment.objectives.single_discriminator import SingleDiscriminatorConfig
from augment.pose.maps import whole_pixel_gaussians
from manifests.keypoints import NUM_JOINTS
from manifests.runtime.console import UserError
from manifests.runtime.settings import (
    Depth,
    DepthOrNone,
    Frozen,
    NotNegative,
    Positive,
    Share,
    Width,
)

NUM_PAIRS: Final = 263_632
"""Training pairs of the published Market-1501 list; one pass over them is an epoch."""


def _decoder(base_width: int) -> nn.Sequential:
    """Return the layers from ``4 * base_width`` channels back to an image."""
    return nn.Sequential(
        Up(4 * base_width, 2 * base_width, hidden=2 * base_width),
        Up(2 * base_width, base_width, hidden=base_width),
        Up(base_width, base_width, hidden=base_width),
        ToImage(base_width),
    )


class Dptn(PoseTransfer):
    """DPTN with its discriminator."""

    class Config(SingleDiscriminatorConfig):
        """Published values are the defaults, for Market-1501."""

        base_width: Width = 64
        """Channels of the first layer; the transformer's tokens have four times as many."""
        num_residual: DepthOrNone = 3
        """Residual blocks after the encoder of image and poses."""
        num_heads: Depth = 2
        """Heads of the attention."""
        num_context: DepthOrNone = 2
        """Transformer blocks over the reconstruction."""
        num_texture: Depth = 2
        """Transformer blocks that carry textures into the transfer."""
        transfer_share: Share = 0.8
        """Weight of the transfer's reconstruction terms; the source's have the rest."""
        weight_l1: NotNegative = 2.0
        """Weight of the mean absolute difference from the real image."""
        weight_adversarial: NotNegative = 5.0
        """Weight of the adversarial loss."""
        batch_size: Positive = 32
        """Pairs per step."""
        steps: Positive = 25_350
        """Steps of training."""
        learning_rate: NotNegative = 2e-4
        """Learning rate of the generator."""
        discriminator_learning_rate: NotNegative = 2e-5
        """Learning rate of the discriminator."""

    sampling: ClassVar[tuple[str, ...]] = (
        "pose_encoder",
        "source_encoder",
        "transformer",
        "decoder",
    )
    discriminator_names: ClassVar[tuple[str, ...]] = ("discriminator",)

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or self.Config()
        channels = 4 * c.base_width
        if channels % c.num_heads:
            raise UserError(
                f"--config.num-heads: found {c.num_heads}, expected a number that divides "
                f"{channels}, four times --config.base-width"
            )
        self.pose_encoder = encoder(3 + 2 * NUM_JOINTS, c.base_width, normalises_input=False)
        self.pose_encoder.extend(
            Residual(channels, trained_shortcut=True) for _ in range(c.num_residual)
        )
        self.source_encoder = encoder(3, c.base_width, normalises_input=False)
        self.transformer = PoseTransformer(channels, c.num_heads, c.num_context, c.num_texture)
        self.decoder = _decoder(c.base_width)
        for child in self.sampling:
            initialise(self.get_submodule(child), c.initial_gain)
        self.discriminator = SpectralDiscriminator(c.discriminator_width, rectifies_pixels=False)
        self.features = single_discriminator.style_features(c)

    def stages(self) -> tuple[Stage, ...]:
        """Return one stage: discriminator, then generator."""
        c = self.config
        schedule = LinearTail(
            epoch_steps=max(1, NUM_PAIRS // c.batch_size), constant_epochs=100, tail_epochs=100
        )
        return (
            Stage(
                name="transfer",
                steps=c.steps,
                batch_size=c.batch_size,
                phases=single_discriminator.phases(c, self.sampling, beta1=0.5, schedule=schedule),
            ),
        )

    def generate(
        self, condition: Condition, random: RowRandom, options: Frozen
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return the person of ``condition`` in the target pose, RGB in [-1, 1]."""
        del random, options
        _, transfer = self._encode(condition)
        return self.decoder(transfer)

    def _encode(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Return the features of the source in its own pose and in the target pose."""
        image = condition.image
        source_maps, target_maps = (
            whole_pixel_gaussians(pose, *image.shape[-2:])
            for pose in (condition.pose, condition.target_pose)
        )
        reconstruction = self.pose_encoder(torch.cat([image, source_maps, source_maps], dim=1))
        transfer = self.pose_encoder(torch.cat([image, source_maps, target_maps], dim=1))
        textures = self.source_encoder(image)
        return reconstruction, self.transformer(reconstruction, transfer, textures)

    def run(self, pair: Pair, stage: str) -> Mapping[str, Tensor]:
        """Return the ``fake`` in the target pose and the ``reconstruction`` of the source."""
        del stage
        reconstruction, transfer = self._encode(pair.condition)
        return {
            "fake": self.decoder(transfer).float(),
            "reconstruction": self.decoder(reconstruction).float(),
        }

    def losses(self, phase: str, pair: Pair, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the published terms, weighted (the paper's equations 9 to 13, Market flags)."""
        fake = outputs["fake"]
        if phase == "discriminator":
            return single_discriminator.discriminator_loss(self.discriminator, fake, pair.target)
        c, share = self.config, self.config.transfer_share
        made = outputs["reconstruction"]
        transfer = single_discriminator.reconstruction_losses(c, self.features, fake, pair.target)
        source = single_discriminator.reconstruction_losses(
            c, self.features, made, pair.condition.image
        )
        return {
            **single_discriminator.generator_loss(c, self.discriminator, fake),
            **{f"transfer_{name}": share * term for name, term in transfer.items()},
            **{f"source_{name}": (1 - share) * term for name, term in source.items()},
        }

    @classmethod
    def from_official(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of the generator, or of the discriminator, under our names.

        Older files say ``transformer`` where newer ones say ``PTM``.
        """
        return single_discriminator.from_official(weights, TIED_WEIGHTS, RENAMED)

    @classmethod
    def official_name(cls, name: str) -> str:
        """Return what the authors' files call a tensor of ours."""
        return single_discriminator.official_name(name, RENAMED)


TIED_WEIGHTS: Final = {
    r"^(mblock\d+)\.conv1\.": r"\1.model.2.",
    r"^(mblock\d+)\.conv2\.": r"\1.model.5.",
    r"^(mblock\d+)\.bypass\.": r"\1.shortcut.0.",
    r"^outconv\.conv1\.": "outconv.model.2.",
}
"""Names under which the authors' files store a tensor again -> the name that counts."""

RENAMED: Final = {
    r"^block0\.": "pose_encoder.0.",
    r"^encoder0\.": "pose_encoder.1.",
    r"^encoder1\.": "pose_encoder.2.",
    r"^mblock0\.": "pose_encoder.3.",
    r"^mblock1\.": "pose_encoder.4.",
    r"^mblock2\.": "pose_encoder.5.",
    r"^source_encoder\.block0\.": "source_encoder.0.",
    r"^source_encoder\.encoder0\.": "source_encoder.1.",
    r"^source_encoder\.encoder1\.": "source_encoder.2.",
    r"^(PTM|transformer)\.encoder\.layers\.": "transformer.context.",
    r"^(PTM|transformer)\.decoder\.layers\.": "transformer.texture.",
    r"^(PTM|transformer)\.decoder\.norm\.": "transformer.norm.",
    r"^decoder([0-2])\.": r"decoder.\1.",
    r"^outconv\.": "decoder.3.",
}
