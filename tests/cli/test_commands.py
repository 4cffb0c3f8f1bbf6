"""Commands as their user meets them: help, exit codes, JSON, and words when nothing runs."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from penstock.cli.logs import grow, tail
from penstock.cli.main import COMMANDS, main
from penstock.cli.output import short, usd


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize("name", [*COMMANDS])
def test_every_command_has_useful_help(name: str) -> None:
    result = invoke(name, "--help")
    assert result.exit_code == 0, result.output
    assert "Usage:" in result.output
    assert len(result.output) > 120


@pytest.mark.parametrize(
    "name", [name for name in COMMANDS if name not in {"up", "completion", "miner"}]
)
def test_every_command_that_tells_something_has_json(name: str) -> None:
    assert "--json" in invoke(name, "--help").output


def test_the_top_help_lists_every_command() -> None:
    output = invoke("--help").output
    assert all(name in output for name in COMMANDS)


def test_an_unknown_command_is_refused_with_exit_code_2() -> None:
    assert invoke("uup").exit_code == 2


def test_status_of_nothing_is_not_ready_and_its_json_has_every_key(tmp_path: Path) -> None:
    result = invoke("status", "--json", "--home", str(tmp_path / "none"))
    assert result.exit_code == 3
    found = json.loads(result.output)
    expected = {"ready", "gateway_url", "api_key", "chutes", "stations", "epoch", "log_size"}
    assert expected <= set(found)
    assert found["ready"] is False
    assert "penstock up" in invoke("status", "--home", str(tmp_path / "none")).output


@pytest.mark.parametrize(
    "arguments",
    [("chutes",), ("miners",), ("scores",), ("balance",), ("chat", "-m", "Hi"), ("logs",)],
)
def test_commands_without_a_market_say_how_to_start_one(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    result = invoke(*arguments, "--home", str(tmp_path))
    assert result.exit_code == 1
    assert "penstock up" in result.output


def test_down_without_a_market_is_no_error(tmp_path: Path) -> None:
    result = invoke("down", "--json", "--home", str(tmp_path))
    assert result.exit_code == 0
    assert json.loads(result.output)["stopped"] is False


def test_verify_wants_to_know_what(tmp_path: Path) -> None:
    assert invoke("verify", "--home", str(tmp_path)).exit_code == 2


def test_verify_of_an_epoch_that_is_not_there_has_its_own_exit_code(tmp_path: Path) -> None:
    result = invoke("verify", "--epoch", "1", "--home", str(tmp_path))
    assert result.exit_code == 4
    assert "not published" in result.output


def test_a_receipt_file_that_is_no_receipt_is_invalid(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text('{"record": {}}')
    result = invoke("verify", "--home", str(tmp_path), "receipt", str(path))
    assert result.exit_code == 1
    assert "invalid" in result.output
    path.write_text("no json")
    result = invoke("verify", "--home", str(tmp_path), "receipt", str(path))
    assert result.exit_code == 1
    assert "not JSON" in result.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script(shell: str) -> None:
    result = invoke("completion", shell)
    assert result.exit_code == 0
    assert "_PENSTOCK_COMPLETE" in result.output


def test_money_is_printed_exactly() -> None:
    assert usd(0) == "$0.00"
    assert usd(1) == "$0.000000001"
    assert usd(10_500_000_000) == "$10.50"
    assert usd(-1) == "$-0.000000001"


def test_identities_are_shortened_for_tables() -> None:
    assert short("ed25519:" + "ab" * 32) == "ed25519:abababababab"
    assert short("toy:" + "ab" * 8) == "toy:" + "ab" * 8


def test_the_end_of_a_log_is_read_without_reading_it_all(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("".join(f"line {number}\n" for number in range(100)))
    assert tail(path, 2) == ["line 98", "line 99"]
    assert tail(path, 0) == []
    # Following begins at a byte; what is shown before it ends there.
    assert tail(path, 2, end=len("line 0\nline 1\n")) == ["line 0", "line 1"]


def test_a_log_that_grows_is_followed_by_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("")
    lines = grow({path: 0})
    path.write_text("one\ntwo\nhalf")
    assert [next(lines), next(lines)] == [("a", "one"), ("a", "two")]
    with path.open("a") as log:
        log.write(" done\n")
    assert next(lines) == ("a", "half done")
    path.write_text("new\n")
    assert next(lines) == ("a", "new")


def test_logs_of_a_station_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "gateway.log").write_text("hello\n")
    result = invoke("logs", "nope", "--home", str(tmp_path))
    assert result.exit_code == 1
    assert "gateway" in result.output
    assert "hello" in invoke("logs", "gateway", "--home", str(tmp_path)).output
    assert json.loads(invoke("logs", "--json", "--home", str(tmp_path)).output) == {
        "gateway": ["hello"]
    }
