"""Poses of made-up people: joint angles to a skeleton, the skeleton to tubes and 18 joints.

Convention: the body frame of ``manifests.figures`` (x to the person's left, y up, z forward, one
unit is the body's height).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from manifests.dice import Dice
from manifests.figures import (
    HEIGHT,
    WIDTH,
    Drawing,
    Point,
    Profile,
    Texture,
    Tube,
    View,
    points_array,
    profile,
)
from manifests.keypoints import JOINT_NAMES, NUM_JOINTS
from manifests.wardrobe import Person

SIDES: Final = (("right", -1), ("left", 1))

_ARM_POSES: Final = ("swing", "pocket", "phone", "bent", "chest", "raised")
_FORGOTTEN: Final = 0.025
"""Chance that a pose estimator misses a joint that can be seen."""


@dataclass(frozen=True, slots=True)
class Arm:
    """Angles in radians: swing forward, spread outward, bend of the elbow, turn inward."""

    swing: float
    spread: float
    bend: float
    inward: float


@dataclass(frozen=True, slots=True)
class Leg:
    """Angles in radians: thigh forward, thigh outward, bend of the knee."""

    swing: float
    spread: float
    bend: float


@dataclass(frozen=True, slots=True)
class Posture:
    """A body's joint angles in one image; pairs are (right, left)."""

    arms: tuple[Arm, Arm]
    legs: tuple[Leg, Leg]
    lean: float
    head_turn: float


def posture_of(dice: Dice, person: Person) -> Posture:
    """Return a random posture: mostly a phase of the walking cycle, else standing."""
    walks = dice.chance(0.78)
    stride = dice.between(0.28, 0.5) if walks else dice.between(0.0, 0.07)
    phase = dice.between(0.0, 2 * np.pi)
    legs = tuple(
        Leg(
            swing=stride * float(np.sin(phase + turn)) + 0.04,
            spread=dice.between(0.0, 0.05),
            bend=0.06 + 1.7 * stride * max(float(np.cos(phase + turn)), 0.0) ** 1.5,
        )
        for turn in (0.0, np.pi)
    )
    arms = tuple(
        _arm(dice, person, side, -0.85 * stride * float(np.sin(phase + turn)))
        for (_, side), turn in zip(SIDES, (0.0, np.pi), strict=True)
    )
    return Posture(
        arms=(arms[0], arms[1]),
        legs=(legs[0], legs[1]),
        lean=dice.between(-0.02, 0.09),
        head_turn=dice.bell(0.3),
    )


def _arm(dice: Dice, person: Person, side: int, swing: float) -> Arm:
    jitter = dice.bell(0.08)
    pose = dice.pick(_ARM_POSES, (66, 8, 7, 11, 5, 3))
    if person.carries == "hand bag" and side == person.bag_side:
        pose = "swing"
        swing *= 0.4
    spread = 0.06 + dice.between(0.0, 0.14)
    if pose == "pocket":
        return Arm(-0.25 + jitter, spread + 0.16, 0.75, 0.25)
    if pose == "phone":
        return Arm(0.45 + jitter, spread, 2.3, 0.35)
    if pose == "bent":
        return Arm(0.2 + jitter, spread, 1.4 + 2 * jitter, 0.45)
    if pose == "chest":
        return Arm(0.25 + jitter, spread, 1.9, 0.9)
    if pose == "raised":
        return Arm(1.5 + 3 * jitter, spread, 0.8, 0.1)
    return Arm(swing + jitter, spread, 0.18 + max(swing, 0.0) * 0.9 + abs(jitter), 0.15)


