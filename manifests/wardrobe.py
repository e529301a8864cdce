"""What made-up people look like: proportions, hair, and clothes from one shared wardrobe.

Garments are few and people are many, so people resemble each other in parts, as in the street.
Every texture is painted once per person and wrapped around the tubes of ``manifests.figures``:
rows run down the limb, columns around it, from the front over the person's left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np
from jaxtyping import Bool, Float

from manifests.dice import Dice
from manifests.figures import TEXTURE_COLUMNS, TEXTURE_ROWS, Texture

RGB = tuple[int, int, int]
Mask = Bool[np.ndarray, "40 64"]

NUM_TOPS: Final = 44
NUM_BOTTOMS: Final = 26

DARK: Final[tuple[RGB, ...]] = (
    (34, 34, 38), (52, 54, 60), (36, 42, 66), (58, 44, 40), (44, 56, 48), (74, 34, 42),
)  # fmt: skip
LIGHT: Final[tuple[RGB, ...]] = (
    (228, 228, 226), (196, 198, 202), (214, 204, 184), (186, 206, 222), (226, 196, 200),
)  # fmt: skip
BRIGHT: Final[tuple[RGB, ...]] = (
    (186, 42, 46), (44, 92, 168), (52, 138, 84), (226, 184, 60), (222, 112, 48), (208, 92, 140),
    (112, 72, 150), (60, 156, 168), (138, 146, 70), (150, 100, 66),
)  # fmt: skip
TROUSERS: Final[tuple[RGB, ...]] = (
    (38, 38, 42), (44, 50, 72), (62, 82, 118), (98, 124, 158), (150, 134, 106), (94, 90, 82),
    (74, 80, 60), (188, 178, 158), (112, 112, 116), (86, 58, 44),
)  # fmt: skip
SKINS: Final[tuple[RGB, ...]] = (
    (238, 200, 174), (226, 182, 150), (208, 160, 124), (176, 126, 92), (132, 90, 64), (96, 66, 48),
)  # fmt: skip
HAIRS: Final[tuple[RGB, ...]] = (
    (28, 24, 24), (44, 32, 28), (72, 48, 34), (112, 76, 46), (176, 138, 84), (140, 138, 136),
    (128, 54, 36),
)  # fmt: skip
PATTERNS: Final = ("plain", "hoops", "pinstripes", "checks", "dots", "block", "chest", "logo")
TOP_KINDS: Final = ("t-shirt", "sleeveless", "long", "shirt", "jacket", "hoodie", "dress")
BOTTOM_KINDS: Final = ("trousers", "leggings", "shorts", "skirt")


@dataclass(frozen=True, slots=True)
class Cloth:
    """One garment of the wardrobe."""

    kind: str
    colour: RGB
    second: RGB
    pattern: str
    period: float
    """Distance of stripes, checks or dots in body heights."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Proportions in body heights, or as factors of the average body."""

    leg: float
    shoulder: float
    hip: float
    girth: float
    head: float


@dataclass(frozen=True, slots=True)
class Person:
    """Everything about a person that does not change from image to image."""

    shape: Shape
    top: Cloth
    bottom: Cloth
    hair: str
    hat: bool
    carries: str
    """``nothing``, ``backpack``, ``shoulder bag`` or ``hand bag``."""
    bag_side: int
    """1 for the person's left, -1 for the right."""
    skirt_length: float
    textures: Mapping[str, Texture]


def top_of(seed: int, row: int) -> Cloth:
    """Return a top of the shared wardrobe."""
    dice = Dice(seed, f"wardrobe/top/{row}")
    kind = dice.pick(TOP_KINDS, (30, 4, 14, 12, 18, 12, 8))
    colour = _pick_colour(dice, (42, 28, 30))
    second = _pick_colour(dice, (20, 45, 35))
    if sum(abs(a - b) for a, b in zip(colour, second, strict=True)) < 130:
        second = (232, 232, 228) if sum(colour) < 360 else (38, 40, 52)
    weights = (30, 16, 6, 10, 6, 10, 10, 14)
    return Cloth(kind, colour, second, dice.pick(PATTERNS, weights), dice.between(0.035, 0.075))


