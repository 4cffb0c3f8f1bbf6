"""Everything tiny-image can draw: one shape in one colour on a background, and the words for it.

A scene is six facts (shape, colour, background, size, place, and which of them the caption says).
Pictures are 32 by 32 pixels, drawn at twice that and averaged; nothing is downloaded.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.float32]

SIDE_PIXELS = 32
OVERSAMPLING = 2

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 230),
    "yellow": (240, 220, 50),
    "purple": (150, 60, 200),
    "orange": (250, 140, 30),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
    "pink": (250, 150, 190),
    "cyan": (60, 210, 220),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring", "star")
SIZES: Mapping[str, tuple[float, float]] = {"big": (8.5, 10.0), "small": (5.0, 6.0)}
"""Radius in pixels, from and to."""
PLACES: Mapping[str, tuple[int, int]] = {
    "center": (0, 0),
    "left": (-8, 0),
    "right": (8, 0),
    "top": (0, -8),
    "bottom": (0, 8),
}
BIG_SHIFT_SHARE = 0.7
"""A big shape moves less, so that it stays inside."""

SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "big": ("big", "big", "large", "huge"),
    "small": ("small", "small", "little", "tiny"),
    "circle": ("circle", "circle", "circle", "disc", "ball"),
    "square": ("square", "square", "square", "box"),
    "cross": ("cross", "cross", "cross", "plus"),
    "ring": ("ring", "ring", "ring", "donut"),
    "purple": ("purple", "purple", "purple", "violet"),
    "cyan": ("cyan", "cyan", "cyan", "turquoise"),
}
PLACE_WORDS: Mapping[str, tuple[str, ...]] = {
    "center": ("in the center", "in the center", "in the centre", "in the middle"),
    "left": ("on the left", "on the left", "at the left"),
    "right": ("on the right", "on the right", "at the right"),
    "top": ("at the top", "at the top", "on top"),
    "bottom": ("at the bottom", "at the bottom", "on the bottom"),
}
OPENINGS = ("a", "a", "a", "a", "the", "", "draw a", "a picture of a", "an image of a", "one")
BACKGROUND_WORDS = ("on a {} background", "on a {} background", "on {}", "with a {} background")
STRANGE_WORDS = ("<strange>",)
"""Stands for any word outside the vocabulary: the model learns to pass over it."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What is in a picture. Every field is a name from the tables above."""

    shape: str
    colour: str
    background: str
    size: str = "big"
    place: str = "center"


def any_scene(chance: random.Random, *, centred_share: float) -> Scene:
    colour, background = chance.sample(list(COLOURS), 2)
    place = "center" if chance.random() < centred_share else chance.choice(list(PLACES))
    size = "big" if chance.random() < 0.6 else "small"
    return Scene(chance.choice(SHAPES), colour, background, size, place)


def caption(scene: Scene, chance: random.Random) -> str:
    """One of many wordings; now and then it leaves a fact out or has a strange word in it."""
    words = [chance.choice(OPENINGS)]
    if chance.random() < 0.8:
        words.append(worded(scene.size, chance))
    words += [worded(scene.colour, chance), worded(scene.shape, chance)]
    if chance.random() < (0.35 if scene.place == "center" else 0.9):
        words.append(chance.choice(PLACE_WORDS[scene.place]))
    if chance.random() < 0.92:
        background = chance.choice(BACKGROUND_WORDS)
        words.append(background.format(worded(scene.background, chance)))
    if chance.random() < 0.05:
        words.insert(chance.randrange(len(words) + 1), chance.choice(STRANGE_WORDS))
    return " ".join(word for word in words if word)


def worded(name: str, chance: random.Random) -> str:
    return chance.choice(SYNONYMS.get(name, (name,)))


def plain_caption(scene: Scene) -> str:
    """The wording that the card and the tests use; says everything."""
    place = PLACE_WORDS[scene.place][0]
    return f"a {scene.size} {scene.colour} {scene.shape} {place} on a {scene.background} background"


def vocabulary() -> list[str]:
    """Every word of every caption, sorted."""
    texts = [*COLOURS, *SHAPES, *SIZES, *OPENINGS, *BACKGROUND_WORDS]
    texts += [text for texts in (*SYNONYMS.values(), *PLACE_WORDS.values()) for text in texts]
    return sorted({word for text in texts for word in text.split()} - {"{}"})


def any_mask(scene: Scene, chance: random.Random) -> Mask:
    """The scene's shape, a little off its place: (32, 32), 0 for background to 1."""
    radius = chance.uniform(*SIZES[scene.size])
    x, y = centre(scene)
    return mask(scene.shape, (x + chance.uniform(-0.7, 0.7), y + chance.uniform(-0.7, 0.7)), radius)


def centre(scene: Scene) -> tuple[float, float]:
    share = BIG_SHIFT_SHARE if scene.size == "big" else 1.0
    x, y = PLACES[scene.place]
    return SIDE_PIXELS / 2 + share * x, SIDE_PIXELS / 2 + share * y


def mask(shape: str, at: tuple[float, float], radius: float) -> Mask:
    """How much of each pixel a shape covers."""
    points = SIDE_PIXELS * OVERSAMPLING
    y, x = (np.mgrid[0:points, 0:points] + 0.5) / OVERSAMPLING
    inside = is_inside(shape, x - at[0], y - at[1], radius)
    blocks = inside.reshape(SIDE_PIXELS, OVERSAMPLING, SIDE_PIXELS, OVERSAMPLING)
    share: Mask = blocks.mean((1, 3), dtype=np.float32)
    return share


def is_inside(
    shape: str, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], radius: float
) -> npt.NDArray[np.bool_]:
    """For each point whether it belongs to a shape around the origin; y grows downwards."""
    reach = np.hypot(x, y)
    match shape:
        case "circle":
            return reach <= radius
        case "ring":
            return (reach <= radius) & (reach >= 0.55 * radius)
        case "square":
            return np.maximum(abs(x), abs(y)) <= 0.85 * radius
        case "cross":
            narrow, wide = np.minimum(abs(x), abs(y)), np.maximum(abs(x), abs(y))
            return (narrow <= 0.3 * radius) & (wide <= radius)
        case "triangle":
            return (y <= 0.8 * radius) & (abs(x) <= 0.58 * (y + radius))
        case "star":
            turn = np.arctan2(x, -y) / (2 * np.pi) * 5
            point = 2 * abs(turn % 1 - 0.5)
            return reach <= radius * (0.42 + 0.63 * point)
        case _:
            raise KeyError(shape)


def painted(shape_mask: Mask, colour: str, background: str) -> npt.NDArray[np.float32]:
    """The picture as a model sees it: (3, side, side), -1 to 1."""
    ink, paper = (np.array(COLOURS[name], np.float32) / 127.5 - 1 for name in (colour, background))
    return paper[:, None, None] + shape_mask * (ink - paper)[:, None, None]
