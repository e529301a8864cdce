"""Poses of made-up people: joint angles, the skeleton that follows, and its joints in the image.

Convention: the body frame of ``manifests.people.renderer`` (x to the person's left, y up, z
forward, one unit is the body's height).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from manifests.keypoints import JOINT_NAMES
from manifests.people.clothing import Person
from manifests.people.renderer import HEIGHT, WIDTH, Point, Rendering, View
from manifests.runtime.random_numbers import KeyedRandom

SIDES: Final = (("right", -1), ("left", 1))

_ARM_POSES: Final = ("swing", "pocket", "phone", "bent", "chest", "raised")
_MISSED: Final = 0.025
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
class BodyPose:
    """A body's joint angles in one image; pairs are (right, left)."""

    arms: tuple[Arm, Arm]
    legs: tuple[Leg, Leg]
    lean: float
    head_turn: float


def sample_body_pose(rng: KeyedRandom, person: Person) -> BodyPose:
    """Return a random pose: mostly a phase of the walking cycle, else standing."""
    walks = rng.bernoulli(0.78)
    stride = rng.uniform(0.28, 0.5) if walks else rng.uniform(0.0, 0.07)
    phase = rng.uniform(0.0, 2 * np.pi)
    legs = tuple(
        Leg(
            swing=stride * float(np.sin(phase + turn)) + 0.04,
            spread=rng.uniform(0.0, 0.05),
            bend=0.06 + 1.7 * stride * max(float(np.cos(phase + turn)), 0.0) ** 1.5,
        )
        for turn in (0.0, np.pi)
    )
    arms = tuple(
        _arm(rng, person, side, -0.85 * stride * float(np.sin(phase + turn)))
        for (_, side), turn in zip(SIDES, (0.0, np.pi), strict=True)
    )
    return BodyPose(
        arms=(arms[0], arms[1]),
        legs=(legs[0], legs[1]),
        lean=rng.uniform(-0.02, 0.09),
        head_turn=rng.bounded_normal(0.3),
    )


def _arm(rng: KeyedRandom, person: Person, side: int, swing: float) -> Arm:
    jitter = rng.bounded_normal(0.08)
    pose = rng.choice(_ARM_POSES, (66, 8, 7, 11, 5, 3))
    if person.outfit.carries == "hand bag" and side == person.outfit.bag_side:
        pose = "swing"
        swing *= 0.4
    spread = 0.06 + rng.uniform(0.0, 0.14)
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


def skeleton(person: Person, pose: BodyPose) -> dict[str, Point]:
    """Return the body's points: the 18 joints, and some more for drawing.

    The lower foot stands on the ground. The hips are OpenPose's, a little inside the body.
    """
    shape = person.shape
    points: dict[str, Point] = {}
    for (name, side), leg in zip(SIDES, pose.legs, strict=True):
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
    upright = np.array((0.0, np.cos(pose.lean), np.sin(pose.lean)))
    neck = hips + (0.83 - shape.leg) * upright
    points["hips"], points["neck"] = _point(hips), _point(neck)
    twist = 0.35 * (pose.legs[0].swing - pose.legs[1].swing)
    for (name, side), arm in zip(SIDES, pose.arms, strict=True):
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
    head = neck + np.array((0.0, 0.098, 0.012)) + 0.05 * np.array((0.0, 0.0, np.sin(pose.lean)))
    points["head"] = _point(head)
    for name, offset in _FACE.items():
        points[name] = _point(head + shape.head * _turned(np.array(offset), pose.head_turn))
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


def _swung(swing: float, spread: float, side: int) -> Float[np.ndarray, " 3"]:
    """Return the direction of a limb that hangs down, swung forward and spread outward."""
    down = np.cos(spread)
    return np.array((side * np.sin(spread), -down * np.cos(swing), down * np.sin(swing)))


def _turned(point: Float[np.ndarray, " 3"], turn: float) -> Float[np.ndarray, " 3"]:
    sine, cosine = np.sin(turn), np.cos(turn)
    x, y, z = point
    return np.array((x * cosine + z * sine, y, z * cosine - x * sine))


def _point(values: Float[np.ndarray, " 3"]) -> Point:
    x, y, z = values.tolist()
    return x, y, z


def project_joints(
    rng: KeyedRandom, points: Mapping[str, Point], pose: BodyPose, view: View, rendering: Rendering
) -> Float[np.ndarray, "18 2"]:
    """Return the joints as a good pose estimator would: hidden ones and a few more are missing.

    Convention: (x, y) pixels of the image, pixel centres at integers; a missing joint is NaN.
    """
    projected = view.project(np.array([points[name] for name in JOINT_NAMES]))
    joints = projected[:, :2].copy()
    facing = view.yaw + pose.head_turn
    for row, name in enumerate(JOINT_NAMES):
        x, y = np.round(joints[row])
        is_missed, luck = rng.bernoulli(_MISSED), rng.uniform(0.0, 1.0)
        if not (0 <= x < WIDTH and 0 <= y < HEIGHT):
            joints[row] = np.nan
            continue
        in_front = (rendering.depth_at(x, y) - projected[row, 2]) / view.height_px
        if is_missed or _hidden(name, facing, in_front, luck):
            joints[row] = np.nan
    return joints


_FACE_ANGLES: Final = {
    "nose": (0.0, -0.2),
    "right_eye": (-0.5, 0.0),
    "left_eye": (0.5, 0.0),
    "right_ear": (-1.6, -0.35),
    "left_ear": (1.6, -0.35),
}
"""Direction of a face joint from the front in radians, and the least cosine that still shows."""

_FOUND_HIDDEN: Final = {"elbow": 0.45, "wrist": 0.2, "knee": 0.75, "ankle": 0.7}
"""Chance that an estimator returns a hidden joint all the same."""


def _hidden(name: str, facing: float, in_front: float, luck: float) -> bool:
    """Return whether an estimator misses a joint with ``in_front`` body heights before it."""
    if name in _FACE_ANGLES:
        angle, least = _FACE_ANGLES[name]
        # The person's left (positive angle) turns away when the person faces the image's right.
        return float(np.cos(facing + angle)) < least
    part = name.rpartition("_")[2]
    return part in _FOUND_HIDDEN and in_front > 0.06 and luck > _FOUND_HIDDEN[part]