def bottom_of(seed: int, row: int) -> Cloth:
    """Return trousers, leggings, shorts or a skirt of the shared wardrobe."""
    dice = Dice(seed, f"wardrobe/bottom/{row}")
    kind = dice.pick(BOTTOM_KINDS, (52, 12, 20, 16))
    colour = dice.pick(BRIGHT) if dice.chance(0.1) else dice.pick(TROUSERS)
    pattern = dice.pick(("plain", "pinstripes", "checks", "hoops"), (82, 4, 8, 6))
    second: RGB = (210, 208, 200) if sum(colour) < 330 else (70, 66, 64)
    return Cloth(kind, colour, second, pattern, dice.between(0.03, 0.06))


def person_of(seed: int, label: str) -> Person:
    """Return the person with this label; nobody else's existence changes them."""
    dice = Dice(seed, f"person/{label}")
    shape = Shape(
        leg=0.515 + dice.bell(0.014),
        shoulder=1.0 + dice.bell(0.07),
        hip=1.0 + dice.bell(0.07),
        girth=max(1.0 + dice.bell(0.13), 0.8),
        head=1.0 + dice.bell(0.05),
    )
    top = _worn(dice, top_of(seed, dice.whole(0, NUM_TOPS - 1)))
    bottom = _worn(dice, bottom_of(seed, dice.whole(0, NUM_BOTTOMS - 1)))
    skin = _near(dice, dice.pick(SKINS, (24, 24, 22, 12, 10, 8)), 6)
    hair = dice.pick(("short", "cropped", "long", "bob", "tail", "bun", "bald"),
                     (40, 14, 18, 8, 10, 5, 5))  # fmt: skip
    carries = dice.pick(
        ("nothing", "backpack", "shoulder bag", "hand bag"), (50, 20, 15, 15)
    )
    side = dice.pick((1, -1))
    return Person(
        shape=shape,
        top=top,
        bottom=bottom,
        hair=hair,
        hat=dice.chance(0.1),
        carries=carries,
        bag_side=side,
        skirt_length=dice.between(0.17, 0.32),
        textures=_textures(dice, top, bottom, skin, hair, carries, side),
    )


def _pick_colour(dice: Dice, weights: tuple[float, float, float]) -> RGB:
    return dice.pick(dice.pick((DARK, LIGHT, BRIGHT), weights))


def _near(dice: Dice, colour: RGB, spread: float) -> RGB:
    red, green, blue = (min(max(round(c + dice.bell(spread)), 8), 246) for c in colour)
    return red, green, blue


def _worn(dice: Dice, cloth: Cloth) -> Cloth:
    """Return the garment with the small differences of one person's copy."""
    return replace(cloth, colour=_near(dice, cloth.colour, 5), second=_near(dice, cloth.second, 5))


_V: Final = ((np.arange(TEXTURE_ROWS) + 0.5) / TEXTURE_ROWS)[:, None] * np.ones(TEXTURE_COLUMNS)
_ANGLE: Final = (
    ((np.arange(TEXTURE_COLUMNS) + TEXTURE_COLUMNS / 2) % TEXTURE_COLUMNS - TEXTURE_COLUMNS / 2)
    * (2 * np.pi / TEXTURE_COLUMNS)
)[None, :] * np.ones((TEXTURE_ROWS, 1))
_FRONT: Final = np.abs(_ANGLE)


def _plain(colour: RGB) -> Texture:
    return np.ones((TEXTURE_ROWS, TEXTURE_COLUMNS, 3), np.float32) * np.float32(colour)


def _fill(texture: Texture, mask: Mask, colour: RGB, share: float = 1.0) -> None:
    texture[mask] += (np.float32(colour) - texture[mask]) * np.float32(share)


