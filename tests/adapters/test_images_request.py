"""Requests for pictures: what is understood, bounded and refused, and the PNG that comes back."""

import base64
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.pictures import pixels_of

from penstock.adapters.engines.images_request import (
    IMAGES_MAX,
    SEED_MAX,
    Bounds,
    Drawing,
    ImagesQuestion,
    drawings_of,
    images_skill,
)
from penstock.adapters.engines.png import Pixels, png
from penstock.adapters.engines.worker import Made
from penstock.kit.wire.problem import Refusal

BOUNDS = Bounds(side_pixels=64, side_pixels_max=256, steps=5, steps_max=20, guidance=3.0)
LARGE = Bounds(side_pixels=64, side_pixels_max=2048, steps=5, steps_max=20, guidance=3.0)


def asked(**fields: Any) -> list[Drawing]:
    question = msgspec.convert({"prompt": "a star", **fields}, ImagesQuestion)
    return drawings_of(question, BOUNDS)


def flat(drawing: Drawing) -> Pixels:
    """A picture of one colour, which the seed gives."""
    return np.full((drawing.height, drawing.width, 3), drawing.seed % 256, np.uint8)


def answered(bounds: Bounds = BOUNDS, **fields: Any) -> Made:
    return images_skill(flat, bounds)(msgspec.json.encode({"prompt": "a star", **fields}))


def shown(made: Made) -> dict[str, Any]:
    assert isinstance(made.body, bytes)
    fields: dict[str, Any] = msgspec.json.decode(made.body)
    return fields


def refusal(**fields: Any) -> dict[str, Any]:
    with pytest.raises(Refusal) as caught:
        answered(**fields)
    assert caught.value.response.status == 400
    error: dict[str, Any] = msgspec.json.decode(caught.value.response.body)["error"]
    return error


def test_a_bare_prompt_is_drawn_once_as_the_model_does_best() -> None:
    assert asked() == [Drawing("a star", "", 0, 64, 64, 5, 3.0)]
    assert asked(size="auto") == asked()


def test_every_wish_within_the_bounds_is_kept() -> None:
    drawn = asked(n=2, size="128x96", seed=7, steps=9, guidance_scale=1.5, negative_prompt="a ring")
    assert drawn[0] == Drawing("a star", "a ring", 7, 128, 96, 9, 1.5)
    assert [one.seed for one in drawn] == [7, 8]
    assert asked(num_inference_steps=4)[0].steps == 4
    assert asked(guidance_scale=0)[0].guidance == 0


def test_seeds_count_round_at_the_end() -> None:
    assert [one.seed for one in asked(n=2, seed=SEED_MAX)] == [SEED_MAX, 0]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "url"}, "response_format"),
        ({"response_format": "data_url"}, "response_format"),
        ({"output_format": "jpeg"}, "output_format"),
        ({"output_format": "webp"}, "output_format"),
        ({"background": "transparent"}, "background"),
        ({"stream": True}, "stream"),
        ({"steps": 21}, "steps"),
        ({"num_inference_steps": 10**9}, "steps"),
        ({"size": "257x64"}, "size"),
        ({"size": "64x99999"}, "size"),
        ({"size": "064x64"}, "size"),
        ({"size": "-1x64"}, "size"),
        ({"size": "64"}, "size"),
        ({"size": "64x64\n"}, "size"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    assert refusal(**fields)["param"] == param


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 0},
        {"n": IMAGES_MAX + 1},
        {"prompt": ""},
        {"prompt": "a" * 32_001},
        {"prompt": 7},
        {"seed": -1},
        {"seed": SEED_MAX + 1},
        {"steps": 0},
        {"guidance_scale": 1e9},
        {"negative_prompt": ["x"]},
    ],
)
def test_a_field_out_of_bounds_is_a_bad_request(fields: dict[str, Any]) -> None:
    assert refusal(**fields)["code"] == "body_invalid"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"prompt": "\\ud800"}', b"[" * 9999])
def test_a_broken_body_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        images_skill(flat, BOUNDS)(body)
    assert caught.value.response.status == 400


def test_the_answer_holds_a_file_for_each_picture_and_counts_the_work() -> None:
    made = answered(n=3, seed=7, steps=2, size="32x16", quality="low", user="me")
    fields = shown(made)
    files = [base64.b64decode(one["b64_json"]) for one in fields["data"]]
    assert [pixels_of(file)[0, 0, 0] for file in files] == [7, 8, 9]
    assert {pixels_of(file).shape for file in files} == {(16, 32, 3)}
    assert made.units == {"images": 3, "image_steps": 6}
    assert fields["output_format"] == "png"
    assert "size" not in fields


def test_a_size_that_openai_knows_is_told() -> None:
    assert shown(answered(LARGE, size="1024x1536"))["size"] == "1024x1536"


def test_the_same_question_gives_the_same_bytes() -> None:
    assert answered(n=2, seed=3).body == answered(n=2, seed=3).body


@given(
    arrays(
        np.uint8,
        st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3)),
        elements=st.integers(0, 255),
    )
)
def test_a_reader_sees_the_pixels_that_were_written(pixels: Pixels) -> None:
    assert np.array_equal(pixels_of(png(pixels)), pixels)


def test_a_cut_out_of_a_picture_is_written_too() -> None:
    pixels = np.arange(20 * 20 * 3, dtype=np.uint8).reshape(20, 20, 3)[3:9, 2:15]
    assert np.array_equal(pixels_of(png(pixels)), pixels)


def test_a_flat_picture_takes_few_bytes() -> None:
    assert len(png(np.full((1024, 1024, 3), 200, np.uint8))) < 10_000
