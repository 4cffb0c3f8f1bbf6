"""What `up` decides before anything starts: every station can start from the files it writes."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.adapters.errors import FileExposed
from penstock.adapters.keyfile import load_or_create_key
from penstock.cli import plan as plan_module
from penstock.cli.errors import Stop
from penstock.cli.home import Home, free_port
from penstock.cli.plan import (
    MINER_CHUTES,
    Plan,
    Wish,
    check_engines,
    make_api_key,
    make_plan,
    station_command,
    write_charter,
    write_configs,
)
from penstock.gateway.charter import read_facts
from penstock.gateway.config import as_worker
from penstock.gateway.config import read_config as read_gateway
from penstock.kit.keys import verify
from penstock.ledger.app import database_url, read_charter
from penstock.ledger.config import read_config as read_ledger
from penstock.ledger.service import check_charter
from penstock.market.app import build as build_market
from penstock.market.config import read_config as read_market
from penstock.miner.charter import Trust
from penstock.miner.config import read_config as read_miner
from penstock.spec.messages import Charter
from penstock.spec.params import LOCAL
from penstock.validator.config import read_config as read_validator

DATABASE_URL = "postgresql://penstock:s3cret@127.0.0.1:1/penstock"
NATS_URL = "nats://127.0.0.1:2"
READERS: dict[str, Callable[[Path], Any]] = {
    "ledger": read_ledger,
    "market": read_market,
    "gateway": read_gateway,
    "miner": read_miner,
    "validator": read_validator,
}


def wish(**changes: Any) -> Wish:
    made = Wish(gateway_port=free_port(set()), miners=4, validators=2, database_url="", nats_url="")
    return replace(made, **changes)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home.at(str(tmp_path / "home"))
    made.make()
    return made


@pytest.fixture
def plan(home: Home) -> Plan:
    return make_plan(home, wish())


def write(plan: Plan) -> dict[str, Any]:
    write_configs(plan, database_url=DATABASE_URL, nats_url=NATS_URL)
    files = plan.home.config.glob("*.json")
    return {file.stem: json.loads(file.read_text()) for file in files}


def info(plan: Plan) -> bytes:
    """What the market of this plan would say of itself."""
    said = json.loads(write_charter(plan).read_text())
    return msgspec.json.encode({**said, "now_ms": 5, "ledger_url": plan.url("ledger")})


def test_every_station_reads_its_own_file(plan: Plan) -> None:
    written = write(plan)
    assert set(written) == {*plan.stations, "charter"}
    for name in plan.stations:
        config: Any = READERS[name.partition("-")[0]](plan.home.config / f"{name}.json")
        assert config.port == plan.ports[name]
        assert config.key_file == str(plan.home.key_file(name))


def test_every_station_has_a_port_and_a_key_of_its_own(plan: Plan) -> None:
    ports = [plan.ports[name] for name in [*plan.stations, "postgres", "nats"]]
    assert len(set(ports)) == len(ports)
    identities = {plan.key(name).identity for name in plan.stations}
    identities |= {plan.operator.identity, plan.owner.identity}
    assert len(identities) == len(plan.stations) + 2


def test_the_gateway_has_a_tunnel_port_for_each_worker_and_one_to_spare(home: Home) -> None:
    plan = make_plan(home, wish(gateway_workers=3))
    config = read_gateway(home.config / "gateway.json") if write(plan) else None
    assert config is not None
    row = set(range(config.tunnel.port, config.tunnel.port + 4))
    assert not row & {port for name, port in plan.ports.items() if name != "tunnel"}


def test_the_first_miners_are_told_what_to_serve_and_all_follow_the_market(plan: Plan) -> None:
    written = write(plan)
    named = [tuple(written[name]["chutes"]) for name in plan.miners]
    assert named == [*MINER_CHUTES, ()]
    assert all(written[name]["auto"] for name in plan.miners)
    assert all(written[name]["operator"] == plan.operator.identity for name in plan.miners)


def test_a_market_with_miners_needs_their_engines_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_engines(3)
    monkeypatch.setattr(plan_module, "find_spec", lambda _: None)
    check_engines(0)
    with pytest.raises(Stop, match=r"penstock\[miner\]"):
        check_engines(3)


def test_the_charter_is_one_that_every_station_accepts(plan: Plan) -> None:
    write(plan)
    ledger = check_charter(
        read_charter(plan.home.config / "charter.json"),
        LOCAL,
        ledger=plan.key("ledger").identity,
        verify=verify,
    )
    facts = read_facts(
        info(plan),
        identity=plan.key("gateway").identity,
        operator=plan.operator.identity,
        now_ms=5,
        verify=verify,
    )
    trust = Trust(verify, operator=plan.operator.identity)
    trust.learn(msgspec.json.decode(info(plan)), now_ms=5)
    assert ledger == facts.charter == trust.charter
    assert trust.is_gateway(plan.key("gateway").identity, now_ms=5)
    assert not trust.is_gateway(plan.key("miner-1").identity, now_ms=5)
    assert [seat.validator for seat in ledger.seats] == [
        plan.key(name).identity for name in plan.validators
    ]


async def test_the_market_is_built_from_its_file(plan: Plan) -> None:
    write(plan)
    assert build_market(read_market(plan.home.config / "market.json")).server is not None


def test_a_charter_of_another_home_is_refused(plan: Plan, tmp_path: Path) -> None:
    other = Home.at(str(tmp_path / "other"))
    other.make()
    stranger = make_plan(other, wish())
    signed = read_charter(write_charter(stranger))
    with pytest.raises(Exception, match="another ledger key"):
        check_charter(signed, LOCAL, ledger=plan.key("ledger").identity, verify=verify)


def test_the_log_is_named_after_its_key(plan: Plan) -> None:
    signed = read_charter(write_charter(plan))
    charter = msgspec.convert(signed.body, Charter)
    assert charter.origin == f"penstock.local/{plan.key('ledger').identity[8:24]}"


def test_the_passwords_in_urls_stand_in_no_config_and_no_command(plan: Plan) -> None:
    written = write(plan)
    assert "s3cret" not in json.dumps(written)
    for name in ("ledger", "market"):
        path = Path(written[name]["database_url_file"])
        assert path.read_text() == DATABASE_URL
        assert path.stat().st_mode & 0o077 == 0
    assert database_url(read_ledger(plan.home.config / "ledger.json")) == DATABASE_URL
    commands = [station_command(plan, name) for name in plan.stations]
    assert not any("s3cret" in part for command in commands for part in command.argv)


def test_everything_written_is_for_its_owner_only(plan: Plan) -> None:
    write(plan)
    files = [*plan.home.config.iterdir(), *plan.home.keys.iterdir()]
    assert len(files) > 20
    assert [file.name for file in files if file.stat().st_mode & 0o077] == []


def test_writing_twice_changes_nothing_but_a_new_database_url(plan: Plan) -> None:
    first = write(plan)
    assert write(plan) == first
    write_configs(plan, database_url="postgresql://other", nats_url=NATS_URL)
    assert database_url(read_ledger(plan.home.config / "ledger.json")) == "postgresql://other"


def test_a_second_plan_of_a_home_keeps_keys_ports_and_api_keys(plan: Plan) -> None:
    key = make_api_key(plan.home, "you")
    again = make_plan(plan.home, plan.wish)
    assert again.ports == plan.ports
    assert again.operator.identity == plan.operator.identity
    assert again.key("ledger").identity == plan.key("ledger").identity
    assert make_api_key(plan.home, "you") == key


def test_more_stations_later_leave_the_others_where_they_were(plan: Plan) -> None:
    more = make_plan(plan.home, replace(plan.wish, miners=6, validators=3))
    assert more.ports.items() >= plan.ports.items()
    assert more.stations[-3:] == ["validator-1", "validator-2", "validator-3"]


def test_api_keys_are_long_secret_and_one_for_each_account(plan: Plan) -> None:
    keys = [make_api_key(plan.home, name) for name in ("you", "validator-1", "validator-2")]
    assert len(set(keys)) == 3
    assert all(key.startswith("sk-penstock-") and len(key) >= 12 + 48 for key in keys)
    assert plan.home.api_key_file.read_text().strip() == keys[0]


def test_a_key_that_others_can_read_stops_the_plan(plan: Plan) -> None:
    plan.home.key_file("operator").chmod(0o640)
    with pytest.raises(FileExposed):
        make_plan(plan.home, plan.wish)


def test_a_market_without_miners_and_validators_is_a_plan_too(home: Home) -> None:
    empty = make_plan(home, wish(miners=0, validators=0))
    assert set(write(empty)) == {"ledger", "market", "gateway", "charter"}
    assert (
        check_charter(
            read_charter(home.config / "charter.json"),
            LOCAL,
            ledger=empty.key("ledger").identity,
            verify=verify,
        ).seats
        == ()
    )


def override(home: Home, name: str, text: str) -> None:
    (home.path / "overrides").mkdir(exist_ok=True)
    (home.path / "overrides" / f"{name}.json").write_text(text)


def test_overrides_take_the_place_of_parts_and_leave_the_rest(plan: Plan) -> None:
    plain = write(plan)
    override(plan.home, "gateway", '{"bounds": {"keys_max": 5}, "log_json": true}')
    override(plan.home, "miner-2", '{"clock_skew_ms": 900, "deadlines": {"peer_ms": 7}}')
    changed = write(plan)
    assert changed["gateway"] == {**plain["gateway"], "bounds": {"keys_max": 5}, "log_json": True}
    gateway = read_gateway(plan.home.config / "gateway.json")
    assert (gateway.bounds.keys_max, gateway.bounds.tries_max) == (5, 3)
    miner = read_miner(plan.home.config / "miner-2.json")
    assert (miner.clock_skew_ms, miner.deadlines.peer_ms) == (900, 7)
    assert changed["miner-1"] == plain["miner-1"]


def test_an_override_of_a_list_replaces_it(plan: Plan) -> None:
    override(plan.home, "miner-1", '{"chutes": []}')
    assert write(plan)["miner-1"]["chutes"] == []


def test_overrides_that_were_removed_are_forgotten(plan: Plan) -> None:
    plain = write(plan)
    override(plan.home, "market", '{"drain_ms": 1}')
    assert write(plan)["market"]["drain_ms"] == 1
    (plan.home.path / "overrides" / "market.json").unlink()
    assert write(plan) == plain


@pytest.mark.parametrize("text", ["", "[]", "{", "5", '"x"'])
def test_an_override_that_is_no_object_is_told_with_its_file(plan: Plan, text: str) -> None:
    override(plan.home, "ledger", text)
    with pytest.raises(Stop, match=r"overrides/ledger\.json"):
        write(plan)


def test_an_override_with_an_unknown_name_stops_that_station(plan: Plan) -> None:
    override(plan.home, "gateway", '{"colour": "blue"}')
    write(plan)
    with pytest.raises(msgspec.ValidationError, match="colour"):
        read_gateway(plan.home.config / "gateway.json")


def test_a_station_starts_by_its_module_with_little_of_our_environment(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do not pass on")
    monkeypatch.setenv("NO_COLOR", "1")
    command = station_command(plan, "miner-2")
    assert command.argv[1:] == (
        "-m",
        "penstock.miner.app",
        "--config",
        str(plan.home.config / "miner-2.json"),
    )
    assert command.env["NO_COLOR"] == "1"
    assert "AWS_SECRET_ACCESS_KEY" not in command.env
    assert command.log == plan.home.log_file("miner-2")
    assert command.name == "miner-2"


def test_every_gateway_worker_and_one_to_spare_is_chartered_also_those_of_before(
    tmp_path: Path,
) -> None:
    home = Home.at(str(tmp_path))
    home.make()

    def gateways(workers: int) -> list[str]:
        return make_plan(home, Wish(free_port(set()), 0, 0, "", "", workers)).gateways

    assert gateways(1) == ["gateway", "gateway-2"]
    plan = make_plan(home, Wish(free_port(set()), 0, 0, "", "", 3))
    assert plan.gateways == ["gateway", "gateway-2", "gateway-3", "gateway-4"]
    write_configs(plan, database_url="", nats_url="")
    config = read_gateway(home.config / "gateway.json")
    assert config.workers == 3
    written = json.loads((home.config / "charter.json").read_text())
    charter = written["charter"]["body"]
    assert charter["gateways"] == [
        load_or_create_key(Path(as_worker(config, number).key_file), os.urandom).identity
        for number in range(1, 5)
    ]
    assert gateways(1) == ["gateway", "gateway-2", "gateway-3", "gateway-4"]
