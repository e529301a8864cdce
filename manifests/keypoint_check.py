"""Whether keypoints can be what they are taken for: coordinates, axes, size, joint order.

Measured on the published annotation of Market-1501: none of its 389,621 joints lies outside its
image, no pose has two joints at (0, 0), the head is above the hips and these above the knees in
99.98 % of the poses (in 11 to 30 % where the axes or the joint order are others), and the median
pose is 102 to 104 of 128 pixels high.

Convention: a joint is (x, y) in pixels of the stored image, pixel centres at integers; a missing
joint is (NaN, NaN).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float, Shaped

from manifests.keypoints import COCO_NAMES, HEAD, JOINT_NAMES, NUM_JOINTS, from_coco, visible
from manifests.runtime.console import UserError

MARGIN: Final = 0.1
"""How far outside its image a joint may lie, as a share of width and height."""
MAX_SHARE: Final = 0.05
"""Share of poses that may contradict pixels of their image."""
MAX_SHARE_DISORDERED: Final = 0.1
"""Share that may have the head below the hips, or these below the knees: people fall and ride."""
MAX_SHARE_SMALL: Final = 0.5
SMALL: Final = 0.25
"""From head to knees or ankles, as a share of the image's height: a crop shows one person."""
MIN_POSES: Final = 3
"""Fewer poses are refused only if all of them contradict."""

_HEAD = tuple(joint for joint in HEAD if JOINT_NAMES[joint] != "neck")
_HIPS = tuple(JOINT_NAMES.index(f"{side}_hip") for side in ("right", "left"))
_KNEES = tuple(JOINT_NAMES.index(f"{side}_knee") for side in ("right", "left"))
_ANKLES = tuple(JOINT_NAMES.index(f"{side}_ankle") for side in ("right", "left"))
_BLOCK = 65_536

Joints = Float[np.ndarray, "poses 18 2"]
Sizes = Float[np.ndarray, "poses 2"]
"""(width, height) of each image; NaN where it is not known."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """In how many poses something contradicts pixels of the stored image; counts add up."""

    poses: int = 0
    """With a joint."""
    unit: int = 0
    """All coordinates from 0 to 1, two joints or more."""
    zero: int = 0
    """A joint at exactly (0, 0)."""
    minus_one: int = 0
    """A joint at exactly (-1, -1)."""
    outside: int = 0
    """A joint far outside the image."""
    negative: int = 0
    """A coordinate far below zero."""
    ordered: int = 0
    """With head, hips and knees."""
    disordered: int = 0
    """Of these, the head below the hips or the hips below the knees."""
    whole: int = 0
    """With a head and a knee or an ankle, in an image of known height."""
    small: int = 0
    """Of these, lower than ``SMALL`` of the image."""
    largest: float = 0.0
    """The largest coordinate as a multiple of the image's width or height."""

    def __add__(self, other: Evidence) -> Evidence:
        """Return the counts of both."""
        counts = {
            name: getattr(self, name) + getattr(other, name)
            for name in self.__dataclass_fields__
            if name != "largest"
        }
        return Evidence(**counts, largest=max(self.largest, other.largest))

    @property
    def fits(self) -> bool:
        """Whether nothing contradicts."""
        return self.contradiction() is None

    def contradiction(self) -> str | None:
        """Return the kind of what contradicts most plainly, the name of its count."""
        for kind in ("unit", "zero", "minus_one", "outside"):
            if _too_many(getattr(self, kind), self.poses, MAX_SHARE):
                return kind
        if _too_many(self.small, self.whole, MAX_SHARE_SMALL):
            return "small"
        if _too_many(self.disordered, self.ordered, MAX_SHARE_DISORDERED):
            return "disordered"
        return None


def evidence(joints: Joints, sizes: Sizes) -> Evidence:
    """Return what speaks against these joints being pixels of images of these sizes.

    >>> joints = np.full((1, 18, 2), 0.5)
    >>> evidence(joints, np.array([[64.0, 128.0]])).contradiction()
    'unit'
    """
    total = Evidence()
    for first in range(0, len(joints), _BLOCK):
        block = slice(first, first + _BLOCK)
        total += _of_block(joints[block], sizes[block])
    return total


class KeypointCheck:
    """A check of joints that come a block at a time."""

    def __init__(self) -> None:
        self._found = Evidence()
        self._sample: tuple[Joints, Sizes] | None = None

    def add(self, joints: Joints, sizes: Sizes) -> None:
        """Look at further joints, of images of these sizes."""
        found = evidence(joints, sizes)
        self._found += found
        if self._sample is None and found.poses:
            self._sample = joints[:_BLOCK], sizes[:_BLOCK]

    def finish(self, where: str) -> None:
        """Check that all of them can be pixels of their images, in our joint order.

        Raises:
            UserError: If more than a small share contradicts; says how many of how many, what is
                the likely cause, and what reads it right.
        """
        if self._sample is not None and not self._found.fits:
            raise UserError(f"{where}: {_problem(self._found, *self._sample)}")


