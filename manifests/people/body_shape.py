"""The geometry of a dressed person: tubes for trunk, limbs, head, hair and bags around a skeleton.

Convention: the body frame of ``manifests.people.renderer`` (x to the person's left, y up, z
forward, one unit is the body's height).
"""

from __future__ import annotations

import numpy as np

from manifests.people.clothing import Person
from manifests.people.pose_sampling import SIDES, BodyPose
from manifests.people.renderer import Point, Profile, Texture, Tube, profile

_LIMB_POINTS = ("shoulder", "elbow", "wrist", "hand", "hip", "knee", "ankle", "toe", "heel")


def body_tubes(person: Person, pose: BodyPose, points: dict[str, Point]) -> list[Tube]:
    """Return the tubes of the dressed body."""
    return [
        *_trunk_tubes(person, points),
        *_limb_tubes(person, points),
        *_head_tubes(person, pose, points),
        *_bag_tubes(person, points),
    ]


def _round(
    start: Point, end: Point, radii: Profile, texture: Texture, roundness: float = 0.7
) -> Tube:
    return Tube(start, end, radii, radii, texture, roundness)


def _offset(point: Point, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Point:
    return point[0] + x, point[1] + y, point[2] + z


def _trunk_tubes(person: Person, points: dict[str, Point]) -> list[Tube]:
    shape, skin = person.shape, person.textures["skin"]
    girth, loose = shape.girth, 1.1 if person.outfit.top.kind in ("jacket", "hoodie") else 1.0
    width = profile(0.066, 0.102, 0.104, 0.097, 0.088, 0.088, 0.094) * np.float32(1.0)
    width *= np.interp(np.linspace(0, 1, len(width)), (0, 1), (shape.shoulder, shape.hip * girth))
    depth = profile(0.040, 0.058, 0.064, 0.062, 0.058, 0.058, 0.060) * np.float32(girth)
    neck, hips = points["neck"], points["hips"]
    hem = _offset(hips, y=-0.012 if person.outfit.bottom.kind != "skirt" else 0.03)
    pelvis = profile(0.084, 0.096, 0.086) * np.float32(shape.hip * (0.6 + 0.4 * girth))
    parts = [
        _round(_offset(neck, y=0.055, z=0.006), _offset(neck, y=-0.02), profile(0.03, 0.037), skin),
        Tube(neck, hem, width * np.float32(loose), depth * np.float32(loose),
             person.textures["torso"], 0.35),
        Tube(_offset(hips, y=0.05), _offset(hips, y=-0.045), pelvis, pelvis * np.float32(0.72),
             person.textures["pelvis"], 0.4),
    ]  # fmt: skip
    if person.outfit.in_skirt:
        parts.append(_skirt_tube(person, points))
    if person.outfit.top.kind == "hoodie":
        parts.append(
            Tube(_offset(neck, y=0.03, z=-0.035), _offset(neck, y=-0.05, z=-0.055),
                 profile(0.05, 0.062, 0.04), profile(0.03, 0.03, 0.02), person.textures["hood"])
        )  # fmt: skip
    return parts


def _skirt_tube(person: Person, points: dict[str, Point]) -> Tube:
    """Return a skirt or the lower part of a dress, wide enough for the step below it."""
    flare = profile(0.088, 0.108, 0.122) * np.float32(
        person.shape.hip * (0.5 + 0.5 * person.shape.girth)
    )
    right, left = points["right_knee"][2], points["left_knee"][2]
    share = min(person.skirt_length / (0.47 * person.shape.leg), 1.15)
    hips = points["hips"]
    step = 1.25 * share * (abs(right - left) / 2 + 0.064 * person.shape.girth)
    depth = np.maximum(flare * np.float32(0.8), profile(0.07, 0.064 + step / 2, step))
    end = _offset(hips, y=-person.skirt_length, z=share * ((right + left) / 2 - hips[2]))
    return Tube(_offset(hips, y=0.04), end, flare, depth, person.textures["skirt"], 0.1)


def _limb_tubes(person: Person, points: dict[str, Point]) -> list[Tube]:
    girth, cloth = np.float32(0.5 + 0.5 * person.shape.girth), person.textures
    sleeve = {"jacket": 1.18, "hoodie": 1.15, "sleeveless": 0.9}.get(person.outfit.top.kind, 1.0)
    upper = profile(0.033, 0.032, 0.028, 0.026) * girth * np.float32(sleeve)
    lower = profile(0.026, 0.024, 0.019) * girth * np.float32(sleeve)
    if person.outfit.top.kind in ("t-shirt", "dress"):
        upper[: int(len(upper) * 0.7)] += 0.005
        lower *= 0.9
    thigh = profile(0.058, 0.052, 0.042) * girth
    shin = profile(0.041, 0.038, 0.028) * girth
    if person.outfit.in_skirt:
        # Slim enough at the top to stay inside the skirt.
        thigh = profile(0.028, 0.046, 0.042) * girth
    elif person.outfit.bottom.kind == "trousers":
        thigh, shin = thigh * np.float32(1.08), profile(0.045, 0.042, 0.041) * girth
    elif person.outfit.bottom.kind == "shorts":
        thigh[: int(len(thigh) * 0.86)] += 0.008
    parts: list[Tube] = []
    for side, sign in SIDES:
        at = {part: points[f"{side}_{part}"] for part in _LIMB_POINTS}
        knee, ankle = at["knee"], at["ankle"]
        cuff = _offset(knee, *(0.85 * (low - high) for high, low in zip(knee, ankle, strict=True)))
        end = (
            at["ankle"] if person.outfit.bottom.kind != "trousers" else (cuff[0], cuff[1], cuff[2])
        )
        parts += [
            _round(at["shoulder"], at["elbow"], upper, cloth["upper arm"], 0.9),
            _round(at["elbow"], at["wrist"], lower, cloth["forearm"], 0.8),
            _round(at["wrist"], at["hand"], profile(0.017, 0.019, 0.014), cloth["skin"], 0.9),
            _round(_offset(at["hip"], x=sign * 0.002), at["knee"], thigh, cloth["thigh"]),
            _round(at["knee"], end, shin, cloth["shin"], 0.5),
            _round(at["heel"], at["toe"], profile(0.026, 0.027, 0.021), cloth["shoe"], 0.9),
        ]
        if end is not at["ankle"]:
            parts.append(_round(at["ankle"], at["heel"], profile(0.022, 0.024), cloth["shoe"]))
    return parts


def _head_tubes(person: Person, pose: BodyPose, points: dict[str, Point]) -> list[Tube]:
    size, cloth, turn = np.float32(person.shape.head), person.textures, pose.head_turn
    wide, deep = profile(0.050, 0.054, 0.053, 0.042) * size, profile(0.056, 0.062, 0.050) * size
    parts = [
        Tube(points["crown"], points["jaw"], wide, deep, cloth["head"], 0.85, turn),
        _round(
            _offset(points["nose"], y=0.006), points["nose"], profile(0.006, 0.009), cloth["skin"]
        ),
    ]
    for side, _ in SIDES:
        ear = points[f"{side}_ear"]
        parts.append(_round(_offset(ear, y=0.01), _offset(ear, y=-0.008), profile(0.010, 0.008),
                            cloth["skin"]))  # fmt: skip
    hair = cloth["hair"]
    if person.outfit.hair not in ("bald", "cropped"):
        crop = profile(0.056, 0.058, 0.05) * size
        parts.append(Tube(points["hair top"], points["hair low"], crop, crop, hair, 0.9, turn))
    if person.outfit.hair in ("long", "bob"):
        end = points["curtain" if person.outfit.hair == "long" else "nape"]
        parts.append(Tube(points["hair low"], end, profile(0.058, 0.064, 0.056),
                          profile(0.046, 0.036, 0.024), hair, 0.7, turn))  # fmt: skip
    elif person.outfit.hair == "bun":
        parts.append(_round(points["knot"], _offset(points["knot"], y=0.01), profile(0.027, 0.025),
                            hair, 0.9))  # fmt: skip
    elif person.outfit.hair == "tail":
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


def _bag_tubes(person: Person, points: dict[str, Point]) -> list[Tube]:
    bag = person.textures["bag"]
    if person.outfit.carries == "backpack":
        top = _offset(points["neck"], y=-0.03, z=-0.085)
        return [Tube(top, _offset(top, y=-0.2, z=-0.01), profile(0.068, 0.078, 0.08),
                     profile(0.03, 0.05, 0.052), bag, 0.25)]  # fmt: skip
    if person.outfit.carries == "shoulder bag":
        top = _offset(points["hips"], x=person.outfit.bag_side * 0.115, y=0.05, z=-0.01)
        return [
            Tube(top, _offset(top, y=-0.1), profile(0.026, 0.03), profile(0.07, 0.075), bag, 0.15)
        ]
    if person.outfit.carries == "hand bag":
        hand = points[f"{'left' if person.outfit.bag_side == 1 else 'right'}_hand"]
        return [
            _round(hand, _offset(hand, y=-0.05), profile(0.008, 0.008), bag, 0.2),
            Tube(_offset(hand, y=-0.05), _offset(hand, y=-0.15), profile(0.022, 0.034),
                 profile(0.05, 0.062), bag, 0.15),
        ]  # fmt: skip
    return []