def skeleton(person: Person, posture: Posture) -> dict[str, Point]:
    """Return the body's points: the 18 joints, and some more for drawing.

    The lower foot stands on the ground. The hips are OpenPose's, a little inside the body.
    """
    shape = person.shape
    points: dict[str, Point] = {}
    for (name, side), leg in zip(SIDES, posture.legs, strict=True):
        hip = np.array((side * 0.05 * shape.hip, 0.0, 0.0))
        knee = hip + 0.47 * shape.leg * _swung(leg.swing, leg.spread, side)
        shin = _swung(leg.swing - leg.bend, leg.spread * 0.3, side)
        ankle = knee + 0.45 * shape.leg * shin
        pitch = min(leg.swing - leg.bend, 0.0) * 0.8 + max(leg.swing - leg.bend, 0.0) * 0.5
        toe = ankle + np.array((side * 0.02, -0.028 + 0.09 * np.sin(pitch), 0.085))
        heel = ankle + np.array((0.0, -0.024, -0.012))
        for part, point in (("hip", hip), ("knee", knee), ("ankle", ankle), ("toe", toe),
                            ("heel", heel)):  # fmt: skip
            points[f"{name}_{part}"] = _point(point)
    lowest = min(points[f"{name}_{part}"][1] for name, _ in SIDES for part in ("toe", "heel"))
    points = {name: (x, y - lowest + 0.014, z) for name, (x, y, z) in points.items()}
    hips = (np.array(points["right_hip"]) + np.array(points["left_hip"])) / 2
    upright = np.array((0.0, np.cos(posture.lean), np.sin(posture.lean)))
    neck = hips + (0.83 - shape.leg) * upright
    points["hips"], points["neck"] = _point(hips), _point(neck)
    twist = 0.35 * (posture.legs[0].swing - posture.legs[1].swing)
    for (name, side), arm in zip(SIDES, posture.arms, strict=True):
        width = 0.098 * shape.shoulder
        across = np.array((side * np.cos(twist), 0.0, side * np.sin(twist)))
        shoulder = neck + width * across + np.array((0.0, -0.022, 0.0))
        elbow = shoulder + 0.165 * _swung(arm.swing, arm.spread, side)
        forearm = _swung(arm.swing + arm.bend, arm.spread * 0.4, side)
        inward = np.array((-side * np.sin(arm.inward) * np.sin(min(arm.bend, 1.57)), 0.0, 0.0))
        forearm = forearm * np.cos(arm.inward) + inward
        wrist = elbow + 0.145 * forearm / np.linalg.norm(forearm)
        hand = wrist + 0.045 * forearm / np.linalg.norm(forearm)
        for part, point in (("shoulder", shoulder), ("elbow", elbow), ("wrist", wrist),
                            ("hand", hand)):  # fmt: skip
            points[f"{name}_{part}"] = _point(point)
    head = neck + np.array((0.0, 0.098, 0.012)) + 0.05 * np.array((0.0, 0.0, np.sin(posture.lean)))
    points["head"] = _point(head)
    for name, place in _FACE.items():
        points[name] = _point(head + shape.head * _turned(np.array(place), posture.head_turn))
    return points


_FACE: Final[dict[str, Point]] = {
    "nose": (0.0, -0.012, 0.066),
    "right_eye": (-0.022, 0.008, 0.054),
    "left_eye": (0.022, 0.008, 0.054),
    "right_ear": (-0.054, -0.004, 0.0),
    "left_ear": (0.054, -0.004, 0.0),
    "crown": (0.0, 0.022, -0.004),
    "jaw": (0.0, -0.022, 0.004),
    "hair top": (0.0, 0.030, -0.014),
    "hair low": (0.0, -0.010, -0.020),
    "nape": (0.0, -0.060, -0.034),
    "curtain": (0.0, -0.150, -0.042),
    "knot": (0.0, 0.034, -0.066),
    "tail": (0.0, -0.090, -0.082),
    "hat top": (0.0, 0.050, -0.006),
    "hat low": (0.0, 0.024, -0.004),
    "brim": (0.0, 0.022, 0.075),
}


