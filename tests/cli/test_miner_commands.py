"""The commands of a running miner: top, drain, maintenance; and all of them where none runs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.agents import CARD, INSTANCE, agent_at, frame_of
from tests.cli.stations import Stations, invoke

from penstock.cli.errors import Stop
from penstock.cli.miner import MINER_COMMANDS
from penstock.cli.miner_home import NO_AGENT, MinerHome
from penstock.cli.miner_maintenance import plan_body, span_ms, window_words


@pytest.fixture
def home(tmp_path: Path) -> MinerHome:
    return MinerHome.at(str(tmp_path / "m"))


@pytest.fixture
def agent(home: MinerHome) -> Iterator[Stations]:
    stations = Stations()
    stations.says("/v1/frame", frame_of())
    stations.says("/v1/maintenance", {"maintenance": None})
    with agent_at(home, stations):
        yield stations


def planned(agent: Stations) -> list[Any]:
    """What was asked to be planned."""
    return [json.loads(one.body) for one in agent.asked if one.method == "POST"]


@pytest.mark.parametrize("name", [*MINER_COMMANDS])
def test_every_command_has_help_and_json(name: str) -> None:
    result = invoke("miner", name, "--help")
    assert result.exit_code == 0
    assert "--json" in result.output
    assert "--home" in result.output
    assert name in invoke("miner", "--help").output


def test_an_unknown_command_is_refused() -> None:
    assert invoke("miner", "uup").exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [("top",), ("top", "--once"), ("top", "--json"), ("drain",), ("maintenance",)],
)
def test_where_no_miner_runs_the_exit_code_says_so(
    home: MinerHome, arguments: tuple[str, ...]
) -> None:
    result = invoke("miner", *arguments, "--home", str(home.path))
    assert result.exit_code == NO_AGENT
    assert f"penstock miner up --home {home.path}" in result.output


def test_top_prints_a_frame_or_its_json(home: MinerHome, agent: Stations) -> None:
    text = invoke("miner", "top", "--once", "--home", str(home.path)).output
    assert "tiny-chat" in text
    assert "serving" in text
    assert "\x1b" not in text
    assert json.loads(invoke("miner", "top", "--json", "--home", str(home.path)).output) == (
        frame_of()
    )


def test_top_shows_what_a_stranger_wrote_without_what_steers_a_terminal(
    home: MinerHome, agent: Stations
) -> None:
    nasty = "\x1b]0;title\x07\x1b[2J[red]x"
    instance = {**INSTANCE, "name": nasty, "why": nasty, "state": "failed"}
    agent.says("/v1/frame", frame_of(instances=[instance], problems=[nasty], gpus=[CARD]))
    result = invoke("miner", "top", "--once", "--home", str(home.path))
    assert result.exit_code == 0
    assert "\x1b" not in result.output
    assert result.output.count("[red]x") == 3, "chute, reason and problem"


def test_maintenance_is_shown_planned_and_cancelled(home: MinerHome, agent: Stations) -> None:
    at = ("--home", str(home.path))
    assert "No maintenance" in invoke("miner", "maintenance", *at).output
    window = {"from_ms": 1_800_000_000_000, "until_ms": 1_800_000_060_000, "is_on": False}
    agent.says("/v1/maintenance", {"maintenance": window}, method="POST")
    said = invoke("miner", "maintenance", "--at", "+5m", "--for", "1m", *at)
    assert "returns by itself" in said.output
    assert planned(agent) == [{"length_ms": 60_000, "after_ms": 300_000}]
    agent.says("/v1/maintenance", {"maintenance": None}, method="DELETE")
    told = invoke("miner", "maintenance", "--cancel", "--json", *at)
    assert json.loads(told.output) == {"maintenance": None}


def test_what_the_agent_refuses_is_said_in_its_words(home: MinerHome, agent: Stations) -> None:
    refusal = {"error": {"code": "bad_plan", "message": "it would be over already"}}
    agent.says("/v1/maintenance", refusal, method="POST", status=400)
    result = invoke("miner", "maintenance", "--for", "1m", "--home", str(home.path))
    assert result.exit_code == 1
    assert "it would be over already" in result.output


@pytest.mark.parametrize(
    "arguments", [("--at", "+5m"), ("--at", "soon", "--for", "1h"), ("--for", "an hour")]
)
def test_times_that_make_no_sense_are_refused_before_anybody_is_asked(
    home: MinerHome, agent: Stations, arguments: tuple[str, ...]
) -> None:
    result = invoke("miner", "maintenance", *arguments, "--home", str(home.path))
    assert result.exit_code == 1
    assert "Next:" in result.output
    assert planned(agent) == []


def test_spans_and_times_are_read() -> None:
    assert [span_ms(text) for text in ("90s", "30m", "2h", "1d")] == [
        90_000,
        1_800_000,
        7_200_000,
        86_400_000,
    ]
    assert plan_body("now", "1m") == {"length_ms": 60_000}
    body = plan_body("2026-05-01T04:00:00+00:00", "1h")
    assert body == {"length_ms": 3_600_000, "at_ms": 1_777_608_000_000}
    for text in ("", "h", "1.5h", "-1h", "1w", "9999999s"):
        with pytest.raises(Stop):
            span_ms(text)


def test_a_window_is_told_in_words() -> None:
    on: dict[str, Any] = {"from_ms": 0, "until_ms": 1, "is_on": True}
    assert "serves again at" in window_words(on)
    assert "No maintenance" in window_words(None)


def test_drain_without_waiting_says_what_runs(home: MinerHome, agent: Stations) -> None:
    agent.says("/v1/drain", {"draining": True, "running": 4}, method="POST", status=202)
    result = invoke("miner", "drain", "--no-wait", "--home", str(home.path))
    assert "4 requests" in result.output
    told = invoke("miner", "drain", "--no-wait", "--json", "--home", str(home.path))
    assert json.loads(told.output) == {"draining": True, "stopped": False, "running": 4}


def test_an_up_beside_a_running_miner_changes_nothing(home: MinerHome, agent: Stations) -> None:
    result = invoke("miner", "up", "--gateway", "http://x", "--home", str(home.path))
    assert result.exit_code == 0
    assert "already runs" in result.output
    assert "4711" in result.output
    assert not home.config_file.exists()
    told = json.loads(invoke("miner", "up", "--json", "--home", str(home.path)).output)
    assert told["frame"]["pid"] == 4711
