"""The published training that GFLA and DPTN share: one discriminator beside L1, style and content.

Ren et al., CVPR 2020, and Zhang et al., CVPR 2022, equations 9 to 13, with the
authors' Market-1501 flags. The discriminator scores the image alone, by least squares, and learns
ten times as slowly as the generator.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from augment.interface.schedule import Adam, Constant, LinearTail, Phase
from augment.nets.official_names import original, renamed, without_tied_weights
from augment.nets.spectral import (
    SpectralDiscriminator,
    is_discriminator,
    legacy_name,
    modern_names,
)
from augment.objectives.adversarial import least_squares
from augment.objectives.features import FeatureMaps, FeatureNetwork, load_features
from augment.objectives.style import CONTENT_LAYERS, STYLE_LAYERS, content, style
from manifests.runtime.settings import AboveZero, Frozen, NotNegative, Positive, Width


class SingleDiscriminatorConfig(Frozen):
    """Settings of the training; GFLA's published values for Market-1501 are the defaults."""

    discriminator_width: Width = 32
    """Channels of the discriminator's first block."""
    weight_l1: NotNegative = 5.0
    """Weight of the mean absolute difference from the real image."""
    weight_style: NotNegative = 500.0
    """Weight of the difference in Gram matrices of features."""
    weight_content: NotNegative = 0.5
    """Style and content are not computed where both weights are 0."""
    weight_adversarial: NotNegative = 2.0
    """Weighed against VGG19's terms; without these (vgg19-random, none) it needs a fraction."""
    features: FeatureNetwork = "vgg19"
    """Feature network: vgg19, vgg19-random, imagenet (weights that an installed package brings), a
    VGG19 file, a .pt2 of reid export, or none."""
    initial_gain: AboveZero = 0.02
    """Gain of the orthogonal weights that a training starts with; a short one wants 1."""
    batch_size: Positive = 8
    """Pairs per step."""
    learning_rate: NotNegative = 1e-4
    """Learning rate of the generator."""
    discriminator_learning_rate: NotNegative = 1e-5
    """Learning rate of the discriminator."""


def style_features(config: SingleDiscriminatorConfig) -> FeatureMaps | None:
    """Return the features of style and content, which see images in [-1, 1]; None without them."""
    if config.weight_style == 0 and config.weight_content == 0:
        return None
    layers = CONTENT_LAYERS + STYLE_LAYERS
    return load_features(config.features, layers, imagenet_normalised=False)


def phases(
    config: SingleDiscriminatorConfig,
    generator: tuple[str, ...],
    beta1: float,
    schedule: Constant | LinearTail,
) -> tuple[Phase, Phase]:
    """Return the two updates of a step, the discriminator's first.

    Args:
        config: Learning rates.
        generator: What the second update trains.
        beta1: Of both optimisers.
        schedule: Of both.
    """

    def phase(name: str, rate: float, *trains: str) -> Phase:
        adam = Adam(learning_rate=rate, beta1=beta1)
        return Phase(name=name, trains=trains, optimizer=adam, schedule=schedule)

    return (
        phase("discriminator", config.discriminator_learning_rate, "discriminator"),
        phase("generator", config.learning_rate, *generator),
    )


def discriminator_loss(
    discriminator: SpectralDiscriminator,
    fake: Float[Tensor, "batch 3 height width"],
    target: Float[Tensor, "batch 3 height width"],
) -> dict[str, Tensor]:
    """Return the discriminator's loss, which does not reach what made ``fake``."""
    real = least_squares(discriminator(target), real=True)
    false = least_squares(discriminator(fake.detach()), real=False)
    return {"discriminator": 0.5 * (real + false)}


def generator_loss(
    config: SingleDiscriminatorConfig,
    discriminator: SpectralDiscriminator,
    fake: Float[Tensor, "batch 3 height width"],
) -> dict[str, Tensor]:
    """Return the generator's adversarial loss, weighted."""
    fool = least_squares(discriminator(fake), real=True)
    return {"fool": config.weight_adversarial * fool}


def reconstruction_losses(
    config: SingleDiscriminatorConfig,
    features: FeatureMaps | None,
    prediction: Float[Tensor, "batch 3 height width"],
    target: Float[Tensor, "batch 3 height width"],
) -> dict[str, Tensor]:
    """Return how far an image is from its target, weighted: L1 and, by features, two more."""
    terms = {"l1": config.weight_l1 * F.l1_loss(prediction, target)}
    if features is not None:
        with torch.no_grad():
            target_features = features(target)
        prediction_features = features(prediction)
        terms["style"] = config.weight_style * style(prediction_features, target_features)
        terms["content"] = config.weight_content * content(prediction_features, target_features)
    return terms


def from_official(
    weights: Mapping[str, Tensor], tied_weights: Mapping[str, str], names: Mapping[str, str]
) -> dict[str, Tensor]:
    """Return the tensors of the generator, or of the discriminator, under our names.

    The authors save the two in separate files; which one this is shows in its names.

    Args:
        weights: The authors' tensors.
        tied_weights: Where a generator's file stores a tensor again.
        names: Our names of a generator's tensors, as for ``renamed``.

    Raises:
        UserError: If a name is unknown, or tied weights differ.
    """
    if is_discriminator(weights):
        return {f"discriminator.{name}": v for name, v in modern_names(weights).items()}
    return renamed(without_tied_weights(weights, tied_weights), names)


def official_name(name: str, names: Mapping[str, str]) -> str:
    """Return the authors' name of a tensor; ``names`` as for ``from_official``."""
    if name.startswith("discriminator."):
        return legacy_name(name.removeprefix("discriminator."))
    return original(name, names)
