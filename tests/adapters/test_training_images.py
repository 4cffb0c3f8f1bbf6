"""The shipped image model and the scripts that make it: scenes, captions, the judge, the files."""

import json
import random
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from training.tiny_image import export, judge, train
from training.tiny_image.scenes import (
    COLOURS,
    PLACES,
    SHAPES,
    SIDE_PIXELS,
    SIZES,
    STRANGE_WORDS,
    Pixels,
    Scene,
    any_mask,
    any_scene,
    caption,
    is_inside,
    painted,
    plain_caption,
    vocabulary,
)

from penstock.adapters.engines.images import images_folder
from penstock.adapters.engines.images_onnx import load_painter

SHIPPED = images_folder("images", "builtin:tiny-image")
BYTES_MAX = 6 << 20


def picture(scene: Scene, seed: int, *, noise: float = 0.0) -> Pixels:
    """(32, 32, 3)."""
    values = painted(any_mask(scene, random.Random(seed)), scene.colour, scene.background)
    rough = values + np.random.default_rng(seed).normal(0, noise, values.shape)
    return np.clip(np.rint((rough + 1) * 127.5), 0, 255).astype(np.uint8).transpose(1, 2, 0)


def some_scenes(seed: int, count: int) -> Iterator[Scene]:
    chance = random.Random(seed)
    return (any_scene(chance, centred_share=0.3) for _ in range(count))


def test_the_judge_names_what_was_painted() -> None:
    pairs = [
        (scene, judge.seen(picture(scene, number, noise=0.05)))
        for number, scene in enumerate(some_scenes(3, 200))
    ]
    told = judge.score(pairs)
    assert told["colour"] == told["background"] == 1
    assert told["all"] > 0.97


def test_the_judge_is_not_pleased_with_everything() -> None:
    scene = Scene("circle", "red", "white")
    for wrong in (
        Scene("square", "red", "white"),
        Scene("circle", "pink", "white"),
        Scene("circle", "red", "yellow"),
        Scene("circle", "red", "white", "small"),
        Scene("circle", "red", "white", "big", "left"),
    ):
        assert judge.seen(picture(wrong, 1)) == wrong
        assert judge.score([(scene, judge.seen(picture(wrong, 1)))])["all"] == 0


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_picture_of_nothing_is_judged_too(value: int) -> None:
    flat = np.full((64, 64, 3), value, np.uint8)
    assert judge.seen(flat).background in COLOURS


def test_a_large_picture_is_judged_as_its_small_one() -> None:
    small = picture(Scene("star", "yellow", "black"), 1)
    assert judge.seen(small.repeat(8, 0).repeat(8, 1)) == judge.seen(small)


def test_there_are_5400_scenes_and_a_sample_of_them_is_fixed_by_its_seed() -> None:
    assert len(set(judge.some_scenes(10**6, 1))) == 5_400
    assert judge.some_scenes(50, 1) == judge.some_scenes(50, 1) != judge.some_scenes(50, 2)


@given(st.integers(0, 10**6))
def test_every_word_of_every_caption_is_in_the_vocabulary(seed: int) -> None:
    chance = random.Random(seed)
    scene = any_scene(chance, centred_share=0.3)
    words = set(caption(scene, chance).split()) - set(STRANGE_WORDS)
    assert words <= set(vocabulary())
    assert set(plain_caption(scene).split()) <= set(vocabulary())


