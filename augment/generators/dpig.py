"""DPIG: a person's foreground, the background and the pose, each with a code that can be drawn.

Paper: Ma et al., "Disentangled Person Image Generation", CVPR 2018. Authors' code:
charliememory/Disentangled-Person-Image-Generation (MIT), TensorFlow; this file is written from a
description and shares no line with it. As pose transfer it is the reconstruction with another
pose. Differences: training images show shoulders and hips; in each step the discriminators come
first, which shifts the authors' order by one update; each clips its own weights alone; a drawn pose
is decoded from what was drawn (the authors' tester decodes an encoded pose); PyTorch's Adam, whose
epsilon is corrected for bias; images are cut to [-1, 1] when generated; any width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Annotated, ClassVar, Final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from augment.interface.condition import Condition, Pair
from augment.interface.randomness import RowRandom
from augment.interface.schedule import Adam, Halving, Phase, RMSProp, Stage
from augment.interface.system import PoseTransfer
from augment.nets import dcgan, residual_mlp
from augment.nets.dcgan import DcganDiscriminator
from augment.nets.official_names import original
from augment.nets.residual_mlp import CodeDiscriminator, ResidualMLP, ResidualTrunk
from augment.nets.residual_unet import (
    SMALLEST,
    ResidualPair,
    ResidualUNet,
    SizeOfImages,
    Tower,
    convolution,
    flattened,
    initialise,
)
from augment.nets.tensorflow_names import from_tensorflow, slim_names
from augment.nets.warping import crop_and_resize
from augment.objectives.adversarial import cross_entropy
from augment.pose.maps import discs, limb_discs
from augment.pose.part_boxes import PARTS, part_boxes
from augment.pose.pose import Pose
from manifests.keypoints import NUM_JOINTS
from manifests.runtime.settings import AboveZero, Count, Frozen, NotNegative, Positive, Width

MASK_RADIUS_PX: Final = 7
"""Of the discs along the limbs that make a foreground."""

FACTORS: Final = ("foreground", "background", "pose")
"""What an image is taken apart into; each has a mapper from noise and a discriminator."""


class AppearanceEncoder(nn.Module):
    """Codes of a person, part by part, and of what is behind."""

    def __init__(
        self,
        width: int,
        part_width: int,
        background_width: int,
        part_size: int,
        image_size: tuple[int, int],
    ) -> None:
        super().__init__()
        self._part_size = part_size
        self.stem = nn.Sequential(convolution(3, width), nn.ReLU(), ResidualPair(width))
        self.parts = Tower(width)
        self.part_code = nn.Linear(self.parts.code_inputs(part_size, part_size), part_width)
        self.background = Tower(width)
        self.background_code = nn.Linear(self.background.code_inputs(*image_size), background_width)
        initialise(self)

    def forward(
        self,
        image: Float[Tensor, "batch 3 height width"],
        mask: Float[Tensor, "batch 1 height width"],
        boxes: Float[Tensor, "batch parts 4"],
        seen: Bool[Tensor, "batch parts"],
    ) -> tuple[Float[Tensor, "batch foreground"], Float[Tensor, "batch background"]]:
        """Return both codes; a part that is not seen has zeros.

        Args:
            image: RGB in [-1, 1].
            mask: 1 where the person is.
            boxes: (left, top, right, bottom) of the parts, in pixels.
            seen: Which parts are.
        """
        features = self.stem(image)
        parts = crop_and_resize(features * mask, boxes, self._part_size)
        codes = self.part_code(flattened(self.parts(parts.flatten(0, 1))[-1]))
        foreground = codes.unflatten(0, seen.shape) * seen[..., None]
        behind = self.background(features * (1 - mask))[-1]
        return foreground.flatten(1).float(), self.background_code(flattened(behind)).float()

    @staticmethod
    def creation_order(prefix: str) -> Iterator[str]:
        """Yield the convolutions' names in the order in which the authors' code makes them."""
        yield from (f"{prefix}.stem.0", f"{prefix}.stem.2.path.0", f"{prefix}.stem.2.path.2")
        yield from Tower.creation_order(f"{prefix}.parts")
        yield from Tower.creation_order(f"{prefix}.background")


class PoseDecoder(nn.Module):
    """From a code to joints."""

    def __init__(self, code_width: int, width: int) -> None:
        super().__init__()
        self.trunk = ResidualTrunk(code_width, width, rectifies_first=False)
        self.positions = nn.Linear(width, 2 * NUM_JOINTS)
        self.visibility = nn.Linear(width, NUM_JOINTS)
        for head in (self.positions, self.visibility):
            initialise(head)

    def forward(self, code: Float[Tensor, "batch code"]) -> Float[Tensor, "batch 18 3"]:
        """Return (row, column, visibility) of each joint.

        Visibility is 0 or 1, with the gradient of what was rounded; positions are not bounded.
        """
        features = self.trunk(code)
        positions = self.positions(features).unflatten(1, (NUM_JOINTS, 2)).float()
        share = torch.sigmoid(self.visibility(features).float())
        return torch.cat([positions, (share + (share.round() - share).detach())[..., None]], dim=2)


def pose_vector(pose: Pose, height: int, width: int) -> Float[Tensor, "batch 54"]:
    """Return (row, column, visibility) of each joint, a missing one as (-1, -1, 0).

    Rows and columns are -1 at the image's first pixel and 1 just beyond its last.
    """
    column, row = pose.joints.float().unbind(-1)
    visible = pose.visible
    rows = torch.where(visible, 2 * row / height - 1, -1.0)
    columns = torch.where(visible, 2 * column / width - 1, -1.0)
    return torch.stack([rows, columns, visible.float()], dim=2).flatten(1)


def pose_of(decoded: Float[Tensor, "batch 18 3"], height: int, width: int) -> Pose:
    """Return a decoded pose, its joints inside the image.

    Convention: joints are (x, y) pixels, pixel centres at integers.
    """
    row, column, visibility = decoded.float().unbind(2)
    x = ((column + 1) / 2 * width).clamp(0, width - 1)
    y = ((row + 1) / 2 * height).clamp(0, height - 1)
    joints = torch.stack([x, y], dim=2)
    return Pose(joints.masked_fill((visibility < 0.5)[..., None], torch.nan))


class Dpig(PoseTransfer):
    """Encoder, generator, pose auto-encoder and mappers, with all discriminators."""

    class Config(Frozen):
        """Published values are the defaults, for Market-1501."""

        image_height: SizeOfImages = 128
        """Height of the images in pixels."""
        image_width: SizeOfImages = 64
        """Width of the images in pixels."""
        base_width: Width = 128
        """Channels of the encoder's and the generator's first layers."""
        code_width: Width = 64
        """Numbers that the generator squeezes an image through."""
        part_size: Annotated[Width, Field(multiple_of=SMALLEST)] = 48
        """Edge of the squares in which the parts of a body are looked at."""
        part_code_width: Width = 32
        """Numbers that say what one of seven parts looks like."""
        background_code_width: Width = 128
        """Numbers of the code of a background."""
        pose_code_width: Width = 32
        """Numbers of the code of a pose."""
        hidden_width: Annotated[Width, Field(multiple_of=2)] = 512
        """Of all networks over codes; the background's mapper has half of it."""
        discriminator_width: Width = 64
        """Channels of the first layer of the images' discriminator."""
        weight_l1: NotNegative = 20.0
        """Weight of the mean absolute difference from the real image."""
        weight_pose: NotNegative = 20.0
        """Weight of the difference between poses and what their codes give back."""
        batch_size: Positive = 16
        """Pairs per step."""
        steps: Positive = 120_000
        """Steps of the first stage: images taken apart and put together."""
        pose_batch_size: Positive = 64
        """Poses per step of the stage that learns their codes."""
        pose_steps: Count = 60_000
        """Steps of the pose auto-encoder, and then as many of the mapper to its codes."""
        mapper_batch_size: Positive = 32
        """Codes per step of the stages that learn to draw some."""
        mapper_steps: Count = 120_000
        """Steps of the mappers to foregrounds and backgrounds."""
        learning_rate: NotNegative = 2e-5
        """Learning rate of all networks."""
        halving_steps: Positive = 50_000
        """Steps of a stage after which its learning rate is halved, again and again."""
        noise_deviation: AboveZero = 0.2
        """Standard deviation of the noise that mappers turn into codes."""
        largest_weight: AboveZero = 0.01
        """To which the weights of the codes' discriminators are clipped."""
        discriminator_updates: Positive = 5
        """Of a codes' discriminator for one of its mapper."""

    class Options(Frozen):
        """Which factors are drawn at random; the others are the source's and the target pose."""

        sample_foreground: bool = False
        """Draw another person."""
        sample_background: bool = False
        """Draw what is behind."""
        sample_pose: bool = False
        """Draw the pose."""

    factors: ClassVar[tuple[str, ...]] = FACTORS
    draws_people: ClassVar[bool] = True
    options_beyond_labels: ClassVar[tuple[str, ...]] = ("sample_foreground", "sample_pose")
    sampling: ClassVar[tuple[str, ...]] = ("encoder", "generator", "pose_autoencoder", "mappers")
    discriminator_names: ClassVar[tuple[str, ...]] = (
        "discriminator",
        *(f"code_discriminators.{factor}" for factor in FACTORS),
    )

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or self.Config()
        size = self.image_size
        self._widths = {
            "foreground": len(PARTS) * c.part_code_width,
            "background": c.background_code_width,
            "pose": c.pose_code_width,
        }
        appearance = self._widths["foreground"] + self._widths["background"]
        self.encoder = AppearanceEncoder(
            c.base_width, c.part_code_width, c.background_code_width, c.part_size, size
        )
        self.generator = ResidualUNet(appearance + NUM_JOINTS, c.base_width, c.code_width, size)
        self.pose_autoencoder = nn.ModuleDict(
            {
                "encoder": ResidualMLP(3 * NUM_JOINTS, c.hidden_width, c.pose_code_width),
                "decoder": PoseDecoder(c.pose_code_width, c.hidden_width),
            }
        )
        self.mappers = nn.ModuleDict(
            {
                factor: ResidualMLP(
                    width, c.hidden_width // (2 if factor == "background" else 1), width
                )
                for factor, width in self._widths.items()
            }
        )
        self.discriminator = DcganDiscriminator(c.discriminator_width, size)
        self.code_discriminators = nn.ModuleDict(
            {
                factor: CodeDiscriminator(width, c.hidden_width)
                for factor, width in self._widths.items()
            }
        )

    def stages(self) -> tuple[Stage, ...]:
        """Return four stages: images, poses, then codes of appearances and of poses from noise.

        Each discriminator has images of its own in every update.
        """
        c = self.config
        halving = Halving(every=c.halving_steps)
        adam = Adam(learning_rate=c.learning_rate, beta1=0.5)
        rmsprop = RMSProp(learning_rate=c.learning_rate)

        def phase(name: str, *trains: str) -> Phase:
            return Phase(name=name, trains=trains, optimizer=adam, schedule=halving)

        def against_codes(factor: str) -> tuple[Phase, Phase]:
            mapper = Phase(
                name=f"{factor}_mapper",
                trains=(f"mappers.{factor}",),
                optimizer=rmsprop,
                schedule=halving,
            )
            discriminator = Phase(
                name=f"{factor}_discriminator",
                trains=(f"code_discriminators.{factor}",),
                optimizer=rmsprop,
                schedule=halving,
                repeat=c.discriminator_updates,
                batch="fresh",
                clamp=c.largest_weight,
            )
            return discriminator, mapper

        discriminator = phase("discriminator", "discriminator").model_copy(
            update={"batch": "fresh"}
        )
        plan = (
            (
                "images",
                (c.steps, c.batch_size),
                (discriminator, phase("generator", "encoder", "generator")),
            ),
            ("poses", (c.pose_steps, c.pose_batch_size), (phase("poses", "pose_autoencoder"),)),
            (
                "appearance_codes",
                (c.mapper_steps, c.mapper_batch_size),
                (*against_codes("foreground"), *against_codes("background")),
            ),
            ("pose_codes", (c.pose_steps, c.pose_batch_size), against_codes("pose")),
        )
        return tuple(
            Stage(name=name, steps=steps, batch_size=batch_size, phases=phases)
            for name, (steps, batch_size), phases in plan
        )

    def generate(
        self, condition: Condition, random: RowRandom, options: Frozen
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return the person of ``condition`` in the target pose, RGB in [-1, 1].

        Factors that ``options`` ask for are drawn instead, each from noise that does not depend on
        which others are.
        """
        assert isinstance(options, self.Options)
        foreground, background = self.encode(condition.image, condition.pose)
        pose = condition.target_pose
        if options.sample_foreground or options.sample_background or options.sample_pose:
            noise = {factor: random.normal(width) for factor, width in self._widths.items()}
            if options.sample_foreground:
                foreground = self.code_from("foreground", noise["foreground"])
            if options.sample_background:
                background = self.code_from("background", noise["background"])
            if options.sample_pose:
                pose = self.decode_pose(self.code_from("pose", noise["pose"]))
        return self.draw(foreground, background, pose).clamp(-1, 1)

    def encode(
        self, image: Float[Tensor, "batch 3 height width"], pose: Pose
    ) -> tuple[Float[Tensor, "batch foreground"], Float[Tensor, "batch background"]]:
        """Return the codes of the people in images, and of what is behind them.

        Args:
            image: RGB in [-1, 1].
            pose: Where the people are; of a pose without joints the foreground is zeros.
        """
        height, width = image.shape[-2:]
        mask = limb_discs(pose, height, width, MASK_RADIUS_PX)
        return self.encoder(image, mask, *part_boxes(pose, height, width))

    def take_apart(
        self, image: Float[Tensor, "batch 3 height width"], pose: Pose
    ) -> dict[str, Tensor]:
        """Return the codes of foreground, background and pose."""
        foreground, background = self.encode(image, pose)
        code = self.pose_autoencoder["encoder"](pose_vector(pose, *image.shape[-2:]))
        return {"foreground": foreground, "background": background, "pose": code}

    def put_together(
        self, codes: Mapping[str, Tensor], pose: Pose | None = None
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return the images of codes, RGB in [-1, 1], in the decoded pose or in a given one."""
        if pose is None:
            pose = self.decode_pose(codes["pose"])
        return self.draw(codes["foreground"], codes["background"], pose).clamp(-1, 1)

    def new_people(
        self, who: RowRandom, random: RowRandom, target_pose: Pose
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return drawn people before drawn backgrounds, RGB in [-1, 1], as the paper makes them.

        One foreground code per person, a fresh background code per image.
        """
        foreground = self.code_from("foreground", who.normal(self._widths["foreground"]))
        background = self.code_from("background", random.normal(self._widths["background"]))
        return self.draw(foreground, background, target_pose).clamp(-1, 1)

    def draw(
        self,
        foreground: Float[Tensor, "batch foreground"],
        background: Float[Tensor, "batch background"],
        pose: Pose,
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return the image of two codes and a pose, RGB about [-1, 1], not cut."""
        maps = discs(pose, *self.image_size)
        return self.generator(maps, torch.cat([foreground, background], dim=1)).float()

    def code_from(
        self, factor: str, noise: Float[Tensor, "batch factor"]
    ) -> Float[Tensor, "batch factor"]:
        """Return codes of a factor from standard normal noise of the same width."""
        return self.mappers[factor](self.config.noise_deviation * noise).float()

    def decode_pose(self, code: Float[Tensor, "batch code"]) -> Pose:
        """Return the poses of codes, in pixels of the network's images."""
        return pose_of(self.pose_autoencoder["decoder"](code), *self.image_size)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images that the network was made for."""
        return self.config.image_height, self.config.image_width

    def run(self, pair: Pair, stage: str) -> Mapping[str, Tensor]:
        """Return what the phases of a stage look at; the target of a pair plays no part.

        ``fake``, the source put together again; ``decoded`` and ``vector`` of its pose; or for the
        factors of a stage their ``real_FACTOR`` codes and ``drawn_FACTOR`` ones.
        """
        image, pose = pair.condition.image, pair.condition.pose
        if stage == "images":
            return {"fake": self.draw(*self.encode(image, pose), pose)}
        if stage == "appearance_codes":
            with torch.no_grad():
                foreground, background = self.encode(image, pose)
            return self._codes({"foreground": foreground, "background": background})
        vector = pose_vector(pose, *image.shape[-2:])
        # In bfloat16 joints would be off by half a pixel.
        with torch.autocast(image.device.type, enabled=False):
            code = self.pose_autoencoder["encoder"](vector)
            if stage == "pose_codes":
                return self._codes({"pose": code.detach()})
            decoded = self.pose_autoencoder["decoder"](code)
            return {"vector": vector, "decoded": decoded.flatten(1)}

    def _codes(self, real: Mapping[str, Tensor]) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = {}
        for factor, codes in real.items():
            with torch.autocast(codes.device.type, enabled=False):
                drawn = self.code_from(factor, torch.randn_like(codes))
            outputs |= {f"real_{factor}": codes, f"drawn_{factor}": drawn}
        return outputs

    def losses(self, phase: str, pair: Pair, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the published terms of one phase, weighted."""
        c, image = self.config, pair.condition.image
        if phase == "generator":
            fake = outputs["fake"]
            return {
                "fool": cross_entropy(self.discriminator(fake), real=True),
                "l1": c.weight_l1 * F.l1_loss(fake, image),
            }
        if phase == "discriminator":
            real = cross_entropy(self.discriminator(image), real=True)
            made = cross_entropy(self.discriminator(outputs["fake"].detach()), real=False)
            return {"real": 0.5 * real, "made": 0.5 * made}
        if phase == "poses":
            return {"l2": c.weight_pose * F.mse_loss(outputs["decoded"], outputs["vector"])}
        factor, _, trained = phase.partition("_")
        score, drawn = self.code_discriminators[factor], outputs[f"drawn_{factor}"]
        if trained == "mapper":
            return {"drawn": -score(drawn).mean()}
        real = outputs[f"real_{factor}"]
        return {"drawn": score(drawn.detach()).mean(), "real": -score(real).mean()}

    @classmethod
    def from_official(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return TensorFlow variables under our names, those of all networks or of some."""
        return from_tensorflow(weights, RENAMED)

    @classmethod
    def official_name(cls, name: str) -> str:
        """Return what the authors' code calls a tensor of ours."""
        return original(name, RENAMED)


_DENSE: Final = "fully_connected"

RENAMED: Final = {
    **slim_names("Encoder/G_encoder", "Conv", AppearanceEncoder.creation_order("encoder")),
    **slim_names("Encoder/G_encoder", _DENSE, ("encoder.part_code", "encoder.background_code")),
    **slim_names("ID_AE/G", "Conv", ResidualUNet.creation_order("generator")),
    **slim_names("ID_AE/G", _DENSE, ("generator.to_code", "generator.from_code")),
    **slim_names(
        "PoseAE/G_Pose_Encoder", _DENSE, ResidualMLP.creation_order("pose_autoencoder.encoder")
    ),
    **slim_names(
        "PoseAE/G_Pose_Decoder",
        _DENSE,
        chain(
            ResidualTrunk.creation_order("pose_autoencoder.decoder.trunk"),
            ("pose_autoencoder.decoder.positions", "pose_autoencoder.decoder.visibility"),
        ),
    ),
    **slim_names("Gaussian_FC_Fg/G_FC", _DENSE, ResidualMLP.creation_order("mappers.foreground")),
    **slim_names("Gaussian_FC_Bg/G_FC", _DENSE, ResidualMLP.creation_order("mappers.background")),
    **slim_names("PoseGaussian/G_FC", _DENSE, ResidualMLP.creation_order("mappers.pose")),
    **dcgan.official_names("discriminator"),
    **residual_mlp.official_names("Fg_FCDis_", "code_discriminators.foreground"),
    **residual_mlp.official_names("Bg_FCDis_", "code_discriminators.background"),
    **residual_mlp.official_names("Pose_emb_", "code_discriminators.pose"),
}
