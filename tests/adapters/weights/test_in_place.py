"""Weights that lie on this machine: proven once, and again when they changed."""

import os
from pathlib import Path

import pytest
from tests.adapters.weights.hub_server import gguf, safetensors, sha
from tests.adapters.weights.makers import SetClock, folder_digest

from penstock.adapters.engines.catalogue import EngineWorld, build_engine, model_digest
from penstock.adapters.engines.model_files import located, model_name
from penstock.adapters.weights.errors import (
    DigestWrong,
    FormatRefused,
    PickleRefused,
    SourceMissing,
)
from penstock.adapters.weights.in_place import InPlace
from penstock.adapters.weights.model import model_of_file
from penstock.adapters.weights.part import Part
from penstock.adapters.weights.store import WeightStore
from penstock.kit.engine import EngineFailed, EngineLimits
from penstock.kit.wire.sockets import Sockets

MODEL = gguf(1_000)
FOLDER = {"m.safetensors": safetensors(500), "config.json": b"{}"}


@pytest.fixture
def here(tmp_path: Path) -> InPlace:
    return InPlace(tmp_path / "memory")


def test_a_file_is_held_against_its_digest(here: InPlace, tmp_path: Path) -> None:
    place = tmp_path / "m.gguf"
    place.write_bytes(MODEL)
    assert here.check(place, sha(MODEL)) == place
    assert here.check(place, "") == place
    with pytest.raises(DigestWrong):
        here.check(place, sha(b"x"))


def test_a_file_that_changed_is_read_again_and_one_that_did_not_is_not(
    here: InPlace, tmp_path: Path
) -> None:
    place = tmp_path / "m.gguf"
    place.write_bytes(MODEL)
    before = place.stat()
    assert here.digest(place) == sha(MODEL)
    changed = MODEL[:-1] + b"!"
    place.write_bytes(changed)
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert here.digest(place) == sha(MODEL), "it was not read: size and time are as before"
    os.utime(place, ns=(1, before.st_mtime_ns + 1))
    assert here.digest(place) == sha(changed)


def test_a_memory_that_was_torn_costs_only_a_reading(here: InPlace, tmp_path: Path) -> None:
    place = tmp_path / "m.gguf"
    place.write_bytes(MODEL)
    (tmp_path / "memory").write_bytes(b'{"x":')
    assert here.digest(place) == sha(MODEL)


def test_a_folder_has_the_digest_that_a_hub_gives_it(here: InPlace, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, data in {**FOLDER, "README.md": b"x", ".hidden.json": b"{}"}.items():
        (folder / name).write_bytes(data)
    assert here.digest(folder) == folder_digest(FOLDER)
    assert here.check(folder, folder_digest(FOLDER)) == folder


def test_what_is_no_weights_is_refused(here: InPlace, tmp_path: Path) -> None:
    with pytest.raises(SourceMissing):
        here.digest(tmp_path / "none.gguf")
    with pytest.raises(SourceMissing):
        here.check(tmp_path / "none.gguf", "")
    (tmp_path / "m.bin").write_bytes(b"x")
    with pytest.raises(PickleRefused):
        here.digest(tmp_path / "m.bin")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatRefused):
        here.digest(tmp_path / "empty")


def test_an_engine_finds_fetched_weights_by_the_manifests_digest(tmp_path: Path) -> None:
    store = WeightStore(tmp_path / "weights", SetClock())
    part = Part(store.partial(sha(MODEL)))
    part.append([MODEL])
    part.move(store.blob(sha(MODEL)))
    part.close()
    store.publish(model_of_file("m.gguf", sha(MODEL), len(MODEL)), is_public=True)
    for source in ("hf:o/r/m.gguf@main", "https://h/m.gguf", "penstock:https://m:1"):
        assert located(source, sha(MODEL), weights=store).read_bytes() == MODEL
        with pytest.raises(EngineFailed, match="is not here"):
            located(source, sha(b"other"), weights=store)
        with pytest.raises(EngineFailed):
            located(source, sha(MODEL), weights=None)
    world = EngineWorld(Sockets(), os.urandom, tmp_path, {}, store)
    assert world.located("hf:o/r/m.gguf", sha(MODEL)).name == "m.gguf"
    folder = tmp_path / "mine"
    folder.mkdir()
    assert world.located(f"file:{folder}", "") == folder
    assert world.located("builtin:tiny-chat", "").name == "tiny-chat-q8_0.gguf"


def test_a_source_is_refused_when_the_engine_is_built_not_when_it_starts(tmp_path: Path) -> None:
    world = EngineWorld(Sockets(), os.urandom, tmp_path, {})
    build_engine("llamacpp", "hf:o/r/m.gguf@main", EngineLimits(), world=world, digest=sha(MODEL))
    with pytest.raises(EngineFailed, match=r"hf:owner/repo/model\.gguf@rev"):
        build_engine("llamacpp", "hf:../r", EngineLimits(), world=world)
    with pytest.raises(EngineFailed, match="model_digest"):
        model_digest("llamacpp", "hf:o/r/m.gguf@main")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("hf:o/r/sub/m.gguf@v1", "m"),
        ("hf:o/r@v1/sub/m.gguf", "m"),
        ("https://h/a/m.gguf", "m"),
        ("builtin:tiny-chat", "tiny-chat"),
        ("file:/a/m.gguf", "m"),
    ],
)
def test_a_model_is_called_as_its_file(source: str, name: str) -> None:
    assert model_name(source) == name
