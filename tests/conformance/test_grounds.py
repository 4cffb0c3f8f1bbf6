"""Suites are pinned by hash, come up once, and say why when they cannot be had."""

import hashlib
import re
import tomllib
from pathlib import Path

import pytest
from conformance.grounds import LOCKS, Unavailable, environment, locked_version, npm_folder
from conformance.market import FOLDER, aliases
from conformance.suites import ANTHROPIC, OPENAI_2, OPENAI_3, SUITES, Foreign

from conformance import grounds


@pytest.mark.parametrize("file", sorted(LOCKS.glob("*.lock")), ids=lambda file: file.stem)
def test_every_package_of_a_lock_is_pinned_by_hash_and_by_no_address(file: Path) -> None:
    text = file.read_text()
    pins = re.findall(r"(?m)^[a-z0-9][a-z0-9._\[\]-]*==\S+", text)
    assert pins
    assert len(re.findall(r"(?m)^\S+==.*\\$", text)) == len(pins)
    assert "://" not in text
    assert file.with_suffix(".in").exists()


@pytest.mark.parametrize("foreign", [OPENAI_2, OPENAI_3, ANTHROPIC], ids=lambda one: one.name)
def test_a_suites_source_is_of_the_version_that_its_client_has(foreign: Foreign) -> None:
    package, _, version = foreign.sdist.pin.partition("==")
    assert locked_version(foreign.name, package) == version
    assert re.fullmatch(r"[0-9a-f]{64}", foreign.sdist.sha256)


def test_the_npm_lock_pins_every_package_by_its_hash() -> None:
    lock = (FOLDER / "js" / "package-lock.json").read_text()
    assert lock.count('"integrity": "sha512-') >= lock.count('"node_modules/') > 10
    assert "^" not in (FOLDER / "js" / "package.json").read_text()


def test_suites_have_names_of_their_own() -> None:
    assert len({suite.name for suite in SUITES}) == len(SUITES)


def test_an_alias_stands_for_one_chute_that_is_deployed() -> None:
    found = tomllib.loads((FOLDER / "aliases.toml").read_text())
    assert len(aliases()) == sum(len(names) for names in found.values())
    ours = {tomllib.loads(file.read_text())["name"] for file in FOLDER.glob("chutes/*.toml")}
    up = FOLDER.parent / "src" / "penstock" / "cli" / "chutes"
    ours |= {tomllib.loads(file.read_text())["name"] for file in up.rglob("*.toml")}
    assert set(aliases().values()) <= ours


def test_a_suite_sees_nothing_of_our_environment_that_could_change_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere")
    monkeypatch.setenv("HTTP_PROXY", "http://elsewhere")
    told = environment(A="b")
    assert told["A"] == "b"
    assert "OPENAI_BASE_URL" not in told
    assert "HTTP_PROXY" not in told


def test_without_npm_its_suites_are_unavailable_and_say_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="npm is not installed"):
        npm_folder()


def test_a_tool_that_fails_is_unavailable_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no such package"):
        grounds._ran(["bash", "-c", "echo no such package >&2; exit 1"])
    with pytest.raises(Unavailable, match="missing-tool"):
        grounds._ran([str(tmp_path / "missing-tool")])


def test_what_is_made_from_another_lock_is_made_anew(tmp_path: Path) -> None:
    assert not grounds._is_made(tmp_path, b"one")
    grounds._made(tmp_path, b"one")
    assert grounds._is_made(tmp_path, b"one")
    assert not grounds._is_made(tmp_path, b"two")
    assert (tmp_path / grounds.STAMP).read_text() == hashlib.sha256(b"one").hexdigest()
