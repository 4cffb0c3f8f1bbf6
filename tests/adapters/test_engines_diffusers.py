"""The diffusers engine: what it refuses without torch, and with it the shipped model for real.

The real part needs the extra `heavy` (`make up ALL=1`) and says so where it is skipped.
"""

import base64
import json
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import pytest_asyncio
from tests.engine_makers import DEADLINE_MS, Caller, make_world
from tests.pictures import pixels_of
from training.tiny_image.judge import seen
from training.tiny_image.scenes import Scene, plain_caption

from penstock.adapters.engines import images
from penstock.adapters.engines.catalogue import build_engine, model_digest
from penstock.adapters.engines.diffusers_worker import (
    SIDE_PIXELS_MAX,
    best_device,
    bounds_of,
    check_folder,
    cut_out,
    draw_with,
    rounded_up,
)
from penstock.adapters.engines.images_request import Drawing
from penstock.adapters.engines.png import Pixels
from penstock.kit.engine import Capability, Engine, EngineFailed, EngineLimits
from penstock.kit.wire.problem import Refusal

module_loop = pytest.mark.asyncio(loop_scope="module")
heavy = pytest.mark.skipif(
    any(find_spec(name) is None for name in images.DIFFUSERS_PACKAGES),
    reason="the extra `heavy` is not installed: run `make up ALL=1` or `pip install '.[heavy]'`",
)

BUILTIN = "builtin:tiny-image"
PATH = "/v1/images/generations"
WISH = Drawing("a star", "a ring", 7, 60, 40, 5, 2.0)
SCENE = Scene("circle", "red", "white")


class Device:
    """What torch says of a machine, and its source of chance."""

    def __init__(self, *, cuda: bool = False, mps: bool = False) -> None:
        self.cuda = SimpleNamespace(is_available=lambda: cuda)
        self.backends = SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps))

    class Generator:
        def __init__(self, device: str) -> None:
            assert device == "cpu"
            self.seed = -1

        def manual_seed(self, seed: int) -> "Device.Generator":
            self.seed = seed
            return self

    class inference_mode:  # noqa: N801 - torch's name
        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...