def _swung(swing: float, spread: float, side: int) -> Float[np.ndarray, "3"]:
    """Return the direction of a limb that hangs down, swung forward and spread outward."""
    down = np.cos(spread)
    return np.array((side * np.sin(spread), -down * np.cos(swing), down * np.sin(swing)))


def _turned(place: Float[np.ndarray, "3"], turn: float) -> Float[np.ndarray, "3"]:
    sine, cosine = np.sin(turn), np.cos(turn)
    x, y, z = place
    return np.array((x * cosine + z * sine, y, z * cosine - x * sine))


def _point(values: Float[np.ndarray, "3"]) -> Point:
    x, y, z = values.tolist()
    return x, y, z


def tubes(person: Person, posture: Posture, points: dict[str, Point]) -> list[Tube]:
    """Return the tubes of the dressed body."""
    return [
        *_trunk(person, points),
        *_limbs(person, points),
        *_head_tubes(person, posture, points),
        *_things(person, points),
    ]


def _round(
    start: Point, end: Point, radii: Profile, texture: Texture, roundness: float = 0.7
) -> Tube:
    return Tube(start, end, radii, radii, texture, roundness)


def _moved(point: Point, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Point:
    return point[0] + x, point[1] + y, point[2] + z


def _trunk(person: Person, points: dict[str, Point]) -> list[Tube]:
    shape, skin = person.shape, person.textures["skin"]
    girth, loose = shape.girth, 1.1 if person.top.kind in ("jacket", "hoodie") else 1.0
    width = profile(0.066, 0.102, 0.104, 0.097, 0.088, 0.088, 0.094) * np.float32(1.0)
    width *= np.interp(np.linspace(0, 1, len(width)), (0, 1), (shape.shoulder, shape.hip * girth))
    depth = profile(0.040, 0.058, 0.064, 0.062, 0.058, 0.058, 0.060) * np.float32(girth)
    neck, hips = points["neck"], points["hips"]
    hem = _moved(hips, y=-0.012 if person.bottom.kind != "skirt" else 0.03)
    pelvis = profile(0.084, 0.096, 0.086) * np.float32(shape.hip * (0.6 + 0.4 * girth))
    parts = [
        _round(_moved(neck, y=0.055, z=0.006), _moved(neck, y=-0.02), profile(0.03, 0.037), skin),
        Tube(neck, hem, width * np.float32(loose), depth * np.float32(loose),
             person.textures["torso"], 0.35),
        Tube(_moved(hips, y=0.05), _moved(hips, y=-0.045), pelvis, pelvis * np.float32(0.72),
             person.textures["pelvis"], 0.4),
    ]  # fmt: skip
    if person.bottom.kind == "skirt" or person.top.kind == "dress":
        parts.append(_skirt(person, points))
    if person.top.kind == "hoodie":
        parts.append(
            Tube(_moved(neck, y=0.03, z=-0.035), _moved(neck, y=-0.05, z=-0.055),
                 profile(0.05, 0.062, 0.04), profile(0.03, 0.03, 0.02), person.textures["hood"])
        )  # fmt: skip
    return parts


def _skirt(person: Person, points: dict[str, Point]) -> Tube:
    """Return a skirt or the lower part of a dress, wide enough for the step below it."""
    flare = profile(0.088, 0.108, 0.122) * np.float32(
        person.shape.hip * (0.5 + 0.5 * person.shape.girth)
    )
    right, left = points["right_knee"][2], points["left_knee"][2]
    share = min(person.skirt_length / (0.47 * person.shape.leg), 1.15)
    hips = points["hips"]
    step = share * (abs(right - left) / 2 + 0.064 * person.shape.girth)
    depth = np.maximum(flare * np.float32(0.8), profile(0.07, 0.064 + step / 2, step))
    end = _moved(hips, y=-person.skirt_length, z=share * ((right + left) / 2 - hips[2]))
    return Tube(_moved(hips, y=0.04), end, flare, depth, person.textures["skirt"], 0.1)


def _limbs(person: Person, points: dict[str, Point]) -> list[Tube]:
    girth, cloth = np.float32(0.5 + 0.5 * person.shape.girth), person.textures
    sleeve = {"jacket": 1.18, "hoodie": 1.15, "sleeveless": 0.9}.get(person.top.kind, 1.0)
    upper = profile(0.033, 0.032, 0.028, 0.026) * girth * np.float32(sleeve)
    lower = profile(0.026, 0.024, 0.019) * girth * np.float32(sleeve)
    if person.top.kind in ("t-shirt", "dress"):
        upper[: int(len(upper) * 0.7)] += 0.005
        lower *= 0.9
    thigh = profile(0.058, 0.052, 0.042) * girth
    shin = profile(0.041, 0.038, 0.028) * girth
    if person.bottom.kind == "trousers" and person.top.kind != "dress":
        thigh, shin = thigh * np.float32(1.08), profile(0.045, 0.042, 0.041) * girth
    elif person.bottom.kind == "shorts":
        thigh[: int(len(thigh) * 0.86)] += 0.008
    parts: list[Tube] = []
    for side, sign in SIDES:
        at = {part: points[f"{side}_{part}"] for part in
              ("shoulder", "elbow", "wrist", "hand", "hip", "knee", "ankle", "toe", "heel")}  # fmt: skip
        cuff = tuple(k + 0.85 * (a - k) for k, a in zip(at["knee"], at["ankle"], strict=True))
        end = at["ankle"] if person.bottom.kind != "trousers" else _point(np.array(cuff))
        parts += [
            _round(at["shoulder"], at["elbow"], upper, cloth["upper arm"], 0.9),
            _round(at["elbow"], at["wrist"], lower, cloth["forearm"], 0.8),
            _round(at["wrist"], at["hand"], profile(0.017, 0.019, 0.014), cloth["skin"], 0.9),
            _round(_moved(at["hip"], x=sign * 0.002), at["knee"], thigh, cloth["thigh"]),
            _round(at["knee"], end, shin, cloth["shin"], 0.5),
            _round(at["heel"], at["toe"], profile(0.026, 0.027, 0.021), cloth["shoe"], 0.9),
        ]
        if end is not at["ankle"]:
            parts.append(_round(at["ankle"], at["heel"], profile(0.022, 0.024), cloth["shoe"]))
    return parts


def _head_tubes(person: Person, posture: Posture, points: dict[str, Point]) -> list[Tube]:
    size, cloth, turn = np.float32(person.shape.head), person.textures, posture.head_turn
    wide, deep = profile(0.050, 0.054, 0.053, 0.042) * size, profile(0.056, 0.062, 0.050) * size
    parts = [
        Tube(points["crown"], points["jaw"], wide, deep, cloth["head"], 0.85, turn),
        _round(_moved(points["nose"], y=0.006), points["nose"], profile(0.006, 0.009), cloth["skin"]),
    ]
    for side, _ in SIDES:
        ear = points[f"{side}_ear"]
        parts.append(_round(_moved(ear, y=0.01), _moved(ear, y=-0.008), profile(0.010, 0.008),
                            cloth["skin"]))  # fmt: skip
    hair = cloth["hair"]
    if person.hair not in ("bald", "cropped"):
        crop = profile(0.056, 0.058, 0.05) * size
        parts.append(Tube(points["hair top"], points["hair low"], crop, crop, hair, 0.9, turn))
    if person.hair in ("long", "bob"):
        end = points["curtain" if person.hair == "long" else "nape"]
        parts.append(Tube(points["hair low"], end, profile(0.058, 0.064, 0.056),
                          profile(0.046, 0.036, 0.024), hair, 0.7, turn))  # fmt: skip
    elif person.hair == "bun":
        parts.append(_round(points["knot"], _moved(points["knot"], y=0.01), profile(0.027, 0.025),
                            hair, 0.9))  # fmt: skip
    elif person.hair == "tail":
        parts.append(_round(points["knot"], points["tail"], profile(0.02, 0.024, 0.012), hair))
    if person.hat:
        cap = profile(0.052, 0.061) * size
        parts += [
            Tube(points["hat top"], points["hat low"], cap, cap * np.float32(1.1), cloth["hat"],
                 0.6, turn),
            Tube(points["hat low"], points["brim"], profile(0.05, 0.04), profile(0.012, 0.008),
                 cloth["hat"], 0.5, turn),
        ]  # fmt: skip
    return parts


def _things(person: Person, points: dict[str, Point]) -> list[Tube]:
    bag = person.textures["bag"]
    if person.carries == "backpack":
        top = _moved(points["neck"], y=-0.03, z=-0.085)
        return [Tube(top, _moved(top, y=-0.2, z=-0.01), profile(0.068, 0.078, 0.08),
                     profile(0.03, 0.05, 0.052), bag, 0.25)]  # fmt: skip
    if person.carries == "shoulder bag":
        top = _moved(points["hips"], x=person.bag_side * 0.115, y=0.05, z=-0.01)
        return [Tube(top, _moved(top, y=-0.1), profile(0.026, 0.03), profile(0.07, 0.075), bag, 0.15)]
    if person.carries == "hand bag":
        hand = points[f"{'left' if person.bag_side == 1 else 'right'}_hand"]
        return [
            _round(hand, _moved(hand, y=-0.05), profile(0.008, 0.008), bag, 0.2),
            Tube(_moved(hand, y=-0.05), _moved(hand, y=-0.15), profile(0.022, 0.034),
                 profile(0.05, 0.062), bag, 0.15),
        ]  # fmt: skip
    return []


def joints_of(
    dice: Dice, points: dict[str, Point], posture: Posture, view: View, drawing: Drawing
) -> Float[np.ndarray, "18 2"]:
    """Return the joints as a good pose estimator would: hidden ones and a few more are missing.

    Convention: (x, y) pixels of the image, pixel centres at integers; a missing joint is NaN.
    """
    projected = view.project(points_array(points, JOINT_NAMES))
    joints = projected[:, :2].copy()
    facing = view.yaw + posture.head_turn
    for row, name in enumerate(JOINT_NAMES):
        x, y = np.round(joints[row])
        outside = not (0 <= x < WIDTH and 0 <= y < HEIGHT)
        unseen = dice.chance(_FORGOTTEN)
        luck = dice.between(0.0, 1.0)
        if outside or unseen or _hidden(name, facing, projected[row], view, drawing, luck):
            joints[row] = np.nan
    assert joints.shape == (NUM_JOINTS, 2)
    return joints


_FACE_ANGLES: Final = {
    "nose": (0.0, -0.2),
    "right_eye": (-0.5, 0.0),
    "left_eye": (0.5, 0.0),
    "right_ear": (-1.6, -0.35),
    "left_ear": (1.6, -0.35),
}
"""Direction of a face joint from the front in radians, and the least cosine that still shows."""

_GUESSED: Final = {"elbow": 0.45, "wrist": 0.2, "knee": 0.75, "ankle": 0.7}
"""Chance that an estimator places a hidden joint all the same."""


def _hidden(
    name: str, facing: float, place: Float[np.ndarray, "3"], view: View, drawing: Drawing, luck: float
) -> bool:
    if name in _FACE_ANGLES:
        angle, least = _FACE_ANGLES[name]
        # The person's left (positive angle) turns away when the person faces the image's right.
        return float(np.cos(facing + angle)) < least
    part = name.rpartition("_")[2]
    if part not in _GUESSED:
        return False
    x, y, depth = place.tolist()
    in_front = drawing.depth_at(x, y) - depth > 0.06 * view.height_px
    return in_front and luck > _GUESSED[part]
