"""The picture of the documentation: what tiny-image draws for a fixed list of prompts.

    python -m training.tiny_image.gallery docs/images/tiny-image.png

Every prompt is drawn once, with its number in the list as the seed: nothing is picked out.
"""

import argparse
from pathlib import Path

import numpy as np
from training.tiny_image.judge import some_scenes
from training.tiny_image.scenes import SHAPES, Pixels, Scene, plain_caption

from penstock.adapters.engines.images import images_folder
from penstock.adapters.engines.images_onnx import OnnxPainter, load_painter
from penstock.adapters.engines.images_request import Drawing
from penstock.adapters.engines.png import png

SIDE_PIXELS = 128
GAP_PIXELS = 8
COLUMNS = 6
INKS = ("red", "blue", "green", "yellow", "black", "white")
PAPERS = ("white", "yellow", "black", "purple", "orange", "blue")
FREE_PROMPTS = (
    "a red circle",
    "draw a tiny violet plus on white",
    "a huge donut",
    "a cat riding a bicycle",
    "a green triangle at the top with a pink background",
    "turquoise",
)


def prompts() -> list[str]:
    """One row of all shapes in the middle, two of scenes by chance, one in other words."""
    first = [Scene(*facts) for facts in zip(SHAPES, INKS, PAPERS, strict=True)]
    scenes = [*first, *some_scenes(2 * COLUMNS, seed=5)]
    return [*(plain_caption(scene) for scene in scenes), *FREE_PROMPTS]


def gallery(painter: OnnxPainter) -> Pixels:
    """All of them in rows, on white."""
    told = painter.settings
    pictures = [
        painter.draw(
            Drawing(prompt, "", number, SIDE_PIXELS, SIDE_PIXELS, told.steps, told.guidance)
        )
        for number, prompt in enumerate(prompts())
    ]
    margin = ((GAP_PIXELS, 0), (GAP_PIXELS, 0), (0, 0))
    framed = [np.pad(picture, margin, constant_values=255) for picture in pictures]
    rows = [np.hstack(framed[at : at + COLUMNS]) for at in range(0, len(framed), COLUMNS)]
    return np.pad(np.vstack(rows), ((0, GAP_PIXELS), (0, GAP_PIXELS), (0, 0)), constant_values=255)


def main() -> None:
    parser = argparse.ArgumentParser(description="draw the picture of the documentation")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    painter = load_painter(images_folder("images", "builtin:tiny-image"), threads=1)
    arguments.out.write_bytes(png(gallery(painter)))
    for number, prompt in enumerate(prompts()):
        print(f"{number // COLUMNS + 1}.{number % COLUMNS + 1}  {prompt}")


if __name__ == "__main__":
    main()
