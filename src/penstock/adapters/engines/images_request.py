"""Requests for pictures in OpenAI's dialect: understood, bounded, answered. All engines that draw.

Beside OpenAI's fields they take `seed`, `steps` (or diffusers' `num_inference_steps`),
`guidance_scale` and `negative_prompt`, as other servers of open models do. What cannot be done is
refused by name; taste (`quality`, `style`, `user`) is passed over.
"""

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import msgspec

from penstock.adapters.engines.png import Pixels, png
from penstock.adapters.engines.worker import Made, Skill, json_made, refused, understood

IMAGES_PATH = "/v1/images/generations"
PROMPT_CHARS_MAX = 32_000
IMAGES_MAX = 10
SEED_MAX = (1 << 63) - 1
SIZES_TOLD = ("1024x1024", "1024x1536", "1536x1024")
"""OpenAI's clients know no other size in an answer; whoever asked for one knows it."""
SIZE = re.compile(r"([1-9][0-9]{1,3})x([1-9][0-9]{1,3})")


class ImagesQuestion(msgspec.Struct):
    """The fields of `POST /v1/images/generations` that matter here."""

    prompt: Annotated[str, msgspec.Meta(min_length=1, max_length=PROMPT_CHARS_MAX)]
    n: Annotated[int, msgspec.Meta(ge=1, le=IMAGES_MAX)] | None = None
    size: str | None = None
    response_format: str | None = None
    output_format: str | None = None
    background: str | None = None
    stream: bool | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, le=SEED_MAX)] | None = None
    steps: Annotated[int, msgspec.Meta(ge=1)] | None = None
    num_inference_steps: Annotated[int, msgspec.Meta(ge=1)] | None = None
    guidance_scale: Annotated[float, msgspec.Meta(ge=0, le=30)] | None = None
    negative_prompt: Annotated[str, msgspec.Meta(max_length=PROMPT_CHARS_MAX)] | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one model draws: its own side in pixels, and the most that a request may ask for."""

    side_pixels: int
    side_pixels_max: int
    steps: int
    steps_max: int
    guidance: float


@dataclass(frozen=True, slots=True)
class Drawing:
    """One picture to draw, everything decided."""

    prompt: str
    negative_prompt: str
    seed: int
    width: int
    height: int
    steps: int
    guidance: float


Draw = Callable[[Drawing], Pixels]
"""(height, width, 3). Raises Refusal where the model cannot."""


def images_skill(draw: Draw, bounds: Bounds) -> Skill:
    """Answer requests with PNG files inside the JSON."""

    def answer(body: bytes) -> Made:
        question = understood(body, ImagesQuestion)
        drawings = drawings_of(question, bounds)
        files = [png(draw(drawing)) for drawing in drawings]
        data = [{"b64_json": base64.b64encode(file).decode()} for file in files]
        size = f"{drawings[0].width}x{drawings[0].height}"
        told = {"size": size} if size in SIZES_TOLD else {}
        fields = {"created": 0, "data": data, "output_format": "png", **told}
        # The time of making is left out: the same order gives the same bytes.
        worked = sum(drawing.steps for drawing in drawings)
        return json_made(fields, images=len(files), image_steps=worked)

    return answer


def drawings_of(question: ImagesQuestion, bounds: Bounds) -> list[Drawing]:
    """The pictures asked for; the seed counts up from one to the next. Raises Refusal (400)."""
    check_formats(question)
    width, height = size_of(question.size, bounds)
    steps = question.steps or question.num_inference_steps or bounds.steps
    if steps > bounds.steps_max:
        raise refused(f"This engine takes 1 to {bounds.steps_max} steps.", "steps")
    guidance = bounds.guidance if question.guidance_scale is None else question.guidance_scale
    first = question.seed or 0
    return [
        Drawing(
            prompt=question.prompt,
            negative_prompt=question.negative_prompt or "",
            seed=(first + index) & SEED_MAX,
            width=width,
            height=height,
            steps=steps,
            guidance=guidance,
        )
        for index in range(question.n or 1)
    ]


def check_formats(question: ImagesQuestion) -> None:
    """Raises Refusal (400) for a form in which no picture comes."""
    if question.response_format not in {None, "b64_json"}:
        raise refused("Pictures come inside the answer: b64_json only.", "response_format")
    if question.output_format not in {None, "png"}:
        raise refused("Pictures are PNG files: png only.", "output_format")
    if question.background == "transparent":
        raise refused("Pictures have a background: opaque or auto.", "background")
    if question.stream:
        raise refused("Pictures come whole: leave stream out, or set it to false.", "stream")


def size_of(size: str | None, bounds: Bounds) -> tuple[int, int]:
    """(width, height). Raises Refusal (400)."""
    if size in {None, "auto"}:
        return bounds.side_pixels, bounds.side_pixels
    found = SIZE.fullmatch(str(size))
    if found is None:
        raise refused("size must be WIDTHxHEIGHT, such as 512x512, or auto.", "size")
    width, height = int(found[1]), int(found[2])
    if max(width, height) > bounds.side_pixels_max:
        raise refused(f"A side has 10 to {bounds.side_pixels_max} pixels.", "size")
    return width, height
