"""PATN: progressive pose attention transfer.

Paper: Zhu et al., "Progressive Pose Attention Transfer for Person Image Generation", CVPR 2019.
Authors' code: tengteng95/Pose-Transfer (MIT). Differences: discriminators return logits and the
loss contains their sigmoid; reflection padding by indexing; the output of the last pose path that
the authors compute and discard is not concatenated; any width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from augment.losses.adversarial import ImagePool, cross_entropy
from augment.losses.features import load_features
from augment.nets import resnet
from augment.nets.official import renamed
from augment.pose.maps import gaussians
from augment.transfer import Adam, Condition, LinearTail, Pair, Phase, PoseTransfer, Stage
from manifests.keypoints import NUM_JOINTS
from manifests.settings import Frozen

NUM_EPOCHS = 700
"""Steps of the learning rate; the authors count 700 epochs of 4,000 random pairs."""


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

    class Config(Frozen):
        """Published values are the defaults, for Market-1501."""

        base_width: int = 64
        """Channels of the first layer; the blocks have four times as many."""
        discriminator_width: int = 64
        """Channels of a discriminator's first layer."""
        num_blocks: int = 9
        norm: Literal["batch", "instance"] = "batch"
        """batch for Market-1501, instance for DeepFashion."""
        dropout: float = 0.5
        image_height: int = 128
        image_width: int = 64
        pool_size: int = 50
        """Past fakes that each discriminator remembers."""
        weight_l1: float = 10.0
        weight_perceptual: float = 10.0
        weight_adversarial: float = 5.0
        features: str = "vgg19"
        """Feature network of the perceptual loss: vgg19, vgg19-random, a file, or none."""
        batch_size: int = 32
        warmup_steps: int = 0
        """Steps of reconstruction alone before the discriminators join; none as published."""
        steps: int = 87_500
        constant_part: float = 5 / 7
        """Part of the steps before the learning rate falls linearly to zero."""
        learning_rate: float = 2e-4

    sampling: ClassVar[tuple[str, ...]] = ("image_encoder", "pose_encoder", "blocks", "decoder")

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
            self.get_submodule(child).apply(_initialise)
        self.shape_discriminator = resnet.PairDiscriminator(
            3 + NUM_JOINTS, c.discriminator_width, c.norm, c.dropout
        )
        self.appearance_discriminator = resnet.PairDiscriminator(
            6, c.discriminator_width, c.norm, c.dropout
        )
        size = (c.image_height, c.image_width)
        self.shape_pool = ImagePool(c.pool_size, 3 + NUM_JOINTS, *size)
        self.appearance_pool = ImagePool(c.pool_size, 6, *size)
        self.features = load_features(c.features, ("relu1_2",), imagenet_normalised=True)

    def stages(self) -> tuple[Stage, ...]:
        """Return the published stage: generator, then appearance, then shape discriminator.

        A reconstruction stage may come before it: a third of the cost per step, and most of what
        a step with discriminators teaches at first.
        """
        c = self.config
        epoch_steps = math.ceil(c.steps / NUM_EPOCHS)
        epochs = math.ceil(c.steps / epoch_steps)
        constant_epochs = round(c.constant_part * epochs)
        schedule = LinearTail(
            epoch_steps=epoch_steps,
            constant_epochs=constant_epochs,
            tail_epochs=epochs - constant_epochs,
        )
        adam = Adam(learning_rate=c.learning_rate, beta1=0.5)

        def phase(name: str, *trains: str) -> Phase:
            return Phase(name=name, trains=trains, optimizer=adam, schedule=schedule)

        warmup = Stage(
            name="reconstruction",
            steps=c.warmup_steps,
            batch_size=c.batch_size,
            phases=(Phase(name="reconstruction", trains=self.sampling, optimizer=adam),),
        )
        return (
            *((warmup,) if c.warmup_steps else ()),
            Stage(
                name="transfer",
                steps=c.steps,
                batch_size=c.batch_size,
                phases=(
                    phase("generator", *self.sampling),
                    phase("appearance", "appearance_discriminator"),
                    phase("shape", "shape_discriminator"),
                ),
            ),
        )

    def generate(
        self, condition: Condition, noise: Float[Tensor, "batch width"] | None = None
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return the person of ``condition`` in the target pose, RGB in [-1, 1]."""
        del noise
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
        """Return the published terms, weighted (the paper's equations 8 to 11, Market flags)."""
        fake, target_maps = outputs["fake"], outputs["target_maps"]
        source = pair.condition.image
        half_gan = 0.5 * self.config.weight_adversarial
        if phase == "reconstruction":
            return self._reconstruction(fake, pair.target)
        if phase == "generator":
            shape = self.shape_discriminator(torch.cat([fake, target_maps], dim=1))
            appearance = self.appearance_discriminator(torch.cat([fake, source], dim=1))
            return {
                **self._reconstruction(fake, pair.target),
                "fool_shape": half_gan * cross_entropy(shape, real=True),
                "fool_appearance": half_gan * cross_entropy(appearance, real=True),
            }
        if phase == "shape":
            critic, pool, beside = self.shape_discriminator, self.shape_pool, target_maps
        else:
            critic, pool, beside = self.appearance_discriminator, self.appearance_pool, source
        old = pool(torch.cat([fake.detach(), beside], dim=1))
        real = cross_entropy(critic(torch.cat([pair.target, beside], dim=1)), real=True)
        return {f"{phase}": half_gan * (real + cross_entropy(critic(old), real=False))}

    def _reconstruction(self, fake: Tensor, target: Tensor) -> dict[str, Tensor]:
        terms = {"l1": self.config.weight_l1 * F.l1_loss(fake, target)}
        if self.features is not None:
            distance = F.l1_loss(
                self.features(fake)["relu1_2"], self.features(target)["relu1_2"].detach()
            )
            terms["perceptual"] = self.config.weight_perceptual * distance
        return terms

    @classmethod
    def from_official(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the generator's tensors under our names.

        Instance-normalised (DeepFashion) files saved by old torch carry running statistics that
        the network never had; they are left out. In batch-normalised files they are real.
        """
        if not any(name.startswith("stream1_down.2.weight") for name in weights):
            weights = {name: value for name, value in weights.items() if "running_" not in name}
        return renamed(
            weights,
            {
                r"^stream1_down\.": "image_encoder.",
                r"^stream2_down\.": "pose_encoder.",
                r"^att\.(\d+)\.conv_block_stream1\.": r"blocks.\1.image_path.",
                r"^att\.(\d+)\.conv_block_stream2\.": r"blocks.\1.pose_path.",
                r"^stream1_up\.": "decoder.",
            },
        )


def _initialise(module: nn.Module) -> None:
    """Set weights as the authors do: N(0, 0.02), norm scales N(1, 0.02)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
