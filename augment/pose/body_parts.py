"""Where the parts of a body lie in two poses, and which pixels of the source belong to each.

Convention: joints are (x, y) pixels, pixel centres at integers, origin at the centre of the
top-left pixel. A part has coordinates of its own, (along, across) its axis in pixels of the source
image; ``along`` is 0 at the part's first point and grows towards its second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from augment.pose.pose import Pose
from manifests.compute.devices import upload
from manifests.keypoints import JOINT_NAMES, MIRROR, TORSO


@dataclass(frozen=True, slots=True)
class Limb:
    """One bone with its flesh and clothes; radii are shares of the torso's length."""

    start: str
    """The joint nearer to the torso, without its side."""
    end: str
    start_radius: float
    end_radius: float
    beyond: float
    """How far pixels past the last joint belong to it (hand, foot), a share of the bone."""


THIGH: Final = Limb("hip", "knee", 0.24, 0.24, beyond=0.0)
SHIN: Final = Limb("knee", "ankle", 0.20, 0.20, beyond=0.25)
UPPER_ARM: Final = Limb("shoulder", "elbow", 0.17, 0.17, beyond=0.0)
FOREARM: Final = Limb("elbow", "wrist", 0.17, 0.15, beyond=0.25)

LIMBS: Final = (THIGH, THIGH, SHIN, SHIN, UPPER_ARM, UPPER_ARM, FOREARM, FOREARM)
"""In the painter's order; of a pair, the one farther from the camera comes first."""
NUM_LEGS: Final = 4
"""How many limbs are painted before the torso; the head is painted last of all."""
TORSO_MARGIN: Final = 0.20
"""How far the torso reaches beyond its four joints, a share of its length."""
HEAD_CENTRE: Final = (0.26, 0.50)
"""Between which heights above the neck the head's axis lies, shares of the torso's length."""
HEAD_RADIUS: Final = 0.30

MIN_TORSO_PX: Final = 4.0
"""A shorter torso tells neither scale nor direction: nobody is moved."""
SCALE_LIMITS: Final = (0.25, 4.0)
"""A torso that grows by a factor beyond them is a wrong detection: nobody is moved."""
WIDTH_LIMITS: Final = (0.6, 1.6)
"""Between which factors a torso may change its width relative to its length."""
MIN_TURNED_WIDTH: Final = 0.25
"""A torso narrower than this share of its length is seen from the side, not front or back."""
MIN_BONE: Final = 0.08
"""A bone shorter than this share of the torso points at the camera: its direction is noise."""
SHORTENED: Final = 0.4
"""A bone shorter than this share of the other side's shows too little: the other is borrowed."""
MAX_STRETCH: Final = 4.0
"""A bone that grows by more, relative to the torso, is left out rather than smeared."""
MAX_POSITION_PX: Final = 1e5
"""Joints farther out are missing: float32 could not place a pixel there."""

TINY: Final = 1e-6
"""Below any length that is divided by."""

_NOSE: Final = JOINT_NAMES.index("nose")
_NECK: Final = JOINT_NAMES.index("neck")
_RIGHT_SHOULDER, _LEFT_SHOULDER, _RIGHT_HIP, _LEFT_HIP = TORSO
_RIGHT_LEG: Final = [JOINT_NAMES.index(f"right_{name}") for name in ("hip", "knee", "ankle")]
_LEFT_LEG: Final = [MIRROR[joint] for joint in _RIGHT_LEG]


@dataclass(frozen=True, slots=True)
class Body:
    """Poses and what follows from them; where there is no torso, the numbers mean nothing."""

    joints: Float[Tensor, "batch 18 2"]
    """Missing joints lie at 0."""
    visible: Bool[Tensor, "batch 18"]
    shoulders: Float[Tensor, "batch 2"]
    """Between both."""
    spine: Float[Tensor, "batch 2"]
    """From between the shoulders to between the hips."""
    length: Float[Tensor, " batch"]
    """Of the spine."""
    has_torso: Bool[Tensor, " batch"]

    @classmethod
    def of(cls, pose: Pose) -> Body:
        """Return what follows from poses."""
        joints = pose.joints.float()
        # NaN and infinity, too, fail the comparison.
        visible = (joints.abs() <= MAX_POSITION_PX).all(dim=-1)
        joints = torch.where(visible[..., None], joints, 0.0)
        shoulders = (joints[:, _RIGHT_SHOULDER] + joints[:, _LEFT_SHOULDER]) / 2
        spine = (joints[:, _RIGHT_HIP] + joints[:, _LEFT_HIP]) / 2 - shoulders
        length = spine.norm(dim=-1)
        has_torso = visible[:, TORSO].all(dim=1) & (length >= MIN_TORSO_PX)
        return cls(joints, visible, shoulders, spine, length.clamp(min=MIN_TORSO_PX), has_torso)

    @property
    def across(self) -> Float[Tensor, "batch 2 2"]:
        """From right to left: shoulders, hips."""
        left, right = [_LEFT_SHOULDER, _LEFT_HIP], [_RIGHT_SHOULDER, _RIGHT_HIP]
        return self.joints[:, left] - self.joints[:, right]

    @property
    def width(self) -> Float[Tensor, " batch"]:
        """Of shoulders or hips, whichever are wider, as a share of the spine's length."""
        return self.across.norm(dim=-1).amax(dim=1) / self.length

    @property
    def handedness(self) -> Float[Tensor, " batch"]:
        """Above 0 in front view, below 0 in back view."""
        return -_cross(self.spine, self.across.sum(dim=1))

    @property
    def neck(self) -> Float[Tensor, "batch 2"]:
        """Between the shoulders if it is missing."""
        return torch.where(self.visible[:, _NECK, None], self.joints[:, _NECK], self.shoulders)

    @property
    def facing(self) -> Float[Tensor, " batch"]:
        """How far the nose lies to the right of the neck in the image; 0 if it is not seen."""
        return (self.joints[:, _NOSE, 0] - self.neck[:, 0]) * self.visible[:, _NOSE]