def _cloth(dice: Dice, cloth: Cloth, length: float, girth: float) -> Texture:
    """Return a garment's texture on a tube of the given length and circumference."""
    texture = _plain(cloth.colour)
    down = _V * length / cloth.period
    around = np.round(girth / cloth.period) * (_ANGLE / (2 * np.pi))
    hoop, bar = down % 1.0 < 0.45, (around + 0.25) % 1.0 < 0.4
    if cloth.pattern == "hoops":
        _fill(texture, hoop, cloth.second)
    elif cloth.pattern == "pinstripes":
        _fill(texture, bar, cloth.second, 0.8)
    elif cloth.pattern == "checks":
        _fill(texture, hoop, cloth.second, 0.55)
        _fill(texture, bar, cloth.second, 0.55)
    elif cloth.pattern == "dots":
        offset = (np.floor(down) % 2) * 0.5
        distance = np.hypot(down % 1.0 - 0.5, (around + offset) % 1.0 - 0.5)
        _fill(texture, distance < 0.33, cloth.second)
    return _wrinkled(dice, texture)


def _wrinkled(dice: Dice, texture: Texture, strength: float = 0.07) -> Texture:
    folds = dice.noise(8, 8)
    folds = cv2.resize(
        np.tile(folds, (1, 3)), (TEXTURE_COLUMNS * 3, TEXTURE_ROWS), interpolation=cv2.INTER_CUBIC
    )[:, TEXTURE_COLUMNS : 2 * TEXTURE_COLUMNS]
    return (texture * (1.0 + strength * folds[:, :, None])).astype(np.float32)


def _torso(dice: Dice, top: Cloth, skin: RGB, bag: RGB, carries: str, side: int) -> Texture:
    texture = _cloth(dice, top, 0.34, 0.50)
    if top.pattern == "block":
        _fill(texture, _V > 0.52, top.second)
    elif top.pattern == "chest":
        _fill(texture, (_V > 0.28) & (_V < 0.44), top.second)
    elif top.pattern == "logo":
        _fill(texture, (_FRONT < 0.62) & (_V > 0.3) & (_V < 0.58), top.second)
    if top.kind == "jacket":
        inner = _FRONT < 0.22 + 0.35 * _V
        _fill(texture, inner, top.second)
        _fill(texture, (np.abs(_FRONT - 0.28 - 0.35 * _V) < 0.06), (24, 24, 26), 0.5)
    elif top.kind == "shirt":
        _fill(texture, _FRONT < 0.1, top.second, 0.35)
    elif top.kind == "hoodie":
        pocket = (_FRONT < 0.8) & (_V > 0.66) & (_V < 0.88)
        _fill(texture, pocket, (20, 20, 22), 0.25)
        _fill(texture, _V > 0.93, (20, 20, 22), 0.25)
    if top.kind in ("t-shirt", "sleeveless", "dress", "jacket", "shirt"):
        _fill(texture, (_V < 0.10 - 0.07 * _FRONT), skin)
    if carries == "backpack":
        _fill(texture, (np.abs(_FRONT - 0.62) < 0.13) & (_V < 0.6), bag)
    elif carries == "shoulder bag":
        drop = _V * 2.4 - 1.0
        strap = np.where(_FRONT < np.pi / 2, _ANGLE * side, np.sign(_ANGLE) * side * (np.pi - _FRONT))
        _fill(texture, np.abs(strap - drop) < 0.16, bag)
    return texture


def _sleeve(dice: Dice, top: Cloth, skin: RGB) -> tuple[Texture, Texture]:
    """Return the textures of upper arm and forearm."""
    bare = _wrinkled(dice, _plain(skin), 0.02)
    if top.kind == "sleeveless":
        return bare, bare
    plain_arm = replace(top, colour=top.second) if _is_raglan(top) else top
    upper, lower = _cloth(dice, plain_arm, 0.18, 0.18), _cloth(dice, plain_arm, 0.15, 0.15)
    if top.kind in ("t-shirt", "dress"):
        _fill(upper, _V > 0.72, skin)
        return upper, bare
    _fill(lower, _V > 0.93, (30, 30, 32), 0.3)
    return upper, lower


