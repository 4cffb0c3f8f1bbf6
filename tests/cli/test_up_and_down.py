"""up and down from the outside: two at once, early deaths, words for what went wrong, nothing left."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.cli.stations import API_KEY, Stations, invoke, running_home

from penstock.cli.home import DEFAULT_HOME, Home, free_port, read_json
from penstock.cli.up import _detach, _progress, print_welcome

HOLDER = """
import os, signal, sys
from penstock.cli.home import Home
home = Home.at(sys.argv[1])
handle = home.lock()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("holding", flush=True)
signal.pause()
"""
NO_SERVERS = ("--database-url", "postgresql://127.0.0.1:1/x", "--nats-url", "nats://127.0.0.1:1")


@pytest.fixture
def taken_port() -> Any:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def up(home: Path, *arguments: str) -> Any:
    return invoke("up", "--home", str(home), *arguments)


def test_a_second_up_changes_nothing_and_says_where_the_first_is(
    stations: Stations, home: Home
) -> None:
    before = {file: file.read_bytes() for file in home.path.rglob("*") if file.is_file()}
    for arguments in ((), ("--detach",), ("--port", "1", "--miners", "0")):
        result = up(home.path, *arguments)
        assert result.exit_code == 0
        assert f"already runs in {home.path} (process {os.getpid()})" in result.stdout
        assert stations.url in result.stdout
    assert {file: file.read_bytes() for file in home.path.rglob("*") if file.is_file()} == before


def test_a_second_up_while_the_first_is_coming_up_says_so(
    stations: Stations, tmp_path: Path
) -> None:
    with running_home(tmp_path, stations) as home:
        home.state_file.unlink()
        result = up(tmp_path)
    assert result.exit_code == 0
    assert "(coming up)" in result.stdout


def test_a_taken_port_is_told_with_a_free_one(tmp_path: Path, taken_port: int) -> None:
    result = up(tmp_path / "home", "--port", str(taken_port))
    assert result.exit_code == 1
    assert f"port {taken_port} is taken" in result.stderr
    assert "penstock up --port" in result.stderr
    assert not (tmp_path / "home" / "state.json").exists()


def test_a_home_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = up(tmp_path / "file")
    assert result.exit_code == 1
    assert "--home DIR" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [("--miners", "65"), ("--miners", "-1"), ("--validators", "x"), ("--port",), ("extra",)],
)
def test_what_cannot_be_meant_is_bad_usage(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert up(tmp_path, *arguments).exit_code == 2


def test_an_operator_key_that_others_can_read_stops_up_in_words(tmp_path: Path) -> None:
    home = Home.at(str(tmp_path))
    home.make()
    home.key_file("operator").write_text("{}")
    home.key_file("operator").chmod(0o644)
    result = up(tmp_path, "--port", str(free_port(set())))
    assert result.exit_code == 1
    assert "chmod 600" in result.stderr


def test_a_station_that_cannot_start_is_named_with_its_last_words(tmp_path: Path) -> None:
    """Real processes, no servers: the ledger refuses its configuration and all of it goes down."""
    home = Home.at(str(tmp_path))
    home.make()
    (tmp_path / "overrides").mkdir()
    (tmp_path / "overrides" / "ledger.json").write_text('{"colour": "blue"}')
    port = str(free_port(set()))
    arguments = ["--port", port, "--miners", "0", "--validators", "0", *NO_SERVERS]
    result = subprocess.run(
        [sys.executable, "-m", "penstock.cli.main", "up", "--home", str(tmp_path), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "ledger did not start" in result.stderr
    assert "colour" in result.stderr
    assert f"penstock logs ledger --home {tmp_path}" in result.stderr
    assert not home.state_file.exists()
    assert home.supervisor_pid() is None


def test_a_detached_market_that_dies_early_shows_its_last_words(
    tmp_path: Path, taken_port: int
) -> None:
    home = Home.at(str(tmp_path))
    home.make()
    arguments = ["up", "--detach", "--port", str(taken_port), "--home", str(tmp_path)]
    with pytest.raises(Exception, match=f"port {taken_port} is taken") as caught:
        _detach(home, arguments)
    assert "the market did not come up" in str(caught.value)
    assert "Error: " not in str(caught.value)
    assert not list(tmp_path.glob("progress-*"))
    assert f"port {taken_port} is taken" in home.log_file("supervisor").read_text()


def test_a_detached_market_that_finds_another_leaves_it_alone(
    stations: Stations, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_home(tmp_path, stations) as home:
        _detach(home, ["up", "--detach", "--home", str(tmp_path)])
        assert home.supervisor_pid() == os.getpid()
    assert "already runs" in capsys.readouterr().out


def test_progress_goes_to_a_file_for_who_waits_and_the_file_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    with _progress(quiet=True, file=str(path)) as told:
        told("loading tiny-chat", 3, 9)
        assert read_json(path) == {"step": "loading tiny-chat", "done": 3, "of": 9}
        assert path.stat().st_mode & 0o077 == 0
    assert not path.exists()


def test_progress_on_a_pipe_is_silent_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with _progress(quiet=True, file=None) as told:
        told("starting", 1, 2)
        told("ready", 2, 2)
    assert capsys.readouterr().err == ""


def test_without_a_terminal_each_step_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with _progress(quiet=False, file=None) as told:
        told("starting nats", 0, 9)
        told("starting nats", 1, 9)
        told("loading tiny-chat", 8, 9)
        told("ready", 9, 9)
    assert capsys.readouterr().err.splitlines() == [
        "penstock: starting nats (0 of 9)",
        "penstock: loading tiny-chat (8 of 9)",
    ]


def test_the_next_command_names_the_home_so_that_it_can_be_pasted(tmp_path: Path) -> None:
    folder = tmp_path / "two wörds"
    told = invoke("status", "--home", str(folder)).stdout
    command = told.split("Start it: ")[1]
    assert shlex.split(command) == ["penstock", "up", "--home", str(folder)]
    assert Home.at(DEFAULT_HOME).flag == ""


@pytest.mark.parametrize("port", ["0", "-1", "80000"])
def test_a_port_that_is_none_is_refused_at_once(tmp_path: Path, port: str) -> None:
    result = up(tmp_path / "home", "--port", port)
    assert result.exit_code == 2
    assert "1<=x<=65535" in result.stderr
    assert not (tmp_path / "home").exists()


def test_a_key_that_others_can_read_is_told_in_words(tmp_path: Path) -> None:
    home = Home.at(str(tmp_path))
    home.make()
    home.key_file("gateway").write_text("{}")
    home.key_file("gateway").chmod(0o644)
    arguments = ["up", "--detach", "--port", str(free_port(set())), "--home", str(tmp_path)]
    for _ in range(2):
        with pytest.raises(Exception, match="chmod 600") as caught:
            _detach(home, arguments)
        assert "Traceback" not in str(caught.value)
        # What an earlier start said is not told again.
        assert str(caught.value).count("chmod 600") == 1


def test_the_welcome_can_be_pasted(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    print_welcome(home, "http://127.0.0.1:8400")
    told = capsys.readouterr().out
    assert f"penstock chat --home {home.path}" in told
    assert f'api_key="{API_KEY}"' in told
    start = told.index("curl ")
    command = told[start : told.index("\n\n", start)]
    assert subprocess.run(["bash", "-n", "-c", command], check=False).returncode == 0
    body = command.split("-d '")[1].rstrip("'")
    assert json.loads(body)["model"] == "tiny-chat"
    snippet = told[told.index("from openai") : told.index("\nNext:")]
    compile(snippet, "snippet", "exec")


def test_down_ends_the_process_that_holds_the_home(tmp_path: Path) -> None:
    home = Home.at(str(tmp_path))
    home.make()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holding\n"
        result = invoke("down", "--json", "--home", str(tmp_path))
        assert holder.wait() == 0
    assert json.loads(result.stdout) == {"stopped": True, "home": str(tmp_path.resolve())}
    again = invoke("down", "--home", str(tmp_path))
    assert again.exit_code == 0
    assert "No market runs" in again.stdout


def test_down_says_that_nothing_was_lost(tmp_path: Path) -> None:
    home = Home.at(str(tmp_path))
    home.make()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        result = invoke("down", "--home", str(tmp_path))
        holder.wait()
    assert "The books and the log stay" in result.stdout


def test_following_logs_prints_lines_as_they_come(tmp_path: Path) -> None:
    home = Home.at(str(tmp_path))
    home.make()
    for name in ("gateway", "miner-1"):
        home.log_file(name).write_text(f"{name} began\n")
    with subprocess.Popen(
        [sys.executable, "-m", "penstock.cli.main", "logs", "-f", "--home", str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as follower:
        assert follower.stdout is not None
        first = [follower.stdout.readline().split() for _ in range(2)]
        assert first == [["gateway", "gateway", "began"], ["miner-1", "miner-1", "began"]]
        with home.log_file("miner-1").open("a") as log:
            log.write("served\n")
        assert follower.stdout.readline().split() == ["miner-1", "served"]
        # SIGTERM, not SIGINT: a shell's background job, as some test runners are, ignores SIGINT.
        follower.terminate()
    assert follower.returncode == -signal.SIGTERM


def test_a_line_in_a_log_cannot_pass_for_two_or_steer_the_terminal(tmp_path: Path) -> None:
    home = Home.at(str(tmp_path))
    home.make()
    home.log_file("gateway").write_text("asked model=x\u2028ERROR forged\x1b[2J\x85end\r\n")
    shown = invoke("logs", "--home", str(tmp_path)).stdout
    assert len(shown.splitlines()) == 1
    assert "\x1b" not in shown


def test_how_many_lines_of_a_log_are_shown_can_be_said(tmp_path: Path) -> None:
    home = Home.at(str(tmp_path))
    home.make()
    home.log_file("ledger").write_text("".join(f"line {n}\n" for n in range(100)))
    shown = invoke("logs", "ledger", "-n", "2", "--home", str(tmp_path)).stdout
    assert shown == "line 98\nline 99\n"
    assert len(invoke("logs", "--home", str(tmp_path)).stdout.splitlines()) == 50
