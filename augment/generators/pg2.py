"""PG2: a coarse image in the target pose, then a map of differences that sharpens it.

Paper: Ma et al., "Pose Guided Person Image Generation", NIPS 2017. Authors' code:
charliememory/Pose-Guided-Person-Image-Generation (MIT), TensorFlow; this file is written from a
description and shares no line with it. The pose of the source is not used. Differences: pairs need
shoulders and hips in both poses and are drawn at random from the images as they are (the authors
train on mirrored images first, then on the others); the running statistics of the discriminator's
normalisation, which they never read, do not exist; PyTorch's Adam, whose epsilon is corrected for
bias; images are cut to [-1, 1] when generated; any width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from augment.interface.condition import Condition, Pair
from augment.interface.randomness import RowRandom
from augment.interface.schedule import Adam, Phase, Stage
from augment.interface.system import PoseTransfer
from augment.nets import dcgan
from augment.nets.dcgan import DcganDiscriminator
from augment.nets.official_names import original
from augment.nets.residual_unet import (
    ResidualUNet,
    SizeOfImages,
    convolution,
    halving,
    initialise,
    rectified_pair,
)
from augment.nets.tensorflow_names import from_tensorflow, slim_names
from augment.objectives.adversarial import cross_entropy
from augment.pose.maps import discs, limb_discs
from manifests.keypoints import NUM_JOINTS
from manifests.runtime.settings import Count, Frozen, NotNegative, Positive, Width

MASK_RADIUS_PX: Final = 4
"""Of the discs along the limbs where the reconstruction counts twice."""


class DifferenceUNet(nn.Module):
    """What is to be added to a coarse image, from that image and the source."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.entry = nn.Sequential(convolution(6, width), nn.ReLU())
        self.encoder = nn.ModuleList(
            rectified_pair(inputs, outputs)
            for inputs, outputs in ((width, width), (width, 2 * width), (2 * width, 3 * width))
        )
        self.down = nn.ModuleList((halving(width, width), halving(2 * width, 2 * width)))
        self.decoder = nn.ModuleList(
            rectified_pair(inputs, width) for inputs in (6 * width, 3 * width, width)
        )
        self.exit = convolution(width, 3)
        initialise(self)

    def forward(
        self,
        coarse: Float[Tensor, "batch 3 height width"],
        source: Float[Tensor, "batch 3 height width"],
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return the difference of colours; the first scale skips nothing."""
        features = self.entry(torch.cat([coarse, source], dim=1))
        middle = self.encoder[1](self.down[0](self.encoder[0](features)))
        small = self.encoder[2](self.down[1](middle))
        # The smallest scale meets itself, as in the authors' code.
        features = self.decoder[0](torch.cat([small, small], dim=1))
        features = self.decoder[1](torch.cat([_enlarged(features), middle], dim=1))
        return self.exit(self.decoder[2](_enlarged(features)))

    @staticmethod
    def creation_order(prefix: str) -> Iterator[str]:
        """Yield the convolutions' names in the order in which the authors' code makes them."""
        yield f"{prefix}.entry.0"
        for part in ("encoder", "decoder"):
            for scale in range(3):
                yield from (f"{prefix}.{part}.{scale}.0", f"{prefix}.{part}.{scale}.2")
                if part == "encoder" and scale < 2:
                    yield f"{prefix}.down.{scale}.0"
        yield f"{prefix}.exit"


def _enlarged(features: Tensor) -> Tensor:
    return F.interpolate(features, scale_factor=2, mode="nearest")


class Pg2(PoseTransfer):
    """Both generators and the discriminator of the second one's training."""

    class Config(Frozen):
        """Published values are the defaults, for Market-1501."""

        image_height: SizeOfImages = 128
        """Height of the images in pixels."""
        image_width: SizeOfImages = 64
        """Width of the images in pixels."""
        base_width: Width = 128
        """Channels of both generators' first layers."""
        code_width: Width = 64
        """Numbers that the coarse generator squeezes a person through."""
        discriminator_width: Width = 64
        """Channels of the discriminator's first layer."""
        weight_l1: NotNegative = 10.0
        """Of both distances in the second stage, beside the adversarial loss."""
        batch_size: Positive = 16
        """Pairs per step."""
        warmup_steps: Count = 22_000
        """Steps of the first stage: the coarse image, without the discriminator."""
        steps: Positive = 38_000
        """Steps of the second: the difference, against the discriminator."""
        learning_rate: NotNegative = 2e-5
        """Learning rate of all networks."""

    sampling: ClassVar[tuple[str, ...]] = ("coarse", "difference")
    discriminator_names: ClassVar[tuple[str, ...]] = ("discriminator",)

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or self.Config()
        self.coarse = ResidualUNet(3 + NUM_JOINTS, c.base_width, c.code_width, self.image_size)
        self.difference = DifferenceUNet(c.base_width)
        self.discriminator = DcganDiscriminator(c.discriminator_width, self.image_size)

    def stages(self) -> tuple[Stage, ...]:
        """Return two stages: the coarse image, then its difference against the discriminator.

        In the second the discriminator has pairs of its own.
        """
        c = self.config
        adam = Adam(learning_rate=c.learning_rate, beta1=0.5)
        coarse = Phase(name="coarse", trains=("coarse",), optimizer=adam)
        against = (
            Phase(name="difference", trains=("difference",), optimizer=adam),
            Phase(name="discriminator", trains=("discriminator",), optimizer=adam, batch="fresh"),
        )
        return (
            Stage(name="coarse", steps=c.warmup_steps, batch_size=c.batch_size, phases=(coarse,)),
            Stage(name="difference", steps=c.steps, batch_size=c.batch_size, phases=against),
        )

    def generate(
        self, condition: Condition, random: RowRandom, options: Frozen
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return the person of ``condition`` in the target pose, RGB in [-1, 1]."""
        del random, options
        return self._refined(condition.image, self._coarse(condition)).clamp(-1, 1)

    def _coarse(self, condition: Condition) -> Tensor:
        maps = discs(condition.target_pose, *condition.image.shape[-2:])
        return self.coarse(torch.cat([condition.image, maps], dim=1)).float()

    def _refined(self, source: Tensor, coarse: Tensor) -> Tensor:
        return coarse + self.difference(coarse, source).float()

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images that the network was made for."""
        return self.config.image_height, self.config.image_width

    def run(self, pair: Pair, stage: str) -> Mapping[str, Tensor]:
        """Return ``coarse``, the ``mask`` of the target's body and, in the second stage, ``fake``.

        None of the images is cut to [-1, 1]. The second stage leaves the coarse generator alone.
        """
        condition = pair.condition
        height, width = pair.target.shape[-2:]
        mask = limb_discs(condition.target_pose, height, width, MASK_RADIUS_PX)
        if stage == "coarse":
            return {"mask": mask, "coarse": self._coarse(condition)}
        with torch.no_grad():
            coarse = self._coarse(condition)
        return {"mask": mask, "coarse": coarse, "fake": self._refined(condition.image, coarse)}

    def losses(self, phase: str, pair: Pair, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the published terms of one phase, weighted."""
        if phase == "coarse":
            return reconstruction(outputs["coarse"], pair.target, outputs["mask"])
        fake = outputs["fake"]
        if phase == "discriminator":
            real, source, _, made = self._logits(pair, outputs["coarse"], fake.detach())
            return {
                "real": 0.5 * cross_entropy(real, real=True),
                # Not moving the person at all is as wrong as a bad image.
                "source": 0.25 * cross_entropy(source, real=False),
                "made": 0.25 * cross_entropy(made, real=False),
            }
        *_, made = self._logits(pair, outputs["coarse"], fake)
        distances = reconstruction(fake, pair.target, outputs["mask"])
        return {
            "fool": cross_entropy(made, real=True),
            **{name: self.config.weight_l1 * term for name, term in distances.items()},
        }

    def _logits(self, pair: Pair, coarse: Tensor, fake: Tensor) -> tuple[Tensor, ...]:
        """Return the logits of target, source, coarse and final images, seen in one batch."""
        seen = torch.cat([pair.target, pair.condition.image, coarse, fake])
        return self.discriminator(seen).chunk(4)

    @classmethod
    def from_official(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return TensorFlow variables under our names; one file holds all three networks."""
        return from_tensorflow(weights, RENAMED)

    @classmethod
    def official_name(cls, name: str) -> str:
        """Return what the authors' code calls a tensor of ours."""
        return original(name, RENAMED)


def reconstruction(
    image: Float[Tensor, "batch 3 height width"],
    target: Float[Tensor, "batch 3 height width"],
    mask: Float[Tensor, "batch 1 height width"],
) -> dict[str, Tensor]:
    """Return the mean distance of colours, and the same where the body is (equation 2).

    Both are means over the whole image.
    """
    distance = (image - target).abs()
    return {"l1": distance.mean(), "l1_of_body": (distance * mask).mean()}


RENAMED: Final = {
    **slim_names("Pose_AE/G", "Conv", ResidualUNet.creation_order("coarse")),
    **slim_names("Pose_AE/G", "fully_connected", ("coarse.to_code", "coarse.from_code")),
    **slim_names("UAEnoFC/G", "Conv", DifferenceUNet.creation_order("difference")),
    **dcgan.official_names("discriminator"),
}