def as_joints(pose: Any, name: str = "pose") -> Float[np.ndarray, "18 2"]:
    """Return the joints of what a caller calls a pose, where that is unambiguous.

    Taken are 18 x 2 numbers (x, y), and 18 x 3 with a confidence, 0 for a missing joint; arrays,
    tensors and lists.

    Args:
        pose: The joints.
        name: What the caller calls them, for messages.

    Raises:
        UserError: If it is anything else, or no joint is there.

    >>> as_joints([[5, 6, 0.9]] * 17 + [[0, 0, 0]])[16:].tolist()
    [[5.0, 6.0], [nan, nan]]
    """
    expected = f"expected {name} as {NUM_JOINTS} x 2 pixels (x, y), NaN for a missing joint"
    try:
        joints = np.array(
            pose.detach().cpu().numpy() if hasattr(pose, "detach") else pose, np.float32
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: found no array of numbers, {expected}") from error
    if joints.shape not in {(NUM_JOINTS, 2), (NUM_JOINTS, 3)}:
        found = " x ".join(map(str, joints.shape)) or "a number"
        reader = _CONVERTERS.get(joints.shape[0] if joints.ndim else 0)
        hint = f"; manifests.keypoints.{reader} gives them" if reader else ""
        raise UserError(f"{name}: found {found}, {expected}{hint}")
    if joints.shape[1] == 3:
        confidence = joints[:, 2]
        if not ((confidence >= 0) & (confidence <= 2)).all():
            raise UserError(f"{name}: found a third column that is no confidence, {expected}")
        joints = np.where(confidence[:, None] > 0, joints[:, :2], np.float32(np.nan))
    if not visible(joints).any():
        raise UserError(f"{name}: found no joint, {expected}")
    return joints


_CONVERTERS: Final = {17: "from_coco", 25: "from_openpose25"}


def check_keypoints(joints: Joints, sizes: Sizes, where: str) -> None:
    """Check joints that are all at hand, as ``KeypointCheck`` does.

    Raises:
        UserError: See ``KeypointCheck.finish``.
    """
    check = KeypointCheck()
    check.add(joints, sizes)
    check.finish(where)


def _problem(found: Evidence, joints: Joints, sizes: Sizes) -> str:
    """Return what contradicts, why probably, and the flag of ``augment index`` that helps.

    Args:
        found: What ``evidence`` found.
        joints: Some of the joints, to try readings on.
        sizes: Of their images.
    """
    kind = found.contradiction()
    assert kind is not None, "asked only where something contradicts"
    of = {"disordered": found.ordered, "small": found.whole}.get(kind, found.poses)
    counted = f"{getattr(found, kind):,} of {of:,} poses"
    other = _other_reading(joints, sizes) if kind in _READINGS_HELP else None
    likely = other or _likely(kind, found)
    return (
        f"found {counted} {_WHAT[kind]}; expected (x, y) pixels of the stored image in OpenPose's "
        f"order of 18 joints, a missing joint NaN. {likely}"
    )


_READINGS_HELP: Final = ("outside", "disordered", "small")
_WHAT: Final = {
    "unit": "with all coordinates from 0 to 1",
    "zero": "with a joint at 0,0",
    "minus_one": "with a joint at -1,-1",
    "outside": "with a joint outside its image",
    "small": f"lower than {SMALL:.0%} of their image",
    "disordered": "with the head below the hips or these below the knees",
}


def _likely(kind: str, found: Evidence) -> str:
    if kind == "outside" and found.negative > found.outside / 2:
        return "Likely counted from another point than the image's top-left corner"
    if kind == "outside":
        return (
            f"Likely made for an image {found.largest:.1f} times as large: 'augment index "
            "--keypoint-scale WIDTHxHEIGHT' names its size"
        )
    return {
        "unit": "Likely shares of width and height: 'augment index --keypoint-scale unit'",
        "zero": "Likely 0,0 for a missing joint: 'augment index --keypoint-missing zero'",
        "minus_one": "Likely -1 for a missing joint: store NaN, or give the file to 'augment "
        "index --keypoints'",
        "small": "Likely made for a smaller image: 'augment index --keypoint-scale WIDTHxHEIGHT' "
        "names its size",
        "disordered": "Likely another joint order: 'augment index --keypoint-format' names it",
    }[kind]


def _other_reading(joints: Joints, sizes: Sizes) -> str | None:
    """Return the other reading in which the fewest poses stand on their heads, if one fits."""
    fitting: list[tuple[float, str]] = []
    for reading, (cause, flag) in _READINGS:
        found = evidence(reading(joints), sizes)
        # A reading without head, hips and knees fits anything.
        if found.fits and 2 * found.ordered > found.poses:
            share = found.disordered / found.ordered
            fitting.append((share, f"{cause}: 'augment index {flag}'"))
    return min(fitting)[1] if fitting else None


def _swapped(joints: Joints) -> Joints:
    return joints[..., ::-1]


def _from_coco17(joints: Joints) -> Joints:
    return from_coco(joints[:, : len(COCO_NAMES)])


def _from_body25(joints: Joints) -> Joints:
    """Return 18 joints of the first 18 of OpenPose's 25, without the left ear."""
    ours = np.full_like(joints, np.nan)
    # A hip in the middle comes before the right one; eyes and ears follow the left ankle.
    ours[:, :8], ours[:, 8:17] = joints[:, :8], joints[:, 9:18]
    return ours


_READINGS: Final[tuple[tuple[Callable[[Joints], Joints], tuple[str, str]], ...]] = (
    (_swapped, ("Likely y before x", "--keypoint-order yx")),
    (_from_coco17, ("Likely COCO's joint order", "--keypoint-format coco17")),
    (_from_body25, ("Likely OpenPose's order of 25 joints", "--keypoint-format openpose25")),
)


def _too_many(count: int, of: int, share: float) -> bool:
    return count > 0 and (count == of or (count >= MIN_POSES and count > share * of))


def _of_block(joints: Joints, sizes: Sizes) -> Evidence:
    there = visible(joints)
    number = there.sum(axis=1)
    points = np.where(there[..., None], joints, np.nan).astype(np.float64)
    at_zero = (points == 0).all(axis=-1).any(axis=1)
    at_minus_one = (points == -1).all(axis=-1).any(axis=1)
    # NaN compares as false; a size that is not known contradicts nothing.
    in_unit = ((points >= 0) & (points <= 1)).all(axis=-1) | ~there
    sizes = np.asarray(sizes, np.float64)[:, None]
    low, high = -0.5 - MARGIN * sizes, (1 + MARGIN) * sizes - 0.5
    beyond = ((points < low) | (points > high)).any(axis=-1)
    beyond &= ~(points == -1).all(axis=-1)
    ordered, disordered = _order(points[..., 1])
    whole, small = _small(points[..., 1], sizes[:, 0, 1])
    multiples = (points / sizes)[np.isfinite(points / sizes)]
    return Evidence(
        poses=int((number > 0).sum()),
        unit=int((in_unit.all(axis=1) & (number > 1) & ~at_zero).sum()),
        zero=int(at_zero.sum()),
        minus_one=int(at_minus_one.sum()),
        outside=int(beyond.any(axis=1).sum()),
        negative=int((beyond & (points < low).any(axis=-1)).any(axis=1).sum()),
        ordered=int(ordered.sum()),
        disordered=int((ordered & disordered).sum()),
        whole=int(whole.sum()),
        small=int((whole & small).sum()),
        largest=float(multiples.max(initial=0.0)),
    )


def _order(
    y: Float[np.ndarray, "poses 18"],
) -> tuple[Bool[np.ndarray, " poses"], Bool[np.ndarray, " poses"]]:
    """Return which poses have head, hips and knees, and which have them in another order."""
    head, hips, knees = (_mean(y[:, [*part]]) for part in (_HEAD, _HIPS, _KNEES))
    decidable = np.isfinite(head) & np.isfinite(hips) & np.isfinite(knees)
    with np.errstate(invalid="ignore"):
        return decidable, ~((head < hips) & (hips < knees))


def _small(
    y: Float[np.ndarray, "poses 18"], heights: Shaped[np.ndarray, " poses"]
) -> tuple[Bool[np.ndarray, " poses"], Bool[np.ndarray, " poses"]]:
    """Return which poses reach from the head to a knee or an ankle, and which of them are small."""
    legs = y[:, [*_KNEES, *_ANKLES]]
    whole = np.isfinite(y[:, [*_HEAD]]).any(axis=1) & np.isfinite(legs).any(axis=1)
    whole &= np.isfinite(heights)
    low = np.where(np.isfinite(y), y, np.inf).min(axis=1)
    high = np.where(np.isfinite(y), y, -np.inf).max(axis=1)
    return whole, high - low < SMALL * heights


def _mean(y: Float[np.ndarray, "poses joints"]) -> Float[np.ndarray, " poses"]:
    there = ~np.isnan(y)
    number = there.sum(axis=1)
    total = np.where(there, y, 0.0).sum(axis=1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)
