"""The published training of PATN, which XingGAN shares: a generator against two discriminators.

Zhu et al., CVPR 2019, equations 8 to 11 with the authors' Market-1501 flags; Tang et al., ECCV
2020 with other weights. One discriminator tells whether an image fits the target pose (shape),
the other whether it fits the source image (appearance).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from augment.interface.condition import Pair
from augment.interface.schedule import Adam, LinearTail, Phase, Stage
from augment.nets import resnet
from augment.nets.official_names import original, renamed
from augment.objectives.adversarial import ImagePool, cross_entropy
from augment.objectives.features import FeatureNetwork, load_features
from augment.objectives.identity import IdentityLoss
from manifests.keypoints import NUM_JOINTS
from manifests.runtime.console import UserError
from manifests.runtime.settings import Count, Frozen, NotNegative, Positive, Share, Width

NUM_EPOCHS: Final = 700
"""Steps of the learning rate; the authors count 700 epochs of 4,000 random pairs."""

FEATURE_LAYER: Final = "relu1_2"

DISCRIMINATORS: Final = ("discriminators.shape", "discriminators.appearance")
"""Where the discriminators are in a system that calls them ``discriminators``."""


PoolSize = Annotated[int, Field(ge=0, le=65_536)]
"""Images that a pool keeps; of 128 x 64 pixels already these take some 50 GB."""


SizeOfImages = Annotated[Width, Field(multiple_of=4)]
"""Pixels of a side, which the encoders halve twice."""


class TwoDiscriminatorsConfig(Frozen):
    """Settings of the training; PATN's published values for Market-1501 are the defaults."""

    discriminator_width: Width = 64
    """Channels of a discriminator's first layer."""
    norm: Literal["batch", "instance"] = "batch"
    """batch for Market-1501, instance for DeepFashion."""
    dropout: Annotated[float, Field(ge=0, lt=1, multiple_of=1 / 256)] = 0.5
    """Part of the values in residual blocks that training sets to zero."""
    image_height: SizeOfImages = 128
    """Height of the images in pixels."""
    image_width: SizeOfImages = 64
    """Width of the images in pixels."""
    pool_size: PoolSize = 50
    """Past fakes that each discriminator remembers."""
    weight_l1: NotNegative = 10.0
    """Weight of the mean absolute difference from the real image."""
    weight_perceptual: NotNegative = 10.0
    """Weight of the difference in features."""
    weight_adversarial: NotNegative = 5.0
    """Weight of the adversarial loss."""
    features: FeatureNetwork = "vgg19"
    """Feature network of the perceptual loss: vgg19, vgg19-random, imagenet (weights that an
    installed package brings), a file of VGG19's weights or of reid export, or none."""
    identity: str | None = None
    """Re-identification network, a file of 'reid export', whose features the fake has to keep."""
    weight_identity: NotNegative | None = None
    """Weight of that loss; 1 where the network is given. Not part of the published loss."""
    batch_size: Positive = 32
    """Pairs per step."""
    warmup_steps: Count = 0
    """Steps of reconstruction alone before the discriminators take part; none as published."""
    steps: Positive = 87_500
    """Steps of training."""
    constant_part: Share = 5 / 7
    """Part of the steps before the learning rate falls linearly to zero."""
    learning_rate: NotNegative = 2e-4
    """Learning rate of all networks."""