def _is_raglan(top: Cloth) -> bool:
    return top.pattern == "block" and top.kind in ("t-shirt", "long", "hoodie")


def _legs(dice: Dice, bottom: Cloth, skin: RGB) -> tuple[Texture, Texture]:
    """Return the textures of thigh and shin."""
    bare = _wrinkled(dice, _plain(skin), 0.02)
    if bottom.kind == "skirt":
        return bare, bare
    thigh, shin = _cloth(dice, bottom, 0.26, 0.28), _cloth(dice, bottom, 0.24, 0.2)
    if bottom.kind == "shorts":
        _fill(thigh, _V > 0.86, skin)
        return thigh, bare
    return thigh, shin


def _head(skin: RGB, hair_colour: RGB, hair: str) -> Texture:
    texture = _plain(skin)
    fringe = {"bald": 0.0, "cropped": 0.22}.get(hair, 0.27)
    back = {"bald": 0.0, "cropped": 0.62}.get(hair, 0.8)
    line = np.where(_FRONT < 1.0, fringe, np.where(_FRONT < 1.6, fringe + 0.24, back))
    _fill(texture, _V < line, hair_colour)
    if hair == "bald":
        _fill(texture, (_FRONT > 1.5) & (_V > 0.4) & (_V < 0.6), hair_colour, 0.35)
    eyes = (np.abs(_FRONT - 0.42) < 0.18) & (np.abs(_V - 0.5) < 0.035)
    _fill(texture, eyes, (30, 24, 24), 0.85)
    _fill(texture, (np.abs(_FRONT - 0.42) < 0.24) & (np.abs(_V - 0.42) < 0.02), hair_colour, 0.5)
    _fill(texture, (_FRONT < 0.3) & (np.abs(_V - 0.8) < 0.03), (150, 70, 66), 0.6)
    _fill(texture, (_FRONT < 1.2) & (_V > 0.9), (90, 60, 50), 0.2)
    return texture


def _textures(
    dice: Dice, top: Cloth, bottom: Cloth, skin: RGB, hair: str, carries: str, side: int
) -> dict[str, Texture]:
    hair_colour = _near(dice, dice.pick(HAIRS, (38, 22, 14, 9, 7, 6, 4)), 5)
    bag = _near(dice, _pick_colour(dice, (50, 15, 35)), 6)
    upper_arm, forearm = _sleeve(dice, top, skin)
    lower = replace(top, pattern="plain") if top.kind == "dress" else bottom
    thigh, shin = _legs(dice, bottom, skin)
    if top.kind == "dress":
        thigh = shin = _wrinkled(dice, _plain(skin), 0.02)
    shoe = _plain(_near(dice, dice.pick((*DARK[:2], *LIGHT[:2], *BRIGHT[:2])), 6))
    _fill(shoe, _V > 0.97, (40, 40, 40), 0.3)
    return {
        "torso": _torso(dice, top, skin, bag, carries, side),
        "upper arm": upper_arm,
        "forearm": forearm,
        "pelvis": _cloth(dice, lower, 0.12, 0.5),
        "skirt": _cloth(dice, top if top.kind == "dress" else bottom, 0.28, 0.6),
        "thigh": thigh,
        "shin": shin,
        "shoe": shoe,
        "skin": _plain(skin),
        "head": _head(skin, hair_colour, hair),
        "hair": _wrinkled(dice, _plain(hair_colour), 0.12),
        "hood": _wrinkled(dice, _plain(top.colour), 0.1),
        "hat": _plain(_near(dice, _pick_colour(dice, (50, 20, 30)), 6)),
        "bag": _wrinkled(dice, _plain(bag), 0.08),
    }
