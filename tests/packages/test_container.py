"""The image and its compose file: who runs, what is locked, and that all that is named exists."""

import fnmatch
import re
import tomllib
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
import yaml

from penstock.adapters.runtimes.imaged import PYTHON
from penstock.cli.main import main
from penstock.gateway.config import GatewayConfig
from penstock.miner.config import Deadlines

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "container"
IMAGE = (FOLDER / "Containerfile").read_text()
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def steps() -> list[tuple[str, str]]:
    """(instruction, its words), continued lines joined, comments left out."""
    text = "\n".join(line for line in IMAGE.splitlines() if not line.lstrip().startswith("#"))
    lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
    return [(word, rest) for line in lines if line for word, _, rest in [line.partition(" ")]]


def stage(number: int) -> list[tuple[str, str]]:
    """The steps of a stage, its FROM first."""
    found: list[list[tuple[str, str]]] = []
    for step in steps():
        if step[0] == "FROM":
            found.append([])
        if found:
            found[-1].append(step)
    return found[number]


def words(number: int, name: str) -> list[str]:
    return [rest for step, rest in stage(number) if step == name]


def test_both_stages_stand_on_the_one_base_that_whoever_builds_may_pin() -> None:
    assert steps()[0][0] == "ARG"
    assert steps()[0][1].startswith("BASE=docker.io/library/python:3.11-")
    assert [words(number, "FROM")[0].split()[0] for number in (0, 1)] == ["${BASE}"] * 2
    assert PROJECT["requires-python"] == ">=3.11"


def test_what_is_installed_is_locked_and_the_compiler_stays_behind() -> None:
    installs = [one for one in words(0, "RUN") if "pip install" in one]
    assert any("--require-hashes -r requirements.lock" in one for one in installs)
    assert all("--no-deps" in one for one in installs)
    assert not any("gcc" in one or "pip" in one for one in words(1, "RUN"))


def test_it_runs_as_nobody_with_a_home_that_is_its_own() -> None:
    (user,) = words(1, "USER")
    assert user == "65532:65532"
    assert any("useradd --uid 65532" in one for one in words(1, "RUN"))
    order = [step for step, _ in stage(1)]
    assert order.index("USER") < order.index("ENTRYPOINT")
    assert "RUN" not in order[order.index("USER") :]
    (volume,) = words(1, "VOLUME")
    environment = words(1, "ENV")[0]
    assert f"HOME={volume}" in environment
    assert f"PENSTOCK_MINER_HOME={volume}" in environment


def test_its_interpreter_is_where_the_runtimes_look_for_it() -> None:
    assert any(f"{PYTHON.rpartition('/bin/')[0]}" in one for one in words(0, "RUN"))
    assert words(1, "ENV")[0].startswith(f"PATH={PYTHON.rpartition('/')[0]}:")


def test_its_label_is_this_release() -> None:
    assert f'version="{PROJECT["version"]}"' in words(1, "LABEL")[0]
    assert f'licenses="{PROJECT["license"]}"' in words(1, "LABEL")[0]


def test_what_it_copies_exists_and_is_let_through() -> None:
    rules = (FOLDER / "Containerfile.dockerignore").read_text().split()
    let_in = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    for copied in words(0, "COPY"):
        for name in copied.split()[:-1]:
            assert (ROOT / name).exists(), name
            assert any(fnmatch.fnmatch(name, rule) for rule in let_in), name
    assert rules[0] == "**"
    assert {"**/__pycache__", "**/*.so"} <= set(rules), "what this machine has built stays here"


def told(text: str) -> list[str]:
    found = msgspec.json.decode(text.partition("CMD ")[2] or text, type=list[str])
    return found[1:] if found[0] == "CMD" else found


def check_command(said: list[str]) -> None:
    """A command of `penstock`, with options that it has."""
    command: click.Command = main
    for number, word in enumerate(said):
        if not isinstance(command, click.Group):
            known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
            used = {one for one in said[number:] if one.startswith("--")}
            assert used <= known, said
            return
        found = command.get_command(click.Context(command), word)
        assert found is not None, said
        command = found


def test_its_commands_exist() -> None:
    assert told(words(1, "ENTRYPOINT")[0]) == ["penstock"]
    check_command(told(words(1, "CMD")[0]))
    health = told(words(1, "HEALTHCHECK")[0])
    assert health[0] == "penstock"
    check_command(health[1:])


@pytest.mark.parametrize("name", [*SERVICES])
def test_every_service_is_closed_and_says_a_command_that_exists(name: str) -> None:
    one = SERVICES[name]
    assert one["image"].endswith(f":{PROJECT['version']}}}")
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in one
    check_command([re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in one["command"]])
    assert (FOLDER / one["build"]["context"]).resolve() == ROOT
    assert (ROOT / one["build"]["dockerfile"]).is_file()
    for volume in one["volumes"]:
        source = volume.split(":")[0]
        assert source in COMPOSE["volumes"] or (FOLDER / source).is_file()


def test_stopping_a_service_leaves_time_for_a_drain() -> None:
    deadlines = Deadlines()
    drain_ms = deadlines.drain_ms + 2 * deadlines.peer_ms + deadlines.ledger_ms
    for one in SERVICES.values():
        minutes = re.fullmatch(r"(\d+)m", one["stop_grace_period"])
        assert minutes is not None
        assert int(minutes[1]) * 60_000 > drain_ms + deadlines.engine_stop_ms


def test_only_the_market_has_a_port_and_only_on_this_machine() -> None:
    ports = {name: one["ports"] for name, one in SERVICES.items() if "ports" in one}
    assert ports == {"market": ["127.0.0.1:8400:8400"]}
    gateway = msgspec.json.decode((FOLDER / "gateway.json").read_bytes())
    assert set(gateway) <= set(GatewayConfig.__struct_fields__)
    assert SERVICES["one-more-miner"]["network_mode"] == "service:market"