class TwoDiscriminators(nn.Module):
    """The two discriminators with their pools, their part of the plan and all losses.

    Its owner calls it ``discriminators``, and its ``run`` gives ``fake`` and ``target_maps``.
    """

    def __init__(self, config: TwoDiscriminatorsConfig) -> None:
        super().__init__()
        self.config = c = config
        size = (c.image_height, c.image_width)
        self.shape = resnet.PairDiscriminator(
            3 + NUM_JOINTS, c.discriminator_width, c.norm, c.dropout
        )
        self.appearance = resnet.PairDiscriminator(6, c.discriminator_width, c.norm, c.dropout)
        self.shape_pool = ImagePool(c.pool_size, 3 + NUM_JOINTS, *size)
        self.appearance_pool = ImagePool(c.pool_size, 6, *size)
        self.features = load_features(c.features, (FEATURE_LAYER,), imagenet_normalised=True)
        self.identity = None if c.identity is None else IdentityLoss(c.identity)

    def stages(self, generator: tuple[str, ...]) -> tuple[Stage, ...]:
        """Return the published stage: generator, then appearance, then shape discriminator.

        A reconstruction stage may come before it: a third of the cost per step, and most of what
        a step with discriminators teaches at first.

        Raises:
            UserError: If identity has a weight but no network.
        """
        c = self.config
        if c.identity is None and c.weight_identity is not None:
            raise UserError(
                f"--config.weight-identity {c.weight_identity:g}: found no --config.identity, "
                "expected the network that it weighs"
            )
        schedule = LinearTail.over(c.steps, NUM_EPOCHS, c.constant_part)
        adam = Adam(learning_rate=c.learning_rate, beta1=0.5)

        def phase(name: str, *trains: str) -> Phase:
            return Phase(name=name, trains=trains, optimizer=adam, schedule=schedule)

        warmup = Stage(
            name="reconstruction",
            steps=c.warmup_steps,
            batch_size=c.batch_size,
            phases=(Phase(name="reconstruction", trains=generator, optimizer=adam),),
        )
        return (
            *((warmup,) if c.warmup_steps else ()),
            Stage(
                name="transfer",
                steps=c.steps,
                batch_size=c.batch_size,
                phases=(
                    phase("generator", *generator),
                    phase("appearance", "discriminators.appearance"),
                    phase("shape", "discriminators.shape"),
                ),
            ),
        )

    def losses(self, phase: str, pair: Pair, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the published terms of one phase, weighted."""
        fake, target_maps = outputs["fake"], outputs["target_maps"]
        source = pair.condition.image
        weight = 0.5 * self.config.weight_adversarial
        if phase == "reconstruction":
            return self._reconstruction(fake, pair.target)
        if phase == "generator":
            shape = self.shape(torch.cat([fake, target_maps], dim=1))
            appearance = self.appearance(torch.cat([fake, source], dim=1))
            return {
                **self._reconstruction(fake, pair.target),
                "fool_shape": weight * cross_entropy(shape, real=True),
                "fool_appearance": weight * cross_entropy(appearance, real=True),
            }
        if phase == "shape":
            discriminator, pool, beside = self.shape, self.shape_pool, target_maps
        else:
            discriminator, pool, beside = self.appearance, self.appearance_pool, source
        old = pool(torch.cat([fake.detach(), beside], dim=1))
        real = cross_entropy(discriminator(torch.cat([pair.target, beside], dim=1)), real=True)
        return {phase: weight * (real + cross_entropy(discriminator(old), real=False))}

    def _reconstruction(self, fake: Tensor, target: Tensor) -> dict[str, Tensor]:
        terms = {"l1": self.config.weight_l1 * F.l1_loss(fake, target)}
        if self.features is not None:
            with torch.no_grad():
                target_features = self.features(target)[FEATURE_LAYER]
            distance = F.l1_loss(self.features(fake)[FEATURE_LAYER], target_features)
            terms["perceptual"] = self.config.weight_perceptual * distance
        if self.identity is not None:
            # The real image in the target pose, not the source: both show the same person, but
            # nearness to the source would also reward keeping its pose and background.
            weight = self.config.weight_identity
            terms["identity"] = (1.0 if weight is None else weight) * self.identity(fake, target)
        return terms


def from_official(weights: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the tensors of the generator, or of a discriminator, under our names.

    The authors save them in separate files; which one this is shows in its names, and which
    discriminator in the channels of its first convolution.

    Args:
        weights: The authors' tensors.
        names: Our names of a generator's tensors, as for ``renamed``.

    Raises:
        UserError: If a name is unknown, or a discriminator sees neither kind of pair.
    """
    if not any(re.match(r"\d+\.conv_block\.", name) for name in weights):
        return renamed(weights, names)
    first = weights.get("1.weight")
    channels = None if first is None or first.ndim != 4 else first.shape[1]
    discriminator = {3 + NUM_JOINTS: "shape", 6: "appearance"}.get(channels or 0)
    if discriminator is None:
        raise UserError(
            f"found a discriminator whose first convolution '1.weight' sees {channels} channels, "
            f"expected {3 + NUM_JOINTS} (discriminators.shape: image and target pose) or 6 "
            "(discriminators.appearance: image and source)"
        )
    return renamed(weights, _names_in(f"discriminators.{discriminator}"))


def official_name(name: str, names: Mapping[str, str]) -> str:
    """Return the authors' name of a tensor; ``names`` as for ``from_official``."""
    for discriminator in DISCRIMINATORS:
        if name.startswith(f"{discriminator}."):
            return original(name, _names_in(discriminator))
    return original(name, names)


def _names_in(discriminator: str) -> dict[str, str]:
    """Return the rules, as for ``renamed``, of one discriminator's file."""
    return {
        r"^(\d+)\.conv_block\.": rf"{discriminator}.\1.path.",
        r"^(\d+)\.": rf"{discriminator}.\1.",
    }


def initialise(module: nn.Module) -> None:
    """Set a generator's weights as the authors do: N(0, 0.02), norm scales N(1, 0.02).

    They leave the discriminators as torch draws them.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
