"""GFLA: a global flow finds, a local attention fetches the source's textures.

Paper: Ren et al., "Deep Image Spatial Transformation for Person Image Generation", CVPR 2020.
Authors' code: RenYurui/Global-Flow-Local-Attention (CC BY-NC 4.0); this file is written from a
description and shares no line with it. The authors' weights keep their non-commercial terms after
conversion. Differences: the CUDA operations are plain PyTorch; the attention's convolution runs in
two halves; reflection padding by indexing; flow, its losses and Gram matrices always in float32;
the authors stop each stage by eye, here the numbers of steps are settings; any width. Only the
Market-1501 configuration (one attention, at a quarter of the image's size) is built.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, ClassVar, Final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from augment.interface.condition import Condition, Pair
from augment.interface.randomness import RowRandom
from augment.interface.schedule import Adam, Constant, Phase, Stage
from augment.interface.system import PoseTransfer
from augment.nets.attention import LocalAttention
from augment.nets.preactivation import Down, Jump, Residual, ToImage, Up, encoder, initialise
from augment.nets.spectral import SpectralDiscriminator
from augment.objectives import single_discriminator
from augment.objectives.features import FeatureMaps, load_features
from augment.objectives.flow import bending, correctness
from augment.objectives.single_discriminator import SingleDiscriminatorConfig
from augment.pose.jitter import Jitter
from augment.pose.maps import whole_pixel_gaussians
from manifests.keypoints import NUM_JOINTS
from manifests.runtime.console import UserError
from manifests.runtime.settings import Count, Frozen, NotNegative, Positive, Width

ATTENTION_SIZE: Final = 3
"""Edge of the neighbourhood that the attention looks at, in pixels of its grid."""

FLOW_LAYER: Final = "relu3_1"
"""Features that score the flow; their grid is the flow's, a quarter of the image's size."""


class Float32Conv2d(nn.Conv2d):
    """A convolution that computes in float32 whatever its weights are stored in.

    A flow in bfloat16 would be off by tenths of a pixel.
    """

    def forward(
        self,
        input: Float[Tensor, "batch inputs rows columns"],  # noqa: A002 - torch's name
    ) -> Float[Tensor, "batch outputs rows columns"]:
        """Return the features in float32."""
        with torch.autocast(input.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return self._conv_forward(input.float(), self.weight.float(), bias)


class FlowNet(nn.Module):
    """Where in the source each position of the target is to be found, and whether to look."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = (3 + 2 * NUM_JOINTS, width, 2 * width, 4 * width, 8 * width, 8 * width)
        self.down = nn.ModuleList(Down(*channels) for channels in pairwise(widths))
        widths = (8 * width, 8 * width, 4 * width, 2 * width)
        self.up = nn.ModuleList(
            Up(inputs, outputs, hidden=outputs) for inputs, outputs in pairwise(widths)
        )
        self.jump = nn.ModuleList(Jump(channels) for channels in widths[1:])
        self.flow = Float32Conv2d(2 * width, 2, 3, padding=1)
        self.mask = Float32Conv2d(2 * width, 1, 3, padding=1)

    def forward(
        self,
        image: Float[Tensor, "batch 3 height width"],
        source_maps: Float[Tensor, "batch 18 height width"],
        target_maps: Float[Tensor, "batch 18 height width"],
    ) -> tuple[Float[Tensor, "batch 2 rows columns"], Float[Tensor, "batch 1 rows columns"]]:
        """Return flow and mask at a quarter of the image's size.

        Convention: the flow is (x, y) pixels of its own grid, from a position of the target to
        the place in the source; the mask is 1 where the source is to be used, 0 where not.
        """
        features = torch.cat([image, source_maps, target_maps], dim=1)
        encoded: list[Tensor] = []
        for down in self.down:
            features = down(features)
            encoded.append(features)
        for up, jump, skipped in zip(self.up, self.jump, reversed(encoded[1:-1]), strict=True):
            features = up(features) + jump(skipped)
        return self.flow(features), torch.sigmoid(self.mask(features))


class TargetNet(nn.Module):
    """From the target pose to the image, fetching the source's features on the way."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = encoder(NUM_JOINTS, width)
        widths = (4 * width, 2 * width, width)
        self.residual = nn.ModuleList(Residual(channels) for channels in widths)
        self.up = nn.ModuleList(
            Up(inputs, outputs, hidden=inputs)
            for inputs, outputs in zip(widths, (2 * width, width, width), strict=True)
        )
        self.attention = LocalAttention(2 * width, ATTENTION_SIZE)
        self.to_image = ToImage(width)

    def forward(
        self,
        target_maps: Float[Tensor, "batch 18 height width"],
        source: Float[Tensor, "batch channels rows columns"],
        flow: Float[Tensor, "batch 2 rows columns"],
        mask: Float[Tensor, "batch 1 rows columns"],
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return the image; ``source`` holds the features that the flow points into."""
        features = self.down(target_maps)
        features = self.up[0](self.residual[0](features))
        fetched = self.attention(source, features, flow)
        features = features * (1 - mask) + fetched * mask
        features = self.up[1](self.residual[1](features))
        features = self.up[2](self.residual[2](features))
        return self.to_image(features)


