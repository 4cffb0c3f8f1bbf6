"""chutes, miners, scores, balance, status: what stations say, for people and for scripts."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.stations import API_KEY, Stations, invoke, running_home
from tests.makers import MANIFEST, MINER, OWNER, ToyKey

from penstock.cli.home import Home
from penstock.cli.output import plain
from penstock.spec.canon import to_plain
from penstock.spec.entries import Entry, EntryKind, leaf_bytes
from penstock.spec.keys import sign
from penstock.spec.messages import Payout, Report, Score, Settlement, Weight, chute_id

CHUTE = chute_id(MANIFEST)
EPOCH = 7
VALIDATOR = ToyKey("validator")
HOSTILE = "cpu[/red]\x1b[2J\x07\u202e"


def listed(**changes: Any) -> dict[str, Any]:
    manifest = to_plain(sign("manifest", MANIFEST, OWNER))
    one = {"chute": CHUTE, "name": "tiny-chat", "manifest": manifest, "target": None, "serving": 2}
    return {"chutes": [{**one, **changes}]}


def instances(**changes: Any) -> dict[str, Any]:
    one = {
        "instance": "miner-1-0000",
        "chute": CHUTE,
        "name": "tiny-chat",
        "room": 4,
        "tier": "open",
        "hardware": "cpu",
        "price": to_plain(MANIFEST.price_max),
        "valid_until_ms": 1,
    }
    miner = {"miner": MINER.identity, "owner": OWNER.identity, "instances": [{**one, **changes}]}
    return {"miners": [miner]}


def run(home: Home, *arguments: str, **options: Any) -> str:
    result = invoke(*arguments, "--home", str(home.path), **options)
    assert result.exit_code == 0, result.output
    return result.stdout


def as_json(home: Home, *arguments: str) -> Any:
    return json.loads(run(home, *arguments, "--json"))


def test_chutes_shows_what_serves_what_is_wanted_and_the_price(
    stations: Stations, home: Home
) -> None:
    stations.says("/v1/chutes", listed(target={"instances": 5}))
    header, row = run(home, "chutes").splitlines()
    assert header.split()[:5] == ["chute", "modality", "engine", "serving", "wanted"]
    assert row.split() == ["tiny-chat", "chat", "echo", "2", "5", "$0.05", "$0.20", CHUTE[:19]]


def test_without_a_target_the_least_that_the_owner_wants_is_shown(
    stations: Stations, home: Home
) -> None:
    stations.says("/v1/chutes", listed())
    assert run(home, "chutes").splitlines()[1].split()[4] == str(MANIFEST.instances_min)


@pytest.mark.parametrize(
    ("command", "path", "empty", "hint"),
    [
        ("chutes", "/v1/chutes", {"chutes": []}, "penstock deploy"),
        ("miners", "/v1/miners", {"miners": []}, "penstock logs miner-1"),
    ],
)
def test_an_empty_list_says_what_to_do(
    stations: Stations, home: Home, command: str, path: str, empty: Any, hint: str
) -> None:
    stations.says(path, empty)
    assert hint in run(home, command)
    assert as_json(home, command) == empty


def test_json_is_what_the_market_said_word_for_word(stations: Stations, home: Home) -> None:
    stations.says("/v1/chutes", listed())
    stations.says("/v1/miners", instances(hardware=HOSTILE))
    assert as_json(home, "chutes") == listed()
    assert as_json(home, "miners") == instances(hardware=HOSTILE)


def test_miners_shows_each_instance_with_its_room(stations: Stations, home: Home) -> None:
    stations.says("/v1/miners", instances())
    row = run(home, "miners").splitlines()[1]
    assert row.split() == [MINER.identity, "miner-1-0000", "tiny-chat", "4", "open", "cpu"]


def test_a_hostile_miner_cannot_steer_the_terminal_or_break_the_table(
    stations: Stations, home: Home
) -> None:
    stations.says("/v1/miners", instances(hardware=HOSTILE))
    shown = run(home, "miners")
    assert "cpu[/red]" in shown
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)


def test_text_of_strangers_keeps_its_lines_and_loses_its_controls() -> None:
    assert plain("a\tb\nc \u00e9\u4e2d") == "a\tb\nc \u00e9\u4e2d"
    for control in "\x1b\x07\x08\r\x00\x9b\u2028\u202e":
        assert control not in plain(f"a{control}b")


@pytest.mark.parametrize("terminal", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {}])
def test_a_pipe_gets_no_colours_and_no_folded_rows(
    stations: Stations, home: Home, terminal: dict[str, str]
) -> None:
    stations.says("/v1/miners", instances(hardware="x" * 60))
    shown = run(home, "miners", env={**terminal, "COLUMNS": "40"})
    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 2


def test_balance_is_asked_with_this_homes_key_and_shown_exactly(
    stations: Stations, home: Home
) -> None:
    found = {"account": "you", "available_nano": 9_999_999_999, "held_nano": 1}
    stations.says("/v1/balance", found)
    shown = run(home, "balance").split()
    assert shown == ["account", "you", "available", "$9.999999999", "held", "$0.000000001"]
    assert as_json(home, "balance") == found
    assert {one.bearer() for one in stations.asked} == {API_KEY}


def test_balance_of_another_key_comes_from_its_file(
    stations: Stations, home: Home, tmp_path: Path
) -> None:
    stations.says("/v1/balance", {"account": "other", "available_nano": 1, "held_nano": 0})
    key = tmp_path / "other-key"
    key.write_text("sk-other\n")
    assert as_json(home, "balance", "--key", str(key))["account"] == "other"
    assert stations.asked[0].bearer() == "sk-other"


def test_a_key_file_that_is_not_there_is_told(home: Home, tmp_path: Path) -> None:
    result = invoke("balance", "--home", str(home.path), "--key", str(tmp_path / "none"))
    assert result.exit_code == 1
    assert "cannot read the API key" in result.output


def test_a_refused_key_is_told_with_the_stations_words(stations: Stations, home: Home) -> None:
    error = {"error": {"code": "invalid_api_key", "message": "This key is unknown."}}
    stations.says("/v1/balance", error, status=401)
    result = invoke("balance", "--home", str(home.path))
    assert result.exit_code == 1
    assert "401 invalid_api_key" in result.stderr
    assert "This key is unknown." in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("answer", [b"<html>", b"", b"\xff", b"[" * 5_000])
@pytest.mark.parametrize("command", ["chutes", "miners", "balance", "scores"])
def test_a_station_that_answers_nonsense_is_told_and_not_a_crash(
    stations: Stations, home: Home, command: str, answer: bytes
) -> None:
    for path in ("/v1/chutes", "/v1/miners", "/v1/balance", "/v1/epochs"):
        stations.answers["GET", path] = answer
    result = invoke(command, "--home", str(home.path))
    assert result.exit_code == 1
    assert "not JSON" in result.stderr


@pytest.mark.parametrize("error", [{"error": "x"}, [], "down", {"error": {"message": 5}}])
def test_an_error_of_another_shape_still_tells_its_status(
    stations: Stations, home: Home, error: Any
) -> None:
    stations.says("/v1/chutes", error, status=500)
    result = invoke("chutes", "--home", str(home.path))
    assert result.exit_code == 1
    assert "500" in result.stderr


@pytest.mark.parametrize("command", ["chutes", "miners", "balance", "scores"])
def test_a_station_that_does_not_answer_is_told_with_the_next_step(
    tmp_path: Path, command: str
) -> None:
    with running_home(tmp_path, Stations(url="http://127.0.0.1:1")):
        result = invoke(command, "--home", str(tmp_path))
    assert result.exit_code == 1
    assert "does not answer" in result.stderr
    assert "penstock status" in result.stderr


def outcome(*, reports: bool = True) -> dict[str, Any]:
    """The published outcome of EPOCH, as far as `scores` reads it."""
    score = Score(
        MINER.identity,
        total_ppm=850_000,
        capacity_ppm=1_000_000,
        speed_ppm=333_333,
        availability_ppm=5,
        bounties_ppm=0,
    )
    report = Report(VALIDATOR.identity, EPOCH, "v1", 9, "00" * 32, "11" * 32, (score,))
    settled = Settlement(
        epoch=EPOCH,
        pool_nano=1_000,
        reserve_nano=100,
        weights=(Weight(MINER.identity, 1_000_000),),
        payouts=(Payout(MINER.identity, 900),),
        reports=(),
    )
    entries = [Entry(EntryKind.SETTLEMENT, "s", to_plain(sign("settlement", settled, VALIDATOR)))]
    if reports:
        body = to_plain(sign("report", report, VALIDATOR))
        entries.insert(0, Entry(EntryKind.REPORT, "r", body))
    leaves = [base64.b64encode(leaf_bytes(entry)).decode() for entry in entries]
    return {"epoch": EPOCH, "entries": [{"seq": 1, "leaf": leaf, "proof": []} for leaf in leaves]}


def publish(home: Home, value: object) -> None:
    path = home.public / f"epochs/{EPOCH:08d}/outcome.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(value))


def test_scores_of_the_newest_settled_epoch_with_payouts(stations: Stations, home: Home) -> None:
    publish(home, outcome())
    stations.says("/v1/epochs", {"epoch": 9, "closed": 8, "settled": EPOCH, "log_size": 3})
    lines = run(home, "scores").splitlines()
    assert lines[0] == "Epoch 7, policy v1, 1 report(s)"
    shares = ["85.00", "%", "100.00", "%", "33.33", "%", "0.00", "%", "0.00", "%"]
    assert lines[2].split() == [MINER.identity, *shares, "$0.0000009"]
    assert lines[3] == "pool $0.000001, kept in reserve $0.0000001"
    found = as_json(home, "scores", "--epoch", str(EPOCH))
    assert found["payouts"] == {MINER.identity: 900}
    assert found["weights"] == [{"miner": MINER.identity, "ppm": 1_000_000}]


def test_an_epoch_that_nobody_reported_on_has_no_scores(home: Home) -> None:
    publish(home, outcome(reports=False))
    assert "Nobody scored" in run(home, "scores", "--epoch", str(EPOCH))
    assert as_json(home, "scores", "--epoch", str(EPOCH))["scores"] == []


def test_before_the_first_settlement_scores_says_how_long_to_wait(
    stations: Stations, home: Home
) -> None:
    stations.says("/v1/epochs", {"epoch": 1, "closed": -1, "settled": -1, "log_size": 0})
    result = invoke("scores", "--home", str(home.path))
    assert result.exit_code == 1
    assert "no epoch is settled yet" in result.stderr


def test_an_epoch_that_is_not_settled_is_told(home: Home) -> None:
    result = invoke("scores", "--epoch", "3", "--home", str(home.path))
    assert result.exit_code == 1
    assert "epoch 3 is not settled" in result.stderr


@pytest.mark.parametrize(
    "damage",
    [
        {"entries": 5},
        {"entries": [{}]},
        {"entries": [{"leaf": "%"}]},
        {"entries": [{"leaf": "e30="}]},
        {"entries": []},
        {"other": 1},
        {"entries": [None]},
    ],
)
def test_a_damaged_outcome_is_told_and_not_a_crash(home: Home, damage: object) -> None:
    publish(home, damage)
    result = invoke("scores", "--epoch", str(EPOCH), "--home", str(home.path))
    assert result.exit_code == 1
    assert "cannot be read" in result.stderr
    assert f"penstock verify --epoch {EPOCH}" in result.stderr


def all_is_well(stations: Stations, problems: list[str] | None = None) -> None:
    stations.says("/v1/chutes", listed())
    stations.says("/v1/epochs", {"epoch": 9, "closed": 8, "settled": EPOCH, "log_size": 33})
    stations.says("/health", {"status": "ok", "problems": problems or []})


def test_status_of_a_market_that_is_up(stations: Stations, home: Home) -> None:
    all_is_well(stations)
    shown = run(home, "status")
    assert f"Market ready at {stations.url}" in shown
    assert "epoch 9, log of 33 entries" in shown
    assert [line.split()[0] for line in shown.splitlines()[2:5]] == ["gateway", "market", "ledger"]
    found = as_json(home, "status")
    assert found["ready"] is True
    assert (found["epoch"], found["settled"], found["log_size"]) == (9, EPOCH, 33)
    assert found["api_key"] == API_KEY
    assert found["chutes"] == [{"name": "tiny-chat", "chute": CHUTE, "serving": 2}]


def test_status_shows_what_the_ledger_complains_of(stations: Stations, home: Home) -> None:
    all_is_well(stations, ["disk full [/]"])
    result = invoke("status", "--home", str(home.path))
    assert "disk full [/]" in result.output


@pytest.mark.parametrize("silent", ["/v1/chutes", "/v1/epochs", "/health"])
def test_status_is_not_ready_when_a_station_does_not_answer(
    stations: Stations, home: Home, silent: str
) -> None:
    all_is_well(stations)
    del stations.answers["GET", silent]
    result = invoke("status", "--json", "--home", str(home.path))
    assert result.exit_code == 3
    assert json.loads(result.output)["ready"] is False
    assert "not ready" in invoke("status", "--home", str(home.path)).output


def test_a_state_that_outlived_its_market_is_not_believed(
    stations: Stations, tmp_path: Path
) -> None:
    all_is_well(stations)
    with running_home(tmp_path, stations) as home:
        assert as_json(home, "status")["ready"] is True
    result = invoke("status", "--json", "--home", str(tmp_path))
    assert result.exit_code == 3
    found = json.loads(result.output)
    assert (found["stations"], found["api_key"], found["urls"]) == ([], "", {})


def test_the_home_may_be_named_by_the_environment(stations: Stations, home: Home) -> None:
    stations.says("/v1/chutes", {"chutes": []})
    result = invoke("chutes", env={"PENSTOCK_HOME": str(home.path)})
    assert result.exit_code == 0
    assert "penstock deploy" in result.stdout