class Pipeline:
    """Draws grey of the asked size, or fails; takes no negative prompt, as some do not."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: dict[str, Any] = {}

    def __call__(
        self, *, prompt: str, width: int, height: int, generator: Any, output_type: str
    ) -> Any:
        self.asked = {"prompt": prompt, "seed": generator.seed, "output_type": output_type}
        if self.error is not None:
            raise self.error
        return SimpleNamespace(images=[np.full((height, width, 3), 0.5, np.float32)])


def index(folder: Path, **parts: Any) -> Path:
    told = {"_class_name": "FluxPipeline", "_diffusers_version": "0.42.1", **parts}
    (folder / "model_index.json").write_text(json.dumps(told))
    return folder


def test_a_stock_pipeline_may_run(tmp_path: Path) -> None:
    parts = {"vae": ["diffusers", "AutoencoderKL"], "text_encoder_3": [None, None], "flag": True}
    check_folder(index(tmp_path, **parts))


@pytest.mark.parametrize(
    "parts",
    [
        {"_class_name": ["pipeline", "Own"]},
        {"_class_name": None},
        {"unet": ["my_code", "Unet"]},
        {"unet": []},
        {"unet": ["transformers_modules.evil", "Unet"]},
    ],
)
def test_a_model_with_code_of_its_own_is_refused(tmp_path: Path, parts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="code of its own"):
        check_folder(index(tmp_path, **parts))


def test_a_script_anywhere_in_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "mine.py").touch()
    with pytest.raises(ValueError, match="code of its own"):
        check_folder(index(tmp_path))


def test_the_best_device_is_taken() -> None:
    assert best_device(Device(cuda=True, mps=True)) == "cuda"
    assert best_device(Device(mps=True)) == "mps"
    assert best_device(Device()) == "cpu"


def test_the_bounds_come_from_the_model(tmp_path: Path) -> None:
    unet = SimpleNamespace(config=SimpleNamespace(sample_size=64))
    plain = bounds_of(SimpleNamespace(unet=unet, vae_scale_factor=8), tmp_path)
    assert (plain.side_pixels, plain.side_pixels_max) == (512, SIDE_PIXELS_MAX)
    assert bounds_of(SimpleNamespace(default_sample_size=96), tmp_path).side_pixels == 768
    (tmp_path / "images.json").write_text('{"steps": 3, "guidance": 1.5, "other": 1}')
    told = bounds_of(SimpleNamespace(), tmp_path)
    assert (told.steps, told.guidance, told.side_pixels) == (3, 1.5, 1024)


def test_a_pipeline_is_asked_for_what_it_knows_and_the_size_is_cut_out() -> None:
    pipeline = Pipeline()
    pixels = draw_with(pipeline, Device)(WISH)
    assert pipeline.asked == {"prompt": "a star", "seed": 7, "output_type": "np"}
    assert pixels.shape == (40, 60, 3)
    assert set(pixels.ravel().tolist()) == {128}


@pytest.mark.parametrize("error", [ValueError("no"), RuntimeError("x" * 9_999)])
def test_what_the_network_cannot_take_is_a_bad_request(error: Exception) -> None:
    with pytest.raises(Refusal) as caught:
        draw_with(Pipeline(error), Device)(WISH)
    told = msgspec.json.decode(caught.value.response.body)["error"]
    assert told["param"] == "size"
    assert "60x40" in told["message"]
    assert len(told["message"]) < 300


def test_sides_are_rounded_up_to_whole_patches_and_cut_back() -> None:
    assert [rounded_up(side) for side in (16, 17, 300, 1024)] == [16, 32, 304, 1024]
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    assert np.array_equal(cut_out(pixels, width=2, height=2), pixels[1:3, 2:4])


async def test_without_its_packages_the_command_that_installs_them_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(images, "DIFFUSERS_PACKAGES", ("a_package_that_nobody_has",))
    engine = build_engine("diffusers", BUILTIN, EngineLimits(), world=make_world(tmp_path))
    with pytest.raises(EngineFailed, match="make up ALL=1"):
        await engine.start(deadline_ms=DEADLINE_MS)


def test_both_engines_name_the_same_model_alike() -> None:
    assert model_digest("diffusers", BUILTIN) == model_digest("images", BUILTIN)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    world = make_world(tmp_path_factory.mktemp("diffusers"))
    made = build_engine("diffusers", BUILTIN, EngineLimits(), world=world)
    await made.start(deadline_ms=3 * DEADLINE_MS)
    yield made
    await made.stop(deadline_ms=DEADLINE_MS)


async def drawn(engine: Engine, **fields: Any) -> list[Pixels]:
    reply = await Caller(engine).post(PATH, {"prompt": plain_caption(SCENE), **fields})
    assert reply.status == 200, reply.body
    data = msgspec.json.decode(reply.body)["data"]
    return [pixels_of(base64.b64decode(one["b64_json"])) for one in data]


@heavy
@module_loop
async def test_it_draws_what_is_asked_for_in_the_size_that_is_asked_for(engine: Engine) -> None:
    assert engine.capabilities == {Capability.IMAGES, Capability.SEED}
    for side in (256, 512):
        (picture,) = await drawn(engine, seed=7, size=f"{side}x{side}")
        assert picture.shape == (side, side, 3)
        painted = seen(picture)
        assert (painted.colour, painted.background) == (SCENE.colour, SCENE.background)


@heavy
@module_loop
async def test_the_seed_decides_and_counts_up(engine: Engine) -> None:
    two = await drawn(engine, seed=3, n=2)
    assert np.array_equal(two[1], (await drawn(engine, seed=4))[0])
    assert not np.array_equal(two[0], two[1])
    assert not np.array_equal(two[0], (await drawn(engine, seed=3, steps=5))[0])


@heavy
@module_loop
async def test_a_shape_the_network_cannot_take_is_a_bad_request(engine: Engine) -> None:
    reply = await Caller(engine).post(PATH, {"prompt": "a star", "size": "1024x1536"})
    assert reply.status == 400
    assert msgspec.json.decode(reply.body)["error"]["param"] == "size"
    assert await drawn(engine)


@heavy
async def test_weights_in_another_form_than_safetensors_are_not_loaded(tmp_path: Path) -> None:
    shipped = images.images_folder("diffusers", BUILTIN)
    for file in shipped.rglob("*"):
        if file.is_file():
            name = file.relative_to(shipped).as_posix().replace(".safetensors", ".bin")
            place = tmp_path / "model" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read_bytes())
    source = f"file:{tmp_path}/model"
    engine = build_engine("diffusers", source, EngineLimits(), world=make_world(tmp_path))
    with pytest.raises(EngineFailed, match="did not start"):
        await engine.start(deadline_ms=3 * DEADLINE_MS)