class Gfla(PoseTransfer):
    """GFLA with its discriminator."""

    class Config(SingleDiscriminatorConfig):
        """Published values are the defaults, for Market-1501."""

        base_width: Width = 64
        """Channels of the first layer of source and target networks."""
        flow_width: Width = 32
        """Channels of the flow network's first layer."""
        angle_degrees: NotNegative = 5.0
        """Largest random turn of a training source; targets are turned by a fifth of it."""
        shift_px: NotNegative = 5.0
        """Largest random shift of a training source; targets are shifted by half of it."""
        scale: Annotated[float, Field(ge=0, lt=1)] = 0.05
        """Largest random scaling of a training source; targets keep their scale."""
        weight_flow_correctness: NotNegative = 20.0
        """Weight of the loss on the flow in its own stage."""
        weight_flow_bending: NotNegative = 0.01
        """The two weights of the first stage, which trains the flow alone."""
        weight_correctness: NotNegative = 5.0
        """Weight of the loss on the flow beside the others."""
        weight_bending: NotNegative = 0.0025
        """Weight of the loss on how much the flow bends."""
        flow_steps: Count = 100_000
        """The authors stop when the weighted correctness loss is about 1.5 on Market-1501."""
        steps: Positive = 500_000
        """The authors stop when the losses have settled."""

    sampling: ClassVar[tuple[str, ...]] = ("source", "target", "flow_net")
    discriminator_names: ClassVar[tuple[str, ...]] = ("discriminator",)

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or self.Config()
        # The last block feeds nothing: it is there because the authors' files hold it, and is
        # neither run nor trained.
        self.source = encoder(3, c.base_width)
        self.target = TargetNet(c.base_width)
        self.flow_net = FlowNet(c.flow_width)
        for child in self.sampling:
            initialise(self.get_submodule(child), c.initial_gain)
        self.discriminator = SpectralDiscriminator(c.discriminator_width, rectifies_pixels=True)
        self.flow_features = load_features(c.features, (FLOW_LAYER,), imagenet_normalised=False)
        self.features = single_discriminator.style_features(c)

    def stages(self) -> tuple[Stage, ...]:
        """Return two stages: the flow alone, then everything, discriminator first.

        Raises:
            UserError: If there is no feature network: nothing else tells a flow right from wrong.
        """
        c = self.config
        _needed(self.flow_features)
        flow = Phase(
            name="flow",
            trains=("flow_net", "-flow_net.mask"),
            optimizer=Adam(learning_rate=c.learning_rate, beta1=0.0),
        )
        generator = (*self.sampling, "-source.2")
        return (
            Stage(name="flow", steps=c.flow_steps, batch_size=c.batch_size, phases=(flow,)),
            Stage(
                name="transfer",
                steps=c.steps,
                batch_size=c.batch_size,
                phases=single_discriminator.phases(c, generator, beta1=0.0, schedule=Constant()),
            ),
        )

    def generate(
        self, condition: Condition, random: RowRandom, options: Frozen
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return the person of ``condition`` in the target pose, RGB in [-1, 1]."""
        del random, options
        target_maps = whole_pixel_gaussians(condition.target_pose, *condition.image.shape[-2:])
        flow, mask = self._flow(condition, target_maps)
        return self._transfer(condition.image, target_maps, flow, mask)

    def _flow(self, condition: Condition, target_maps: Tensor) -> tuple[Tensor, Tensor]:
        source_maps = whole_pixel_gaussians(condition.pose, *condition.image.shape[-2:])
        return self.flow_net(condition.image, source_maps, target_maps)

    def _transfer(self, image: Tensor, maps: Tensor, flow: Tensor, mask: Tensor) -> Tensor:
        return self.target(maps, self.source[:2](image), flow, mask)

    def run(self, pair: Pair, stage: str) -> Mapping[str, Tensor]:
        """Return ``flow`` and, in the second stage, ``fake``, for images moved at random.

        The moved images are the outputs ``source`` and ``target``.
        """
        condition, target = self._moved(pair)
        target_maps = whole_pixel_gaussians(condition.target_pose, *condition.image.shape[-2:])
        flow, mask = self._flow(condition, target_maps)
        outputs = {"source": condition.image, "target": target, "flow": flow}
        if stage == "transfer":
            fake = self._transfer(condition.image, target_maps, flow, mask)
            outputs["fake"] = fake.float()
        return outputs

    def _moved(self, pair: Pair) -> tuple[Condition, Tensor]:
        """Return the pair after one random affine map for the source, one for the target."""
        c = self.config
        of_source = Jitter(c.angle_degrees, c.shift_px, c.scale)
        of_target = Jitter(0.2 * c.angle_degrees, 0.5 * c.shift_px, scale=0.0)
        image, pose = of_source.move(pair.condition.image, pair.condition.pose)
        target, target_pose = of_target.move(pair.target, pair.condition.target_pose)
        return Condition(image, pose, target_pose), target

    def losses(self, phase: str, pair: Pair, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the published terms, weighted (the paper's equations 4 to 12, Market flags)."""
        del pair
        c = self.config
        if phase == "flow":
            return self._flow_losses(outputs, c.weight_flow_correctness, c.weight_flow_bending)
        fake, target = outputs["fake"], outputs["target"]
        if phase == "discriminator":
            return single_discriminator.discriminator_loss(self.discriminator, fake, target)
        return {
            **single_discriminator.reconstruction_losses(c, self.features, fake, target),
            **single_discriminator.generator_loss(c, self.discriminator, fake),
            **self._flow_losses(outputs, c.weight_correctness, c.weight_bending),
        }

    def _flow_losses(
        self, outputs: Mapping[str, Tensor], weight_correctness: float, weight_bending: float
    ) -> dict[str, Tensor]:
        features = _needed(self.flow_features)
        with torch.no_grad():
            source = features(outputs["source"])[FLOW_LAYER]
            target = features(outputs["target"])[FLOW_LAYER]
        flow = outputs["flow"]
        return {
            "correctness": weight_correctness * correctness(source, target, flow),
            "bending": weight_bending * bending(flow, ATTENTION_SIZE),
        }

    @classmethod
    def from_official(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of the generator, or of the discriminator, under our names."""
        _check_market_size(weights)
        return single_discriminator.from_official(weights, TIED_WEIGHTS, RENAMED)

    @classmethod
    def official_name(cls, name: str) -> str:
        """Return what the authors' files call a tensor of ours."""
        return single_discriminator.official_name(name, RENAMED)


TIED_WEIGHTS: Final = {
    r"^target\.outconv\.conv1\.": "target.outconv.model.2.",
    r"^flow_net\.(jump\d)\.conv1\.": r"flow_net.\1.model.2.",
}
"""Names under which the authors' files store a tensor again -> the name that counts."""

RENAMED: Final = {
    r"^source\.block0\.": "source.0.",
    r"^source\.encoder0\.": "source.1.",
    r"^source\.encoder1\.": "source.2.",
    r"^target\.block0\.": "target.down.0.",
    r"^target\.encoder0\.": "target.down.1.",
    r"^target\.encoder1\.": "target.down.2.",
    r"^target\.decoder(\d)\.0\.model\.0\.": r"target.residual.\1.",
    r"^target\.decoder(\d)\.1\.": r"target.up.\1.",
    r"^target\.attn1\.fully_connect_layer\.0\.": "target.attention.compare.",
    r"^target\.attn1\.fully_connect_layer\.2\.": "target.attention.weigh.1.",
    r"^target\.outconv\.": "target.to_image.",
    r"^flow_net\.block0\.": "flow_net.down.0.",
    r"^flow_net\.encoder0\.": "flow_net.down.1.",
    r"^flow_net\.encoder1\.": "flow_net.down.2.",
    r"^flow_net\.encoder2\.": "flow_net.down.3.",
    r"^flow_net\.encoder3\.": "flow_net.down.4.",
    r"^flow_net\.decoder(\d)\.": r"flow_net.up.\1.",
    r"^flow_net\.jump(\d)\.": r"flow_net.jump.\1.",
    r"^flow_net\.output2\.": "flow_net.flow.",
    r"^flow_net\.mask2\.0\.": "flow_net.mask.",
}


def _needed(features: FeatureMaps | None) -> FeatureMaps:
    """Return the features.

    Raises:
        UserError: If there are none.
    """
    if features is None:
        raise UserError(
            "gfla: found features 'none', expected 'vgg19', 'imagenet', 'vgg19-random' or a file: "
            "nothing else tells a right flow from a wrong one"
        )
    return features


def _check_market_size(weights: Mapping[str, Tensor]) -> None:
    """Refuse the DeepFashion configuration, which attends at two sizes.

    Raises:
        UserError: If there is a second attention, or one over 5 x 5 samples.
    """
    second = [
        name
        for name, tensor in weights.items()
        if re.search(r"^target\.attn[^1]\.|^flow_net\.(output|mask)[^2]\.", name)
        or (name == "target.attn1.fully_connect_layer.0.weight" and tensor.shape[-1] == 5)
    ]
    if second:
        raise UserError(
            f"found GFLA weights for DeepFashion ('{second[0]}' and {len(second) - 1} more "
            "tensors of its attentions), expected those for Market-1501 (one attention, "
            "'target.attn1', over 3 x 3 samples, and 'flow_net.output2')"
        )
