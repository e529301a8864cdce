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
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from augment.losses.adversarial import least_squares
from augment.losses.features import FeatureNetwork, load_features
from augment.losses.style import CONTENT_LAYERS, STYLE_LAYERS, content, style
from augment.nets.official import renamed, without_twins
from augment.nets.preactivation import Down, FirstDown, Residual, ToImage, Up, initialise
from augment.nets.spectral import SpectralDiscriminator, is_discriminator, modern_names
from augment.nets.tokens import PoseTransformer
from augment.pose.maps import gaussians
from augment.pose.pose import Pose
from augment.transfer import Adam, Condition, LinearTail, Pair, Phase, PoseTransfer, Stage
from manifests.keypoints import NUM_JOINTS
from manifests.settings import Frozen

NUM_PAIRS: Final = 263_632
"""Training pairs of the published Market-1501 list; one pass over them is an epoch."""


def _encoder(in_channels: int, base_width: int) -> nn.Sequential:
    """Return the layers from an image to ``4 * base_width`` channels at an eighth of its size."""
    return nn.Sequential(
        FirstDown(in_channels, base_width),
        Down(base_width, 2 * base_width),
        Down(2 * base_width, 4 * base_width),
    )


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

    class Config(Frozen):
        """Published values are the defaults, for Market-1501."""

        base_width: int = 64
        """Channels of the first layer; the transformer's tokens have four times as many."""
        discriminator_width: int = 32
        """Channels of the discriminator's first block."""
        num_residual: int = 3
        num_heads: int = 2
        num_context: int = 2
        """Transformer blocks over the reconstruction."""
        num_texture: int = 2
        """Transformer blocks that carry textures into the transfer."""
        transfer_share: float = 0.8
        """Weight of the transfer's reconstruction terms; the source's have the rest."""
        weight_l1: float = 2.0
        weight_style: float = 500.0
        weight_content: float = 0.5
        weight_adversarial: float = 5.0
        features: FeatureNetwork = "vgg19"
        """Feature network of style and content: vgg19, vgg19-random, a file, or none."""
        batch_size: int = 32
        steps: int = 25_350
        learning_rate: float = 2e-4
        discriminator_learning_rate: float = 2e-5

    sampling: ClassVar[tuple[str, ...]] = (
        "pose_encoder",
        "source_encoder",
        "transformer",
        "decoder",
    )

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or self.Config()
        channels = 4 * c.base_width
        self.pose_encoder = _encoder(3 + 2 * NUM_JOINTS, c.base_width)
        self.pose_encoder.extend(
            Residual(channels, trained_shortcut=True) for _ in range(c.num_residual)
        )
        self.source_encoder = _encoder(3, c.base_width)
        self.transformer = PoseTransformer(channels, c.num_heads, c.num_context, c.num_texture)
        self.decoder = _decoder(c.base_width)
        for child in self.sampling:
            initialise(self.get_submodule(child))
        self.discriminator = SpectralDiscriminator(c.discriminator_width, rectifies_pixels=False)
        self.features = load_features(
            c.features, CONTENT_LAYERS + STYLE_LAYERS, imagenet_normalised=False
        )

    def stages(self) -> tuple[Stage, ...]:
        """Return one stage: discriminator, then generator."""
        c = self.config
        schedule = LinearTail(
            epoch_steps=max(1, NUM_PAIRS // c.batch_size), constant_epochs=100, tail_epochs=100
        )

        def phase(name: str, rate: float, *trains: str) -> Phase:
            adam = Adam(learning_rate=rate, beta1=0.5)
            return Phase(name=name, trains=trains, optimizer=adam, schedule=schedule)

        return (
            Stage(
                name="transfer",
                steps=c.steps,
                batch_size=c.batch_size,
                phases=(
                    phase("discriminator", c.discriminator_learning_rate, "discriminator"),
                    phase("generator", c.learning_rate, *self.sampling),
                ),
            ),
        )

    def generate(
        self, condition: Condition, noise: Float[Tensor, "batch width"] | None = None
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return the person of ``condition`` in the target pose, RGB in [-1, 1]."""
        del noise
        _, transfer = self._encode(condition)
        return self.decoder(transfer)

    def _encode(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Return the features of the source in its own pose and in the target pose."""
        image = condition.image
        height, width = image.shape[-2:]
        # Joints are truncated to whole pixels, as the published code does.
        source_maps, target_maps = (
            gaussians(Pose(pose.joints.trunc()), height, width)
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
            real = least_squares(self.discriminator(pair.target), real=True)
            false = least_squares(self.discriminator(fake.detach()), real=False)
            return {"judge": 0.5 * (real + false)}
        c = self.config
        fool = least_squares(self.discriminator(fake), real=True)
        share = c.transfer_share
        transfer = self._distances(fake, pair.target)
        source = self._distances(outputs["reconstruction"], pair.condition.image)
        return {
            "fool": c.weight_adversarial * fool,
            **{f"transfer_{name}": share * term for name, term in transfer.items()},
            **{f"source_{name}": (1 - share) * term for name, term in source.items()},
        }

    def _distances(self, found: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        c = self.config
        terms = {"l1": c.weight_l1 * F.l1_loss(found, wanted)}
        if self.features is not None:
            with torch.no_grad():
                wanted_features = self.features(wanted)
            found_features = self.features(found)
            terms["style"] = c.weight_style * style(found_features, wanted_features)
            terms["content"] = c.weight_content * content(found_features, wanted_features)
        return terms

    @classmethod
    def from_official(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of the generator, or of the discriminator, under our names.

        The authors save the two in separate files; which one this is shows in its names. Older
        files say ``transformer`` where newer ones say ``PTM``.
        """
        if is_discriminator(weights):
            return {f"discriminator.{name}": v for name, v in modern_names(weights).items()}
        return renamed(without_twins(weights, TWINS), RENAMED)


TWINS: Final = {
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
    r"^decoder(\d)\.": r"decoder.\1.",
    r"^outconv\.": "decoder.3.",
}
