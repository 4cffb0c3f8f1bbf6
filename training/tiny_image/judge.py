"""What is in a picture? Looks at the pixels alone and names shape, colours, size and place.

    python -m training.tiny_image.judge MODEL_FOLDER --scenes 400

draws that many scenes (of the 5,400 there are) with the shipped engine and counts what is right.
"""

import argparse
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from training.tiny_image.scenes import (
    COLOURS,
    PLACES,
    SHAPES,
    SIDE_PIXELS,
    SIZES,
    Mask,
    Pixels,
    Scene,
    centre,
    mask,
    plain_caption,
)

BORDER_PIXELS = 2
RADIUS_STEPS = 3


def seen(pixels: Pixels) -> Scene:
    """The scene that a picture (height, width, 3) shows best; sides must be multiples of 32."""
    small = shrunk(pixels)
    background = nearest_colour(np.median(border(small), axis=0))
    paper = np.array(COLOURS[background], np.float32)
    away = np.linalg.norm(small - paper, axis=-1)
    inked = away > 0.5 * max(float(away.max()), 60.0)
    colour = nearest_colour(np.median(small[inked], axis=0)) if inked.any() else background
    reach = np.linalg.norm(np.array(COLOURS[colour], np.float32) - paper) or 1.0
    cover = np.clip(away / reach, 0, 1).astype(np.float32)
    shape, size, place = best_template(cover)
    return Scene(shape, colour, background, size, place)


def shrunk(pixels: Pixels) -> npt.NDArray[np.float32]:
    """(32, 32, 3): each cell the mean of its pixels."""
    height, width, _ = pixels.shape
    cells = pixels.reshape(SIDE_PIXELS, height // SIDE_PIXELS, SIDE_PIXELS, width // SIDE_PIXELS, 3)
    small: npt.NDArray[np.float32] = cells.mean((1, 3), dtype=np.float32)
    return small


def border(small: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    frame = np.ones((SIDE_PIXELS, SIDE_PIXELS), bool)
    frame[BORDER_PIXELS:-BORDER_PIXELS, BORDER_PIXELS:-BORDER_PIXELS] = False
    return small[frame]


def nearest_colour(value: npt.NDArray[np.float32]) -> str:
    return min(COLOURS, key=lambda name: float(np.linalg.norm(value - np.array(COLOURS[name]))))


def best_template(cover: Mask) -> tuple[str, str, str]:
    """(shape, size, place) of the template that covers most of the same."""
    names, templates = all_templates()
    flat = cover.reshape(-1)
    shared = np.minimum(templates, flat).sum(1)
    either = np.maximum(templates, flat).sum(1)
    return names[int(np.argmax(shared / either))]


@cache
def all_templates() -> tuple[list[tuple[str, str, str]], Mask]:
    """Every shape in every size at every place, each a little off: names and (count, 1024)."""
    names, masks = [], []
    for shape in SHAPES:
        for size, (smallest, largest) in SIZES.items():
            for place in PLACES:
                x, y = centre(Scene(shape, "red", "blue", size, place))
                for radius in np.linspace(smallest, largest, RADIUS_STEPS):
                    for off in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)):
                        names.append((shape, size, place))
                        at = (x + off[0], y + off[1])
                        masks.append(mask(shape, at, float(radius)))
    return names, np.stack(masks).reshape(len(masks), -1)


def some_scenes(count: int, seed: int) -> list[Scene]:
    """Different scenes, all facts equally often, in the order of chance."""
    every = [
        Scene(shape, colour, background, size, place)
        for shape in SHAPES
        for colour in COLOURS
        for background in COLOURS
        if background != colour
        for size in SIZES
        for place in PLACES
    ]
    return random.Random(seed).sample(every, min(count, len(every)))


def score(pairs: Iterable[tuple[Scene, Scene]]) -> dict[str, float]:
    """The share right of each fact, and of all facts at once, over (wanted, seen) pairs."""
    right: Counter[str] = Counter()
    count = 0
    for wanted, found in pairs:
        count += 1
        agree = {name: value == asdict(found)[name] for name, value in asdict(wanted).items()}
        right.update(name for name, is_right in agree.items() if is_right)
        right["all"] += wanted == found
    return {name: right[name] / count for name in (*asdict(wanted), "all")}


def drawn(painter: Any, scene: Scene, *, seed: int, steps: int, guidance: float) -> Pixels:
    from penstock.adapters.engines.images_request import Drawing

    pixels: Pixels = painter.draw(
        Drawing(plain_caption(scene), "", seed, 256, 256, steps=steps, guidance=guidance)
    )
    return pixels


def main() -> None:
    from penstock.adapters.engines.images_onnx import load_painter

    parser = argparse.ArgumentParser(description="count what tiny-image draws right")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--guidance", type=float, default=-1)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    painter = load_painter(arguments.folder.resolve(), threads=1)
    steps = arguments.steps or painter.settings.steps
    guidance = painter.settings.guidance if arguments.guidance < 0 else arguments.guidance
    pairs = []
    for number, scene in enumerate(some_scenes(arguments.scenes, arguments.seed)):
        pixels = drawn(painter, scene, seed=number, steps=steps, guidance=guidance)
        pairs.append((scene, seen(pixels)))
    for name, share in score(pairs).items():
        print(f"{name:10} {share:.3f}")


if __name__ == "__main__":
    main()
