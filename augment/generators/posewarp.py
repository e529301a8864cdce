"""Pose warp: a person's own pixels, moved limb by limb, and a small network that paints over them.

The layered idea of Balakrishnan et al. ("Synthesizing Images of Humans in Unseen Poses", CVPR
2018): parts of the source are moved by one map each and a network fuses and mends what comes out.
Differences: the maps follow from the joints and are not refined; parts are cut out along a given
mask, not a learned one; there is one U-Net, which sees the background that the target pose was seen
before instead of inventing one, and puts out a gate beside the colours: where it is open the moved
pixel stays as it is, so that what tells a person is carried and not drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, ClassVar, Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from augment.interface.condition import Condition, Pair
from augment.interface.randomness import RowRandom
from augment.interface.schedule import Adam, Constant, LinearTail, Phase, Stage
from augment.interface.system import Need, PoseTransfer
from augment.objectives.adversarial import hinge
from augment.objectives.exported_features import OUTPUT, ExportedFeatures
from augment.objectives.features import FeatureMaps, FeatureNetwork, load_features
from augment.objectives.identity import SETTING as IDENTITY_SETTING
from augment.objectives.imagenet_features import EARLY_LAYERS
from augment.pose.limb_warp import limb_warp
from augment.pose.maps import gaussians
from manifests.keypoints import NUM_JOINTS
from manifests.runtime.console import UserError
from manifests.runtime.settings import Count, Frozen, NotNegative, Positive, Width

PERSON_LAYERS: Final = ("relu4_1", "relu5_1")
"""Of the re-ID network: an eighth and a sixteenth."""

NUM_EPOCHS: Final = 60
"""Steps of the learning rate beside the discriminator."""

SizeOfImages = Annotated[Width, Field(multiple_of=8)]
"""Pixels of a side, which the painter halves three times."""

GATE_BIAS: Final = 3.0
"""Added before the sigmoid: a gate begins open."""


def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Return a convolution with batch normalisation and ReLU; a kernel of 4 halves the size."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            *convolution(channels, channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the features after the block."""
        return F.relu(features + self.path(features))


class Painter(nn.Module):
    """A U-Net over what was moved; the pooled source modulates its narrowest features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 6 * width]
        # Moved pixels, their coverage, street, hole, joints.
        self.entry = convolution(3 + 1 + 3 + 1 + NUM_JOINTS, width)
        self.down = nn.ModuleList(
            nn.Sequential(convolution(a, b, 4, 2), *(Residual(b) for _ in range(blocks)))
            for a, b, blocks in zip(widths[:-1], widths[1:], (1, 1, 2), strict=True)
        )
        self.source = nn.Sequential(
            convolution(3 + 1, width, 4, 2),
            *(convolution(a, b, 4, 2) for a, b in pairwise(widths)),
        )
        self.modulation = nn.Linear(widths[3], 2 * widths[3])
        self.up = nn.ModuleList(
            nn.Sequential(convolution(widths[i + 1], widths[i]), *([Residual(widths[i])] * (i > 0)))
            for i in reversed(range(3))
        )
        self.exit = nn.Conv2d(width, 3 + 1, 3, padding=1)

    def forward(
        self,
        moved: Float[Tensor, "batch channels height width"],
        source: Float[Tensor, "batch 4 height width"],
    ) -> Float[Tensor, "batch 4 height width"]:
        """Return colours and gate before their activations.

        Args:
            moved: What ``entry`` takes, height and width multiples of 8.
            source: The person cut out of the source, and the mask.
        """
        features = [self.entry(moved)]
        for down in self.down:
            features.append(down(features[-1]))
        scale, shift = self.modulation(self.source(source).mean((2, 3)))[..., None, None].chunk(
            2, 1
        )
        result = features.pop() * (1 + scale) + shift
        for up in self.up:
            larger = F.interpolate(result, scale_factor=2, mode="bilinear")
            result = up(larger) + features.pop()
        return self.exit(result).float()


class Discriminator(nn.Module):
    """Patches of an image, seen beside the source and the target pose."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(3 + 3 + NUM_JOINTS, width, 4, 2, padding=1),
            nn.LeakyReLU(0.2),
        ]
        for inputs in (width, 2 * width):
            layers += [
                nn.Conv2d(inputs, 2 * inputs, 4, 2, padding=1),
                nn.InstanceNorm2d(2 * inputs),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 3, padding=1))

    def forward(self, image: Tensor, source: Tensor, target_maps: Tensor) -> Tensor:
        """Return one score per patch, high for real images."""
        return self.layers(torch.cat([image, source, target_maps], dim=1))