@dataclass(frozen=True, slots=True)
class Frames:
    """A part's first point and its axis, as long as the part is."""

    origin: Float[Tensor, "batch parts 2"]
    axis: Float[Tensor, "batch parts 2"]

    def between(self, cut: slice) -> Frames:
        """Return some of the parts."""
        return Frames(self.origin[:, cut], self.axis[:, cut])

    @classmethod
    def concatenated(cls, groups: Sequence[Frames]) -> Frames:
        """Return the parts of all groups, one group after the other."""
        origins, axes = [group.origin for group in groups], [group.axis for group in groups]
        return cls(torch.cat(origins, dim=1), torch.cat(axes, dim=1))

    @property
    def length(self) -> Float[Tensor, "batch parts"]:
        """In pixels."""
        return self.axis.norm(dim=-1)

    @property
    def unit(self) -> Float[Tensor, "batch parts 2"]:
        """The direction of the axis; 0 if it has none."""
        return self.axis / self.length.clamp(min=TINY)[..., None]


@dataclass(frozen=True, slots=True)
class Parts:
    """Parts in both images, and which pixels belong to them."""

    source: Frames
    target: Frames
    across: Float[Tensor, "batch parts"]
    """Pixels of the source per pixel of the target across the axis; below 0 where mirrored."""
    region: Float[Tensor, "batch parts 5"]
    """A trapezoid grown by a radius, in pixels of the source: where it starts and ends along the
    axis, half its width at either end, the radius."""
    seen: Bool[Tensor, "batch parts"]
    """Whether the source has the part, or the one of the other side that is borrowed."""
    valid: Bool[Tensor, "batch parts"]
    """Whether it is moved."""

    def between(self, first: int, last: int) -> Parts:
        """Return the parts from ``first`` to before ``last``."""
        cut = slice(first, last)
        source, target = self.source.between(cut), self.target.between(cut)
        flags = self.seen[:, cut], self.valid[:, cut]
        return Parts(source, target, self.across[:, cut], self.region[:, cut], *flags)

    def unmoved(self) -> Parts:
        """Return the parts where the source has them."""
        return replace(
            self, target=self.source, across=torch.ones_like(self.across), valid=self.seen
        )

    @classmethod
    def concatenated(cls, groups: Sequence[Parts]) -> Parts:
        """Return the parts of all groups, one group after the other."""
        return cls(
            Frames.concatenated([group.source for group in groups]),
            Frames.concatenated([group.target for group in groups]),
            torch.cat([group.across for group in groups], dim=1),
            torch.cat([group.region for group in groups], dim=1),
            torch.cat([group.seen for group in groups], dim=1),
            torch.cat([group.valid for group in groups], dim=1),
        )


def body_parts(pose: Pose, target_pose: Pose) -> Parts:
    """Return all parts in the painter's order: legs, torso, arms, head."""
    source, target = Body.of(pose), Body.of(target_pose)
    # Of a person who is shown from behind instead of from the front, everything is mirrored.
    seen = torch.minimum(source.width, target.width) > MIN_TURNED_WIDTH
    turned = seen & (source.handedness * target.handedness < 0)
    limbs = _limbs(source, target, turned)
    legs, arms = limbs.between(0, NUM_LEGS), limbs.between(NUM_LEGS, len(LIMBS))
    torso, head = _torso(source, target, turned), _head(source, target)
    parts = Parts.concatenated([legs, torso, arms, head])
    scale = target.length / source.length
    usable = source.has_torso & target.has_torso
    usable = usable & (scale >= SCALE_LIMITS[0]) & (scale <= SCALE_LIMITS[1])
    return replace(parts, valid=parts.valid & usable[:, None])


