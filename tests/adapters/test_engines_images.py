"""The image engine on onnxruntime with the shipped model: it draws what is asked, again and again."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import pytest_asyncio
from tests.engine_makers import DEADLINE_MS, Caller, make_world
from tests.pictures import pixels_of
from training.tiny_image.judge import seen
from training.tiny_image.scenes import Scene, plain_caption

from penstock.adapters.engines.catalogue import build_engine, model_digest
from penstock.adapters.engines.images import images_folder
from penstock.adapters.engines.images_onnx import (
    DrawingSettings,
    WordTokenizer,
    framed,
    load_painter,
    resampling,
)
from penstock.adapters.engines.images_request import Drawing
from penstock.adapters.engines.png import Pixels
from penstock.kit.engine import Capability, Engine, EngineFailed, EngineLimits
from penstock.kit.wire.client import Reply

module_loop = pytest.mark.asyncio(loop_scope="module")

BUILTIN = "builtin:tiny-image"
SHIPPED = images_folder("images", BUILTIN)
LIMITS = EngineLimits(slots_max=2)
PATH = "/v1/images/generations"
SCENES = [
    Scene("circle", "red", "white"),
    Scene("square", "blue", "yellow"),
    Scene("triangle", "green", "black"),
    Scene("star", "yellow", "black"),
    Scene("cross", "black", "orange"),
    Scene("ring", "white", "purple"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    world = make_world(tmp_path_factory.mktemp("images"))
    made = build_engine("images", BUILTIN, LIMITS, world=world)
    await made.start(deadline_ms=DEADLINE_MS)
    yield made
    await made.stop(deadline_ms=DEADLINE_MS)


def pictures(reply: Reply) -> list[Pixels]:
    assert reply.status == 200, reply.body
    data = msgspec.json.decode(reply.body)["data"]
    return [pixels_of(base64.b64decode(one["b64_json"])) for one in data]


async def drawn(engine: Engine, **fields: Any) -> list[Pixels]:
    return pictures(await Caller(engine).post(PATH, {"size": "256x256", **fields}))


def colours(picture: Pixels) -> tuple[str, str]:
    """(of the shape, of what is behind it)."""
    scene = seen(picture)
    return scene.colour, scene.background


@module_loop
async def test_it_was_seen_to_draw_by_the_seed(engine: Engine) -> None:
    assert engine.capabilities == {Capability.IMAGES, Capability.SEED}
    assert engine.model == "tiny-image"
    reply = await Caller(engine).get("/v1/models")
    assert [one["id"] for one in msgspec.json.decode(reply.body)["data"]] == ["tiny-image"]


@module_loop
@pytest.mark.parametrize("scene", SCENES, ids=plain_caption)
async def test_it_draws_in_the_colours_that_are_asked_for(engine: Engine, scene: Scene) -> None:
    (picture,) = await drawn(engine, prompt=plain_caption(scene), seed=7)
    assert colours(picture) == (scene.colour, scene.background)


@module_loop
async def test_the_same_seed_draws_the_same_bytes_and_the_next_one_follows(engine: Engine) -> None:
    wish = {"prompt": "a big red star on a white background"}
    two = await drawn(engine, **wish, seed=3, n=2)
    assert np.array_equal(two[0], (await drawn(engine, **wish, seed=3))[0])
    assert np.array_equal(two[1], (await drawn(engine, **wish, seed=4))[0])
    assert not np.array_equal(two[0], two[1])


@module_loop
async def test_steps_and_guidance_are_followed(engine: Engine) -> None:
    wish = {"prompt": "a big red star on a white background", "seed": 3}
    usual = (await drawn(engine, **wish))[0]
    assert not np.array_equal(usual, (await drawn(engine, **wish, steps=5))[0])
    assert not np.array_equal(usual, (await drawn(engine, **wish, guidance_scale=1))[0])
    # Without guidance by the words it draws whatever the negative prompt says.
    other = {"prompt": "a big blue circle on a black background", "guidance_scale": 0}
    opposite = {"negative_prompt": wish["prompt"], "seed": 3, "guidance_scale": 0}
    assert seen((await drawn(engine, **{**other, **opposite}))[0]).colour == "red"


@module_loop
@pytest.mark.parametrize("size", ["64x64", "512x512", "1024x1536", "300x200"])
async def test_any_size_shows_the_same_scene_and_fills_the_frame(engine: Engine, size: str) -> None:
    (picture,) = await drawn(engine, prompt=plain_caption(SCENES[0]), seed=7, size=size)
    width, height = (int(side) for side in size.split("x"))
    assert picture.shape == (height, width, 3)
    side = min(width, height) // 32 * 32
    top, left = (height - side) // 2, (width - side) // 2
    expected = (SCENES[0].colour, SCENES[0].background)
    assert colours(picture[top : top + side, left : left + side]) == expected
    assert picture[[0, 0, -1, -1], [0, -1, 0, -1]].min() > 200, "the corners are white"


@module_loop
async def test_words_it_does_not_know_do_no_harm(engine: Engine) -> None:
    for prompt in ("a cat riding a bicycle", "ein Bär 🐻", "\x00", "a " * 5_000):
        assert (await drawn(engine, prompt=prompt))[0].shape == (256, 256, 3)


@module_loop
async def test_more_requests_than_slots_are_all_answered_and_counted(engine: Engine) -> None:
    answers = await asyncio.gather(*(drawn(engine, prompt="a star", seed=n) for n in range(6)))
    assert len({picture.tobytes() for (picture,) in answers}) == 6
    page = (await Caller(engine).get("/metrics")).body.decode()
    counted = dict(line.rsplit(" ", 1) for line in page.splitlines() if line[:1] != "#")
    assert int(counted['penstock_engine_units_total{unit="images"}']) >= 6
    assert (await engine.stats()).running == 0


@module_loop
async def test_a_refusal_leaves_the_engine_serving(engine: Engine) -> None:
    reply = await Caller(engine).post(PATH, {"prompt": "a star", "response_format": "url"})
    assert reply.status == 400
    assert msgspec.json.decode(reply.body)["error"]["param"] == "response_format"
    assert await drawn(engine, prompt="a star")


@module_loop
async def test_a_model_kept_as_links_is_read_too(engine: Engine, tmp_path: Path) -> None:
    """As the cache of fetched weights keeps it; graphs point at the weights beside them."""
    folder = tmp_path / "linked"
    for file in SHIPPED.rglob("*"):
        if file.is_file():
            place = folder / file.relative_to(SHIPPED)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.hardlink_to(file)
    other = build_engine("images", f"file:{folder}", LIMITS, world=make_world(tmp_path))
    await other.start(deadline_ms=DEADLINE_MS)
    wish = {"prompt": "a big red star on a white background", "seed": 3}
    same = await drawn(other, **wish)
    await other.stop(deadline_ms=DEADLINE_MS)
    assert np.array_equal(same[0], (await drawn(engine, **wish))[0])
    assert model_digest("images", f"file:{folder}") == model_digest("images", BUILTIN)


async def test_a_folder_without_a_model_is_named_with_the_remedy(tmp_path: Path) -> None:
    engine = build_engine("images", f"file:{tmp_path}/none", LIMITS, world=make_world(tmp_path))
    with pytest.raises(EngineFailed, match=r"images\.json is missing.*ls -l"):
        await engine.start(deadline_ms=DEADLINE_MS)


async def test_a_torn_model_is_told_at_start(tmp_path: Path) -> None:
    folder = tmp_path / "torn"
    for file in SHIPPED.rglob("*"):
        if file.is_file():
            place = folder / file.relative_to(SHIPPED)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    (folder / "images.json").write_bytes((SHIPPED / "images.json").read_bytes())
    engine = build_engine("images", f"file:{folder}", LIMITS, world=make_world(tmp_path))
    with pytest.raises(EngineFailed, match="did not start"):
        await engine.start(deadline_ms=DEADLINE_MS)


@pytest.mark.parametrize(
    "source", ["", "builtin:tiny-chat", "file:relative", "builtin:../x", "hf:", "hf:a", "https://"]
)
def test_a_source_that_is_none_is_told_with_one_that_is(source: str, tmp_path: Path) -> None:
    for kind in ("images", "diffusers"):
        with pytest.raises(EngineFailed, match=r"cannot serve .*hf:owner/repo"):
            build_engine(kind, source, LIMITS, world=make_world(tmp_path))
        with pytest.raises(EngineFailed):
            model_digest(kind, source)


def test_a_fetched_model_is_named_by_its_repository_and_asks_for_its_digest(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    assert build_engine("images", "hf:owner/painter@main", LIMITS, world=world).model == "painter"
    with pytest.raises(EngineFailed, match="model_digest"):
        model_digest("images", "hf:owner/painter@main")


def test_another_byte_is_another_model(tmp_path: Path) -> None:
    (tmp_path / "images.json").write_text("{}")
    first = model_digest("images", f"file:{tmp_path}")
    (tmp_path / "README.md").write_text("not part of the model")
    assert model_digest("images", f"file:{tmp_path}") == first
    (tmp_path / "images.json").write_text("{ }")
    assert model_digest("images", f"file:{tmp_path}") != first


def test_words_are_split_as_the_tokenizer_file_says() -> None:
    """Against the reading of the file itself: its rule for words, its numbers."""
    file = SHIPPED / "tokenizer" / "tokenizer.json"
    plan = json.loads(file.read_text())
    assert plan["pre_tokenizer"]["type"] == "Whitespace"
    assert plan["normalizer"]["type"] == "Lowercase"
    ids = plan["model"]["vocab"]
    tokenizer = WordTokenizer(file, tokens_max=6)
    assert tokenizer.ids_of("A RED, star") == [
        ids[w] for w in ("a", "red", "<unk>", "star", "</s>")
    ]
    assert tokenizer.ids_of("") == [ids["</s>"]]
    assert len(tokenizer.ids_of("red " * 50)) == 6
    both, mask = tokenizer.pair("", "red star")
    assert both.shape == mask.shape == (2, 6)
    assert mask.sum(1).tolist() == [1, 3]


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text('{"model": {"type": "BPE", "vocab": {}}}')
    with pytest.raises(ValueError, match="whole words"):
        WordTokenizer(file, tokens_max=6)


def test_settings_with_a_field_too_many_are_refused(tmp_path: Path) -> None:
    told = json.loads((SHIPPED / "images.json").read_text())
    assert msgspec.convert(told, DrawingSettings).bounds().side_pixels == 256
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**told, "more": 1}, DrawingSettings)


@pytest.mark.parametrize(("old", "new"), [(8, 8), (8, 16), (8, 4), (8, 3), (8, 1), (256, 1000)])
def test_scaling_keeps_a_flat_picture_flat_and_adds_up(old: int, new: int) -> None:
    shares = resampling(old, new)
    assert shares.shape == (new, old)
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)
    if old == new:
        np.testing.assert_array_equal(shares, np.eye(old, dtype=np.float32))


def test_a_frame_keeps_the_picture_in_the_middle_and_draws_out_its_edges() -> None:
    picture = np.full((3, 8, 8), -1, np.float32)
    picture[:, :, 0] = 1
    wide = framed(picture, width=16, height=8)
    assert wide.shape == (8, 16, 3)
    assert wide[0, :, 0].tolist() == [255] * 5 + [0] * 11
    assert framed(picture, width=8, height=16).shape == (16, 8, 3)


def test_the_painter_is_the_same_with_two_threads() -> None:
    drawing = Drawing("a big red star on a white background", "", 3, 64, 64, 4, 2.0)
    one, two = (load_painter(SHIPPED, threads=threads).draw(drawing) for threads in (1, 2))
    assert abs(one.astype(int) - two.astype(int)).max() <= 2
