"""PATN: progressive pose attention transfer.

Paper: Zhu et al., "Progressive Pose Attention Transfer for Person Image Generation", CVPR 2019.
Authors' code: tengteng95/Pose-Transfer (MIT). Differences: discriminators return logits and the
loss contains their sigmoid; reflection padding by indexing; the output of the last pose path that
the authors compute and discard is not concatenated; any width. Two settings beyond the paper, off
by default: the pose path may see the street that the target pose was seen before, which then stands
behind the person, and the source's pixels moved limb by limb, which a gate beside the colours keeps
where it is open (as Balakrishnan et al., CVPR 2018, move layers of the source).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from augment.interface.condition import Condition, Pair
from augment.interface.randomness import RowRandom
from augment.interface.schedule import Stage
from augment.interface.system import Need, PoseTransfer
from augment.nets import resnet
from augment.objectives import two_discriminators
from augment.objectives.two_discriminators import (
    TwoDiscriminators,
    TwoDiscriminatorsConfig,
    initialise,
)
from augment.pose.limb_warp import limb_warp
from augment.pose.maps import gaussians
from manifests.keypoints import NUM_JOINTS
from manifests.runtime.console import UserError
from manifests.runtime.settings import Depth, Frozen, NotNegative, Width

SEEN_CHANNELS: Final = 4
"""Of a street and its hole, and of moved pixels and their coverage."""


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

        base_width: Width = 64
        """Channels of the first layer; the blocks have four times as many."""
        num_blocks: Depth = 9
        """Blocks that move the person from pose to pose."""
        background: Literal["none", "target"] = "none"
        """target: the street that the pose was seen before stands behind the person; none, as
        published: the network draws what is behind."""
        warp: Literal["none", "limbs"] = "none"
        """limbs: the source's own pixels, moved limb by limb, stay where a gate is open; none, as
        published: the network draws every pixel."""
        weight_gate: NotNegative = 0.0
        """Of painting over what was moved, with warp limbs: above 0 the gate is held open, since
        what is painted in the place of a person's own pixels is a guess."""

    sampling: ClassVar[tuple[str, ...]] = ("image_encoder", "pose_encoder", "blocks", "decoder")
    discriminator_names: ClassVar[tuple[str, ...]] = two_discriminators.DISCRIMINATORS

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or self.Config()
        channels = 4 * c.base_width
        self.image_encoder = resnet.encoder(3, c.base_width, c.norm)
        needs: set[Need] = set()
        if c.warp == "limbs":
            needs.add("mask")
        if c.background == "target":
            needs.add("background")
        self.needs = frozenset(needs)
        seen = 2 * NUM_JOINTS + SEEN_CHANNELS * len(needs)
        self.pose_encoder = resnet.encoder(seen, c.base_width, c.norm)
        self.blocks = nn.ModuleList(
            AttentionBlock(channels, c.norm, c.dropout, first=index == 0)
            for index in range(c.num_blocks)
        )
        self.decoder = resnet.decoder(c.base_width, c.norm, 4 if c.warp == "limbs" else 3)
        for child in self.sampling:
            self.get_submodule(child).apply(initialise)
        self.discriminators = TwoDiscriminators(c)

    def stages(self) -> tuple[Stage, ...]:
        """Return the training against two discriminators, the generator first.

        Raises:
            UserError: If a gate or an identity has a weight, and there is none.
        """
        if self.config.weight_gate and self.config.warp == "none":
            raise UserError(
                f"--config.weight-gate {self.config.weight_gate:g}: found --config.warp none, "
                "expected limbs, whose moved pixels the gate keeps"
            )
        return self.discriminators.stages(self.sampling)

    def generate(
        self, condition: Condition, random: RowRandom, options: Frozen
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return the person of ``condition`` in the target pose, RGB in [-1, 1]."""
        del random, options
        return self._transfer(
            condition, gaussians(condition.target_pose, *condition.image.shape[-2:])
        )[0]

    def _transfer(
        self, condition: Condition, target_maps: Tensor
    ) -> tuple[Tensor, Float[Tensor, ""] | None]:
        """Return the images, and which share of the moved pixels is painted over."""
        image, mask, background = condition.image, None, None
        if self.config.warp == "limbs":
            mask = condition.mask
        if self.config.background == "target":
            background = condition.background
        seen = [gaussians(condition.pose, *image.shape[-2:]), target_maps]
        warp, hidden = None, None
        if mask is not None:
            warp = limb_warp(image, mask, condition.pose, condition.target_pose)
            seen.append(warp.channels())
        if background is not None:
            seen.append(background.channels())
        out = self._drawn(image, torch.cat(seen, dim=1))
        if warp is not None:
            gate = (out[:, 3:] + 1) / 2
            hidden = warp.hidden(gate).sum() / warp.coverage.sum().clamp(min=1)
            out = warp.painted_over(out[:, :3], gate)
        if background is not None:
            around = background.image if warp is None else warp.before(background.image)
            out = replace(background, image=around).behind(out)
        return out, hidden

    def _drawn(self, image: Tensor, seen: Tensor) -> Tensor:
        features = self.image_encoder(image)
        pose = self.pose_encoder(seen)
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
        """Return the ``fake`` and the ``target_maps`` that all phases look at, and what is hidden.

        ``hidden``, the share of the moved pixels that is painted over, is there with warp limbs.
        """
        del stage
        target_maps = gaussians(pair.condition.target_pose, *pair.target.shape[-2:])
        fake, hidden = self._transfer(pair.condition, target_maps)
        outputs = {"fake": fake.float(), "target_maps": target_maps}
        return outputs if hidden is None else {**outputs, "hidden": hidden.float()}

    def losses(self, phase: str, pair: Pair, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the published terms of one phase, weighted, and the gate's where it has one."""
        terms = self.discriminators.losses(phase, pair, outputs)
        if self.config.weight_gate and phase in ("reconstruction", "generator"):
            terms["gate"] = self.config.weight_gate * outputs["hidden"]
        return terms

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