def _limbs(source: Body, target: Body, turned: Bool[Tensor, " batch"]) -> Parts:
    device = source.joints.device
    right = [[JOINT_NAMES.index(f"right_{n}") for n in (m.start, m.end)] for m in LIMBS]
    left = [[MIRROR[joint] for joint in pair] for pair in right]
    pairs = upload(torch.tensor([right, left]), device)
    leg = _left_leg_near(target)[:, None].expand(-1, NUM_LEGS)
    arm = _left_arm_near(target)[:, None].expand(-1, len(LIMBS) - NUM_LEGS)
    is_near = torch.arange(len(LIMBS), device=device) % 2 == 1
    is_left = torch.cat([leg, arm], dim=1) == is_near
    own = torch.where(is_left[..., None], pairs[1], pairs[0])
    other = torch.where(is_left[..., None], pairs[0], pairs[1])

    scale = (target.length / source.length)[:, None]
    goal, goal_there = _bones(target, own)
    mine, there = _bones(source, own)
    theirs, theirs_there = _bones(source, other)
    borrowed = theirs_there & (~there | (mine.length < SHORTENED * theirs.length))
    frames = Frames(
        torch.where(borrowed[..., None], theirs.origin, mine.origin),
        torch.where(borrowed[..., None], theirs.axis, mine.axis),
    )
    stretch = goal.length / frames.length.clamp(min=TINY) / scale
    seen = there | theirs_there
    valid = goal_there & seen & (stretch <= MAX_STRETCH)
    numbers = [[0.0, 1 + m.beyond, m.start_radius - m.end_radius, 0.0, m.end_radius] for m in LIMBS]
    torso = source.length[:, None].expand_as(stretch)
    units = torch.stack([frames.length] * 2 + [torso] * 3, dim=-1)
    region = units * upload(torch.tensor(numbers), device)
    mirrored = 1.0 - 2.0 * (borrowed ^ turned[:, None])
    return Parts(frames, goal, mirrored / scale, region, seen, valid)


def _bones(
    body: Body, pairs: Int64[Tensor, "batch parts 2"]
) -> tuple[Frames, Bool[Tensor, "batch parts"]]:
    """Return the bones between pairs of joints, and which of them have a direction."""
    rows = torch.arange(len(pairs), device=pairs.device)[:, None, None]
    ends = body.joints[rows, pairs]
    bones = Frames(ends[:, :, 0], ends[:, :, 1] - ends[:, :, 0])
    long = bones.length >= MIN_BONE * body.length[:, None]
    return bones, body.visible[rows, pairs].all(dim=-1) & long


def _left_leg_near(body: Body) -> Bool[Tensor, " batch"]:
    """Return whether the left leg covers the right: it reaches lower before a camera above."""
    return _lowest(body, _LEFT_LEG) > _lowest(body, _RIGHT_LEG)


def _lowest(body: Body, joints: list[int]) -> Float[Tensor, " batch"]:
    return torch.where(body.visible, body.joints[..., 1], -torch.inf)[:, joints].amax(dim=1)


def _left_arm_near(body: Body) -> Bool[Tensor, " batch"]:
    """Return whether the left arm covers the right: it does for who looks to the left."""
    lower = body.joints[:, _LEFT_SHOULDER, 1] - body.joints[:, _RIGHT_SHOULDER, 1]
    return torch.where(body.facing == 0, lower > 0, body.facing < 0)


def _torso(source: Body, target: Body, turned: Bool[Tensor, " batch"]) -> Parts:
    frames = Frames(source.shoulders[:, None], source.spine[:, None])
    goal = Frames(target.shoulders[:, None], target.spine[:, None])
    wider = (target.width / source.width.clamp(min=TINY)).clamp(*WIDTH_LIMITS)
    across = (1.0 - 2.0 * turned) / (wider * target.length / source.length)
    # Half a line from right to left, along the spine and across it.
    half_across, unit = source.across / 2, frames.unit
    along = (half_across * unit).sum(dim=-1).abs()
    beside = _cross(unit, half_across).abs()
    length, margin = source.length, TORSO_MARGIN * source.length
    region = [-along[:, 0], length + along[:, 1], beside[:, 0], beside[:, 1], margin]
    there = torch.ones_like(turned)[:, None]
    return Parts(frames, goal, across[:, None], torch.stack(region, dim=-1)[:, None], there, there)


def _head(source: Body, target: Body) -> Parts:
    # Along the torso's axis: head joints say more about where somebody looks.
    frames = Frames(source.neck[:, None], -source.spine[:, None])
    goal = Frames(target.neck[:, None], -target.spine[:, None])
    mirrored = 1.0 - 2.0 * (source.facing * target.facing < 0)
    shares = source.length.new_tensor([*HEAD_CENTRE, 0, 0, HEAD_RADIUS])
    region = (source.length[:, None] * shares)[:, None]
    across = mirrored * source.length / target.length
    there = torch.ones_like(across[:, None]).bool()
    return Parts(frames, goal, across[:, None], region, there, there)


def _cross(a: Float[Tensor, "*batch 2"], b: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
