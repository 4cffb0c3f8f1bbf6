"""The first acts of `up`: idempotent, signed by the right key, and patient while stations start."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.stations import Stations

from penstock.adapters.engines import pocketsphinx
from penstock.cli.api import Refused
from penstock.cli.bootstrap import (
    VALIDATOR_CREDIT_NANO,
    YOUR_CREDIT_NANO,
    deploy_chutes,
    is_healthy,
    open_accounts,
    served,
)
from penstock.cli.errors import Stop
from penstock.cli.home import Home
from penstock.cli.market import Market
from penstock.cli.plan import BUILTIN_CHUTES, EXTRA_CHUTES, Plan, Wish, make_plan
from penstock.kit.errors import ConnectFailed
from penstock.kit.keys import verify
from penstock.kit.wire.http import Request, Response, json_response
from penstock.spec.accounts import check_opening
from penstock.spec.keys import open_signed, parse_signed
from penstock.spec.messages import Manifest, check_manifest

ACCOUNTS, CHUTES = "/v1/accounts", "/v1/chutes"


@pytest.fixture
def plan(tmp_path: Path, stations: Stations) -> Plan:
    """A plan whose ledger and market are the stations on loopback."""
    home = Home.at(str(tmp_path / "planned"))
    home.make()
    made = make_plan(home, Wish(0, 1, 2, "", ""))
    port = int(stations.url.rpartition(":")[2])
    for name in ("ledger", "market", "gateway", "miner-1"):
        made.ports[name] = port
    return made


def accepts(stations: Stations) -> None:
    stations.says(ACCOUNTS, {"account": "x", "available_nano": 1}, method="POST")
    stations.says(CHUTES, {"chute": "sha256:ab", "created": True}, method="POST")


async def test_accounts_are_opened_with_credit_by_the_operator(
    stations: Stations, plan: Plan
) -> None:
    accepts(stations)
    api_key = await open_accounts(plan)
    assert api_key == plan.home.api_key_file.read_text().strip()
    openings = [
        check_opening(parse_signed(body), operator=plan.operator.identity, verify=verify)
        for body in stations.bodies(ACCOUNTS)
    ]
    assert {one.account: one.credit_nano for one in openings} == {
        "validator-1": VALIDATOR_CREDIT_NANO,
        "validator-2": VALIDATOR_CREDIT_NANO,
        "you": YOUR_CREDIT_NANO,
    }
    assert len({one.key_hash for one in openings}) == 3
    assert not any(api_key.encode() in one.body for one in stations.asked)


async def test_opening_again_says_the_same_so_nobody_is_credited_twice(
    stations: Stations, plan: Plan
) -> None:
    accepts(stations)
    first = await open_accounts(plan)
    assert await open_accounts(plan) == first
    bodies = stations.bodies(ACCOUNTS)
    assert bodies[:3] == bodies[3:]


async def test_a_key_file_that_was_deleted_opens_under_another_id(
    stations: Stations, plan: Plan
) -> None:
    accepts(stations)
    await open_accounts(plan)
    plan.home.api_key_file.unlink()
    await open_accounts(plan)
    yours = [one["body"] for one in stations.bodies(ACCOUNTS) if one["body"]["account"] == "you"]
    assert yours[0]["opening_id"] != yours[1]["opening_id"]
    assert yours[0]["key_hash"] != yours[1]["key_hash"]


async def test_the_chutes_that_ship_are_deployed_by_the_owner_and_always_the_same(
    stations: Stations, plan: Plan
) -> None:
    accepts(stations)
    await deploy_chutes(plan)
    await deploy_chutes(plan)
    bodies = stations.bodies(CHUTES)
    assert bodies[: len(BUILTIN_CHUTES)] == bodies[len(BUILTIN_CHUTES) :]
    for body, name in zip(bodies, BUILTIN_CHUTES, strict=False):
        manifest = open_signed(Manifest, parse_signed(body), kind="manifest", verify=verify)
        check_manifest(manifest)
        assert (manifest.name, manifest.owner) == (name, body["signer"])
        assert manifest.owner == plan.owner.identity
        assert manifest.model_digest


async def test_a_chute_whose_engine_is_not_installed_is_left_out_and_the_others_are_deployed(
    stations: Stations, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pocketsphinx, "find_spec", lambda _name: None)
    accepts(stations)
    await deploy_chutes(plan)
    names = [body["body"]["name"] for body in stations.bodies(CHUTES)]
    assert names == [name for name in BUILTIN_CHUTES if name != "pocketsphinx"]
    assert "pocketsphinx" in EXTRA_CHUTES


async def test_what_serves_is_counted_and_nothing_while_the_market_is_silent(
    stations: Stations, plan: Plan
) -> None:
    assert await served(plan) == {}
    stations.says(CHUTES, {"chutes": [{"name": "a", "serving": 2}, {"name": "b", "serving": 0}]})
    assert await served(plan) == {"a": 2, "b": 0}


async def test_a_station_is_healthy_when_it_says_so(stations: Stations) -> None:
    assert not await is_healthy(stations.url)
    stations.says("/health", {"status": "starting"}, status=503)
    assert not await is_healthy(stations.url)
    stations.says("/health", {"status": "ok"})
    assert await is_healthy(stations.url)
    assert not await is_healthy("http://127.0.0.1:1")


def market_of(plan: Plan, told: list[str] | None = None) -> Market:
    heard = told if told is not None else []
    return Market(plan, lambda step, _done, _of: heard.append(step))


async def test_a_station_that_just_starts_is_asked_again(stations: Stations, plan: Plan) -> None:
    tries = 0

    async def answer(request: Request) -> Response:
        nonlocal tries
        tries += 1
        return json_response(503 if tries < 3 else 200, {"error": {"message": "starting"}})

    stations.answers["POST", ACCOUNTS] = answer
    await market_of(plan)._until("accounts", lambda: open_accounts(plan))
    assert tries == 5


async def test_a_lost_connection_is_tried_again(plan: Plan) -> None:
    tries: list[int] = []

    async def act() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectFailed("127.0.0.1", 1)

    await market_of(plan)._until("accounts", act)
    assert len(tries) == 3


async def test_a_refusal_is_final_and_told_at_once(stations: Stations, plan: Plan) -> None:
    error = {"error": {"code": "bad_account", "message": "Another operator signs here."}}
    stations.says(ACCOUNTS, error, method="POST", status=403)
    with pytest.raises(Stop, match="Another operator signs here"):
        await market_of(plan)._until("accounts", lambda: open_accounts(plan))
    assert len(stations.asked) == 1


async def test_coming_up_waits_until_every_first_chute_is_served(
    stations: Stations, plan: Plan
) -> None:
    told: list[str] = []
    stations.says(CHUTES, {"chutes": [{"name": "tiny-chat", "serving": 0}]})
    market = market_of(plan, told)
    waiting = asyncio.ensure_future(market._wait_served(9))
    await until(lambda: "loading tiny-chat" in told)
    assert not waiting.done()
    stations.says(CHUTES, {"chutes": [{"name": "tiny-chat", "serving": 1}]})
    stations.says("/health", {"status": "starting"})
    told.clear()
    await until(lambda: bool(told))
    assert not waiting.done(), "an offer of a former life is no engine that answers"
    stations.says("/health", {"status": "ok"})
    async with asyncio.timeout(30):
        await waiting


async def test_a_market_without_miners_waits_for_nobody(plan: Plan, tmp_path: Path) -> None:
    home = Home.at(str(tmp_path / "empty"))
    home.make()
    empty = make_plan(home, Wish(plan.ports["nats"], 0, 0, "", ""))
    async with asyncio.timeout(30):
        await market_of(empty)._wait_served(3)


@pytest.mark.parametrize(
    ("database_url", "nats_url", "servers"),
    [
        ("", "", ["postgres", "nats"]),
        ("postgresql://mine", "", ["nats"]),
        ("postgresql://mine", "nats://mine", []),
    ],
)
def test_servers_that_the_user_brings_are_not_started(
    tmp_path: Path, plan: Plan, database_url: str, nats_url: str, servers: list[str]
) -> None:
    wish = Wish(plan.ports["nats"], 1, 1, database_url, nats_url)
    home = Home.at(str(tmp_path / "other"))
    home.make()
    market = market_of(make_plan(home, wish))
    names = [process.name for process in market.supervisor.processes]
    assert names == [*servers, "ledger", "market", "gateway", "miner-1", "validator-1"]
    levels = {process.name: process.level for process in market.supervisor.processes}
    assert all(levels[name] < levels["ledger"] for name in servers)
    assert market._database_url == database_url or "postgres" in servers
    assert market._nats_url == nats_url or "nats" in servers


def test_the_state_tells_everything_that_other_commands_read(plan: Plan) -> None:
    market = market_of(plan)
    market.problem = "disk full"
    market.write_state()
    state = plan.home.read_state()
    assert state["ready"] is False
    assert state["problem"] == "disk full"
    assert state["urls"] == plan.urls()
    assert state["gateway_url"] == plan.url("gateway")
    assert {one["state"] for one in state["stations"]} == {"waiting"}


async def test_a_refused_call_has_its_code_and_message(stations: Stations, plan: Plan) -> None:
    stations.says(ACCOUNTS, {"error": {"code": "x", "message": "y"}}, method="POST", status=400)
    with pytest.raises(Refused) as caught:
        await open_accounts(plan)
    found: Any = caught.value
    assert (found.status, found.code, found.message) == (400, "x", "y")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)