def test_the_shipped_tokenizer_knows_exactly_the_vocabulary() -> None:
    told = json.loads((SHIPPED / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    assert sorted(told.values()) == list(range(len(told)))
    assert set(told) - {"<pad>", "</s>", "<unk>"} == set(vocabulary())


def test_a_plain_caption_says_everything() -> None:
    captions = {plain_caption(scene) for scene in judge.some_scenes(10**6, 1)}
    assert len(captions) == 5_400


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_where_it_should_be_and_not_everywhere(shape: str) -> None:
    y, x = np.mgrid[-16:16, -16:16] + 0.5
    inside = is_inside(shape, x, y, 9.0)
    assert 0.05 < inside.mean() < 0.3
    assert np.array_equal(inside, inside[:, ::-1]), "left and right are alike"
    assert not inside[[0, -1]].any()


def test_a_shape_touches_the_border_at_most() -> None:
    for number, scene in enumerate(judge.some_scenes(300, 4)):
        cover = any_mask(scene, random.Random(number))
        assert cover.shape == (SIDE_PIXELS, SIDE_PIXELS)
        assert 0 <= cover.min() <= cover.max() <= 1
        border = [cover[0], cover[-1], cover[:, 0], cover[:, -1]]
        assert max(float(side.mean()) for side in border) < 0.25


def test_an_unknown_shape_stops() -> None:
    with pytest.raises(KeyError, match="heart"):
        is_inside("heart", np.zeros((1, 1)), np.zeros((1, 1)), 1.0)


def test_chance_draws_every_fact() -> None:
    scenes = list(some_scenes(5, 2_000))
    assert {scene.shape for scene in scenes} == set(SHAPES)
    assert {scene.colour for scene in scenes} == set(COLOURS)
    assert {scene.place for scene in scenes} == set(PLACES)
    assert {scene.size for scene in scenes} == set(SIZES)
    assert all(scene.colour != scene.background for scene in scenes)


def test_the_shipped_files_are_those_whose_digests_are_written_down() -> None:
    lines = (SHIPPED / "SHA256").read_text().splitlines()
    listed = {line[66:]: line[:64] for line in lines}
    found = {
        path.relative_to(SHIPPED).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in SHIPPED.rglob("*")
        if path.is_file() and path.name not in {"SHA256", "README.md"}
    }
    assert listed == found
    card = (SHIPPED / "README.md").read_text()
    assert listed["transformer/diffusion_pytorch_model.safetensors"] in card
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < BYTES_MAX


def test_the_card_counts_the_parameters_right() -> None:
    parts = ("text_encoder/model", "transformer/diffusion_pytorch_model")
    files = [load_file(SHIPPED / f"{part}.safetensors") for part in parts]
    total = sum(tensor.size for file in files for tensor in file.values())
    assert f"{total:,} parameters" in (SHIPPED / "README.md").read_text()


def test_the_weights_are_kept_once_in_half_precision() -> None:
    for part, name in export.WEIGHTS.items():
        file = SHIPPED / part / name
        tensors = load_file(file)
        places = export.places_in(file)
        graph = (SHIPPED / part / "model.onnx").read_bytes()
        assert len(graph) < 200_000, "a graph holds no weights of its own"
        assert name.encode() in graph, "it points at them"
        for tensor_name, values in tensors.items():
            start, length = places[tensor_name]
            assert values.dtype == np.float16
            assert file.read_bytes()[start : start + length] == values.tobytes()


def test_no_file_names_the_machine_that_made_it() -> None:
    for path in SHIPPED.rglob("*"):
        if path.is_file():
            held = path.read_bytes()
            assert not any(word in held for word in (b"/home/", b"/tmp/", b"site-packages"))


def test_the_model_draws_as_well_as_its_card_says() -> None:
    """A fixed sample of all scenes through the engine's own painter; a blank page would get 0.1 of the
    colours behind, and 0.1 of those in front.
    """
    painter = load_painter(SHIPPED, threads=1)
    settings = painter.settings
    pairs = []
    for number, scene in enumerate(judge.some_scenes(60, 11)):
        pixels = judge.drawn(
            painter, scene, seed=number, steps=settings.steps, guidance=settings.guidance
        )
        pairs.append((scene, judge.seen(pixels)))
    told = judge.score(pairs)
    assert told["background"] > 0.95
    assert told["colour"] > 0.4
    assert told["place"] > 0.3


@pytest.mark.parametrize(
    ("module", "arguments"), [(train, ["train", "out"]), (export, ["export", "in", "out"])]
)
def test_without_torch_the_scripts_say_what_to_install(
    module: object, arguments: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "NEEDED", ("a_package_that_nobody_has",))
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match="pip install a_package_that_nobody_has"):
        module.main()  # type: ignore[attr-defined]
    assert not (tmp_path / "out").exists()


def test_the_learning_rate_warms_up_holds_and_falls() -> None:
    rates = [train.rate_share(step, spent) for step, spent in ((0, 0.0), (500, 0.4), (900, 1.0))]
    assert rates == [0.02, 1.0, 0.02]


def test_inner_matrices_are_those_between_hidden_states() -> None:
    assert train.is_inner("transformer_blocks.0.attn1.to_q.weight")
    for name in ("shared.weight", "pos_embed.proj.weight", "proj_out.weight", "scale_shift_table"):
        assert not train.is_inner(name)