class PoseWarp(PoseTransfer):
    """The warp, the painter, and a discriminator for the last part of the training."""

    class Config(Frozen):
        """Settings of network and training."""

        image_height: SizeOfImages = 128
        """Height of the images in pixels."""
        image_width: SizeOfImages = 64
        """Width of the images in pixels."""
        width: Width = 24
        """Channels of the painter's first layer; the narrowest has six times as many."""
        discriminator_width: Width = 32
        """Channels of the discriminator's first layer."""
        features: FeatureNetwork = "imagenet"
        """Feature network of the painting: imagenet, vgg19, vgg19-random, a VGG19 file, a .pt2 of
        reid export, or none."""
        identity: str | None = None
        """A .pt2 of reid export that says whom an image shows; none: no such losses."""
        weight_l1: NotNegative = 5.0
        """Inside the hole of the background alone."""
        weight_features: NotNegative = 1.0
        """Weight of the difference in features."""
        weight_identity_features: NotNegative = 0.5
        """Early maps of the identity network."""
        weight_identity: NotNegative = 2.0
        """Weight of the difference in the features of the identity network."""
        weight_gate: NotNegative = 2.0
        """Of painting over what was moved: colours and letters tell a person, and what is painted
        in their place is a guess."""
        weight_adversarial: NotNegative = 0.15
        """Weight of the adversarial loss."""
        batch_size: Positive = 16
        """Pairs per step."""
        learning_rate: NotNegative = 1e-3
        """Learning rate of all but the discriminator."""
        discriminator_learning_rate: NotNegative = 4e-4
        """Learning rate of the discriminator."""
        warmup_steps: Count = 6_000
        """Steps without the discriminator."""
        steps: Positive = 19_000
        """Steps with it; over the last two thirds the learning rate falls to zero."""

    class Options(Frozen):
        """How much of the source's pixels stays."""

        keep: float = 0.0
        """Added to the gate before its sigmoid: above 0 more of the moved pixels stay as they are,
        which shows the person better, and seams too; below 0 more is painted over."""

    needs: frozenset[Need] = frozenset({"mask", "background"})
    sampling: ClassVar[tuple[str, ...]] = ("painter",)
    discriminator_names: ClassVar[tuple[str, ...]] = ("discriminator",)

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or self.Config()
        self.painter = Painter(c.width)
        self.discriminator = Discriminator(c.discriminator_width)
        self._features = load_features(c.features, EARLY_LAYERS, imagenet_normalised=True)
        self._person: FeatureMaps | None = None
        if c.identity is not None:
            layers = (*PERSON_LAYERS, OUTPUT)
            self._person = ExportedFeatures(c.identity, layers, setting=IDENTITY_SETTING)

    def stages(self) -> tuple[Stage, ...]:
        """Return painting alone, then painting against the discriminator.

        Raises:
            UserError: If identity has a weight of its own but no network.
        """
        c = self.config
        for name in ("weight_identity", "weight_identity_features"):
            weight = getattr(c, name)
            if c.identity is None and weight not in {0, self.Config.model_fields[name].default}:
                raise UserError(
                    f"--config.{name.replace('_', '-')} {weight:g}: found no --config.identity, "
                    "expected the network that it weighs"
                )
        tail = LinearTail.over(c.steps, NUM_EPOCHS, constant_part=1 / 3)

        def phase(name: str, rate: float, schedule: Constant | LinearTail, *trains: str) -> Phase:
            adam = Adam(learning_rate=rate, beta1=0.5)
            return Phase(name=name, trains=trains, optimizer=adam, schedule=schedule)

        rate = c.learning_rate
        alone = phase("painter", rate, Constant(), "painter")
        against = (
            phase("discriminator", c.discriminator_learning_rate, tail, "discriminator"),
            phase("fooling_painter", rate, tail, "painter"),
        )
        return (
            Stage(name="painting", steps=c.warmup_steps, batch_size=c.batch_size, phases=(alone,)),
            Stage(name="adversarial", steps=c.steps, batch_size=c.batch_size, phases=against),
        )

    def generate(
        self, condition: Condition, random: RowRandom, options: Frozen
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return the person in the target pose before the target's background, RGB in [-1, 1]."""
        del random
        assert isinstance(options, self.Options)
        height, width = condition.image.shape[-2:]
        maps = gaussians(condition.target_pose, height, width)
        return self._painted(condition, maps, options.keep)[0]

    def _painted(
        self, condition: Condition, target_maps: Tensor, keep: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Return the images, and how much of every pixel is moved and painted over all the same."""
        image, mask, background = condition.image, condition.mask, condition.background
        assert mask is not None
        assert background is not None
        warp = limb_warp(image, mask, condition.pose, condition.target_pose)
        moved = torch.cat([warp.channels(), background.channels(), target_maps], dim=1)
        out = self.painter(moved, torch.cat([image * mask, mask], dim=1))
        gate = torch.sigmoid(out[:, 3:] + GATE_BIAS + keep)
        person = warp.painted_over(torch.tanh(out[:, :3]), gate)
        # Skirts, hair and bags that reach beyond the hole stand before the street as they are.
        image = replace(background, image=warp.before(background.image)).behind(person)
        return image, background.hole * warp.hidden(gate)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images that the network was made for."""
        return self.config.image_height, self.config.image_width

    def run(self, pair: Pair, stage: str) -> Mapping[str, Tensor]:
        """Return the ``fake``, what is ``hidden`` in it, and the ``target_maps``."""
        del stage
        target_maps = gaussians(pair.condition.target_pose, *pair.target.shape[-2:])
        fake, hidden = self._painted(pair.condition, target_maps)
        return {"fake": fake, "hidden": hidden, "target_maps": target_maps}

    def losses(self, phase: str, pair: Pair, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the terms of one phase, weighted."""
        c, fake = self.config, outputs["fake"]
        condition, target_maps = pair.condition, outputs["target_maps"]
        if phase == "discriminator":
            real = self.discriminator(pair.target, condition.image, target_maps)
            made = self.discriminator(fake.detach(), condition.image, target_maps)
            return {"discriminator": hinge(real, real=True) + hinge(made, real=False)}
        assert condition.background is not None
        hole = condition.background.hole
        distance = ((fake - pair.target).abs() * hole).sum() / (3 * hole.sum()).clamp(min=1)
        hidden = outputs["hidden"].sum() / hole.sum().clamp(min=1)
        terms = {"l1": c.weight_l1 * distance, "gate": c.weight_gate * hidden}
        if self._features is not None and c.weight_features:
            with torch.no_grad():
                expected = self._features(pair.target)
            seen = self._features(fake)
            terms["features"] = c.weight_features * relative_distance(seen, expected, EARLY_LAYERS)
        if self._person is not None:
            terms |= self._identity(self._person, pair, fake)
        if phase == "fooling_painter":
            fooled = -self.discriminator(fake, condition.image, target_maps).float().mean()
            terms["adversarial"] = c.weight_adversarial * fooled
        return terms

    def _identity(self, person: FeatureMaps, pair: Pair, fake: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            expected, source = person(pair.target), person(pair.condition.image)
            # Both images show the person; their mean is less of one image and more of the person.
            direction = F.normalize(expected[OUTPUT]) + F.normalize(source[OUTPUT])
        seen = person(fake)
        similarity = F.cosine_similarity(seen[OUTPUT], direction, dim=1).mean()
        maps = relative_distance(seen, expected, PERSON_LAYERS)
        return {
            "identity": self.config.weight_identity * (1 - similarity),
            "identity_features": self.config.weight_identity_features * maps,
        }


def relative_distance(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], layers: tuple[str, ...]
) -> Float[Tensor, ""]:
    """Return the summed L1 distances of feature maps, each relative to the mean of the expected."""
    distances = [
        (found[layer] - expected[layer]).float().abs().mean()
        / (expected[layer].float().abs().mean() + 1e-3)
        for layer in layers
    ]
    return torch.stack(distances).sum()
