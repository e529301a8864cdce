"""The appearance of made-up people: body shape, hair, and clothing from one shared set of garments.

Garments are few and people are many, so different people may wear the same one, as in real data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from manifests.people.renderer import Texture
from manifests.people.textures import RGB, Garment, Outfit, textures_of
from manifests.runtime.random_numbers import KeyedRandom

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
SKIN_COLOURS: Final[tuple[RGB, ...]] = (
    (238, 200, 174), (226, 182, 150), (208, 160, 124), (176, 126, 92), (132, 90, 64), (96, 66, 48),
)  # fmt: skip
HAIR_COLOURS: Final[tuple[RGB, ...]] = (
    (28, 24, 24), (44, 32, 28), (72, 48, 34), (112, 76, 46), (176, 138, 84), (140, 138, 136),
    (128, 54, 36),
)  # fmt: skip
PATTERNS: Final = ("plain", "hoops", "pinstripes", "checks", "dots", "block", "chest", "logo")
TOP_KINDS: Final = ("t-shirt", "sleeveless", "long", "shirt", "jacket", "hoodie", "dress")
HAIR_STYLES: Final = ("short", "cropped", "long", "bob", "tail", "bun", "bald")
CARRIED: Final = ("nothing", "backpack", "shoulder bag", "hand bag")
BOTTOM_KINDS: Final = ("trousers", "leggings", "shorts", "skirt")


@dataclass(frozen=True, slots=True)
class BodyShape:
    """Proportions in body heights, or as factors of the mean body."""

    leg: float
    shoulder: float
    hip: float
    girth: float
    head: float


@dataclass(frozen=True, slots=True)
class Person:
    """Everything about a person that does not change from image to image."""

    shape: BodyShape
    outfit: Outfit
    hat: bool
    skirt_length: float
    """From the hips down, in body heights."""
    textures: Mapping[str, Texture]


def sample_top(seed: int, row: int) -> Garment:
    """Return one of the shared tops."""
    rng = KeyedRandom(seed, f"wardrobe/top/{row}")
    kind = rng.choice(TOP_KINDS, (30, 4, 14, 12, 18, 12, 8))
    colour = _sample_colour(rng, (42, 28, 30))
    second = _sample_colour(rng, (20, 45, 35))
    if sum(abs(a - b) for a, b in zip(colour, second, strict=True)) < 130:
        second = (232, 232, 228) if sum(colour) < 360 else (38, 40, 52)
    weights = (30, 16, 6, 10, 6, 10, 10, 14)
    return Garment(kind, colour, second, rng.choice(PATTERNS, weights), rng.uniform(0.035, 0.075))


def sample_bottom(seed: int, row: int) -> Garment:
    """Return one of the shared trousers, leggings, shorts or skirts."""
    rng = KeyedRandom(seed, f"wardrobe/bottom/{row}")
    kind = rng.choice(BOTTOM_KINDS, (52, 12, 20, 16))
    colour = rng.choice(BRIGHT) if rng.bernoulli(0.1) else rng.choice(TROUSERS)
    pattern = rng.choice(("plain", "pinstripes", "checks", "hoops"), (82, 4, 8, 6))
    second: RGB = (210, 208, 200) if sum(colour) < 330 else (70, 66, 64)
    return Garment(kind, colour, second, pattern, rng.uniform(0.03, 0.06))


def sample_person(seed: int, label: str) -> Person:
    """Return the person with this label; it depends on (seed, label) alone."""
    rng = KeyedRandom(seed, f"person/{label}")
    shape = BodyShape(
        leg=0.515 + rng.bounded_normal(0.014),
        shoulder=1.0 + rng.bounded_normal(0.07),
        hip=1.0 + rng.bounded_normal(0.07),
        girth=max(1.0 + rng.bounded_normal(0.13), 0.8),
        head=1.0 + rng.bounded_normal(0.05),
    )
    outfit = Outfit(
        top=_own_copy(rng, sample_top(seed, rng.integer(0, NUM_TOPS - 1))),
        bottom=_own_copy(rng, sample_bottom(seed, rng.integer(0, NUM_BOTTOMS - 1))),
        skin=_jitter_colour(rng, rng.choice(SKIN_COLOURS, (24, 24, 22, 12, 10, 8)), 6),
        hair=rng.choice(HAIR_STYLES, (40, 14, 18, 8, 10, 5, 5)),
        hair_colour=_jitter_colour(rng, rng.choice(HAIR_COLOURS, (38, 22, 14, 9, 7, 6, 4)), 5),
        hat_colour=_jitter_colour(rng, _sample_colour(rng, (50, 20, 30)), 6),
        shoe=_jitter_colour(rng, rng.choice((*DARK[:2], *LIGHT[:2], *BRIGHT[:2])), 6),
        bag=_jitter_colour(rng, _sample_colour(rng, (50, 15, 35)), 6),
        carries=rng.choice(CARRIED, (50, 20, 15, 15)),
        bag_side=rng.choice((1, -1)),
    )
    return Person(
        shape=shape,
        outfit=outfit,
        hat=rng.bernoulli(0.1),
        skirt_length=rng.uniform(0.17, 0.32),
        textures=textures_of(rng, outfit),
    )


def _sample_colour(rng: KeyedRandom, weights: tuple[float, float, float]) -> RGB:
    return rng.choice(rng.choice((DARK, LIGHT, BRIGHT), weights))


def _jitter_colour(rng: KeyedRandom, colour: RGB, spread: float) -> RGB:
    red, green, blue = (min(max(round(c + rng.bounded_normal(spread)), 8), 246) for c in colour)
    return red, green, blue


def _own_copy(rng: KeyedRandom, cloth: Garment) -> Garment:
    """Return the garment in slightly other colours, as one person's copy of it."""
    return replace(
        cloth,
        colour=_jitter_colour(rng, cloth.colour, 5),
        second=_jitter_colour(rng, cloth.second, 5),
    )
