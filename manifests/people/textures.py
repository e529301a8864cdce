"""Textures of clothes, skin and hair, which ``manifests.people.renderer`` wraps around tubes.

Texture rows run down the limb, columns around it, from the front over the person's left.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np
from jaxtyping import Bool

from manifests.people.renderer import TEXTURE_COLUMNS, TEXTURE_ROWS, Texture
from manifests.runtime.random_numbers import KeyedRandom

RGB = tuple[int, int, int]
Mask = Bool[np.ndarray, "40 64"]


@dataclass(frozen=True, slots=True)
class Garment:
    """One piece of clothing."""

    kind: str
    colour: RGB
    second: RGB
    pattern: str
    period: float
    """Distance of stripes, checks or dots in body heights."""


@dataclass(frozen=True, slots=True)
class Outfit:
    """What a person wears and carries, and the colours of skin and hair."""

    top: Garment
    bottom: Garment
    skin: RGB
    hair: str
    hair_colour: RGB
    hat_colour: RGB
    shoe: RGB
    bag: RGB
    carries: str
    """``nothing``, ``backpack``, ``shoulder bag`` or ``hand bag``."""
    bag_side: int
    """1 for the person's left, -1 for the right."""

    @property
    def in_skirt(self) -> bool:
        """Whether a skirt or a dress hides the thighs."""
        return self.bottom.kind == "skirt" or self.top.kind == "dress"


_V: Final = ((np.arange(TEXTURE_ROWS) + 0.5) / TEXTURE_ROWS)[:, None] * np.ones(TEXTURE_COLUMNS)
_ANGLE: Final = (
    ((np.arange(TEXTURE_COLUMNS) + TEXTURE_COLUMNS / 2) % TEXTURE_COLUMNS - TEXTURE_COLUMNS / 2)
    * (2 * np.pi / TEXTURE_COLUMNS)
)[None, :] * np.ones((TEXTURE_ROWS, 1))
_FRONT: Final = np.abs(_ANGLE)


def _plain(colour: RGB) -> Texture:
    return np.ones((TEXTURE_ROWS, TEXTURE_COLUMNS, 3), np.float32) * np.array(colour, np.float32)


def _fill(texture: Texture, mask: Mask, colour: RGB, share: float = 1.0) -> None:
    texture[mask] += (np.array(colour, np.float32) - texture[mask]) * np.float32(share)


def _garment(rng: KeyedRandom, cloth: Garment, length: float, girth: float) -> Texture:
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
    return _wrinkled(rng, texture)


def _wrinkled(rng: KeyedRandom, texture: Texture, strength: float = 0.07) -> Texture:
    folds = rng.noise(8, 8)
    folds = cv2.resize(
        np.tile(folds, (1, 3)), (TEXTURE_COLUMNS * 3, TEXTURE_ROWS), interpolation=cv2.INTER_CUBIC
    )[:, TEXTURE_COLUMNS : 2 * TEXTURE_COLUMNS]
    return (texture * (1.0 + strength * folds[:, :, None])).astype(np.float32)


def _torso(rng: KeyedRandom, outfit: Outfit) -> Texture:
    top, side = outfit.top, outfit.bag_side
    texture = _garment(rng, top, 0.34, 0.50)
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
        _fill(texture, (_V < 0.10 - 0.07 * _FRONT), outfit.skin)
    if outfit.carries == "backpack":
        _fill(texture, (np.abs(_FRONT - 0.62) < 0.13) & (_V < 0.6), outfit.bag)
    elif outfit.carries == "shoulder bag":
        drop = _V * 2.4 - 1.0
        strap = np.where(
            np.pi / 2 > _FRONT, _ANGLE * side, np.sign(_ANGLE) * side * (np.pi - _FRONT)
        )
        _fill(texture, np.abs(strap - drop) < 0.16, outfit.bag)
    return texture


def _sleeve(rng: KeyedRandom, top: Garment, skin: RGB) -> tuple[Texture, Texture]:
    """Return the textures of upper arm and forearm."""
    bare = _wrinkled(rng, _plain(skin), 0.02)
    if top.kind == "sleeveless":
        return bare, bare
    plain_arm = replace(top, colour=top.second) if _is_raglan(top) else top
    upper, lower = _garment(rng, plain_arm, 0.18, 0.18), _garment(rng, plain_arm, 0.15, 0.15)
    if top.kind in ("t-shirt", "dress"):
        _fill(upper, _V > 0.72, skin)
        return upper, bare
    _fill(lower, _V > 0.93, (30, 30, 32), 0.3)
    return upper, lower


def _is_raglan(top: Garment) -> bool:
    return top.pattern == "block" and top.kind in ("t-shirt", "long", "hoodie")


def _legs(rng: KeyedRandom, bottom: Garment, skin: RGB) -> tuple[Texture, Texture]:
    """Return the textures of thigh and shin."""
    bare = _wrinkled(rng, _plain(skin), 0.02)
    if bottom.kind == "skirt":
        return bare, bare
    thigh, shin = _garment(rng, bottom, 0.26, 0.28), _garment(rng, bottom, 0.24, 0.2)
    if bottom.kind == "shorts":
        _fill(thigh, _V > 0.86, skin)
        return thigh, bare
    return thigh, shin


def _head(skin: RGB, hair_colour: RGB, hair: str) -> Texture:
    texture = _plain(skin)
    fringe = {"bald": 0.0, "cropped": 0.22}.get(hair, 0.27)
    back = {"bald": 0.0, "cropped": 0.62}.get(hair, 0.8)
    line = np.where(_FRONT < 1.0, fringe, np.where(_FRONT < 1.6, fringe + 0.24, back))
    _fill(texture, line > _V, hair_colour)
    if hair == "bald":
        _fill(texture, (_FRONT > 1.5) & (_V > 0.4) & (_V < 0.6), hair_colour, 0.35)
    eyes = (np.abs(_FRONT - 0.42) < 0.18) & (np.abs(_V - 0.5) < 0.035)
    _fill(texture, eyes, (30, 24, 24), 0.85)
    _fill(texture, (np.abs(_FRONT - 0.42) < 0.24) & (np.abs(_V - 0.42) < 0.02), hair_colour, 0.5)
    _fill(texture, (_FRONT < 0.3) & (np.abs(_V - 0.8) < 0.03), (150, 70, 66), 0.6)
    _fill(texture, (_FRONT < 1.2) & (_V > 0.9), (90, 60, 50), 0.2)
    return texture


def textures_of(rng: KeyedRandom, outfit: Outfit) -> dict[str, Texture]:
    """Return the texture of every part of the body and of what it wears and carries."""
    top, bottom, skin = outfit.top, outfit.bottom, outfit.skin
    in_dress = top.kind == "dress"
    upper_arm, forearm = _sleeve(rng, top, skin)
    thigh, shin = _legs(rng, replace(bottom, kind="skirt") if in_dress else bottom, skin)
    shoe = _plain(outfit.shoe)
    _fill(shoe, _V > 0.97, (40, 40, 40), 0.3)
    return {
        "torso": _torso(rng, outfit),
        "upper arm": upper_arm,
        "forearm": forearm,
        "pelvis": _garment(rng, replace(top, pattern="plain") if in_dress else bottom, 0.12, 0.5),
        "skirt": _garment(rng, top if in_dress else bottom, 0.28, 0.6),
        "thigh": thigh,
        "shin": shin,
        "shoe": shoe,
        "skin": _plain(skin),
        "head": _head(skin, outfit.hair_colour, outfit.hair),
        "hair": _wrinkled(rng, _plain(outfit.hair_colour), 0.12),
        "hood": _wrinkled(rng, _plain(top.colour), 0.1),
        "hat": _plain(outfit.hat_colour),
        "bag": _wrinkled(rng, _plain(outfit.bag), 0.08),
    }
