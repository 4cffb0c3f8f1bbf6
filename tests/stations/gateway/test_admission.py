"""Who may enter: keys, limits, leases and holds, whatever the ledger does meanwhile."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.makers import MANIFEST
from tests.properties import in_full
from tests.stations.gateway.script import Act, Script
from tests.stations.gateway.world import (
    ACCOUNT,
    SECRET,
    World,
    chat,
    error_of,
    play,
    renamed,
    settle,
)

from penstock.gateway.config import Bounds, KeyLimits
from penstock.gateway.errors import InsufficientFunds, usd
from penstock.sim.loop import EPOCH_MS
from penstock.spec.params import LOCAL
from penstock.spec.units import FREE

POOR, POOR_NANO = "sk-penstock-poor", 500


@pytest.mark.parametrize(
    "secret", ["", "nonsense", "sk-penstock-unknown", "sk-penstock-" + "x" * 300]
)
def test_a_bad_key_is_refused_before_the_body_is_read(secret: str) -> None:
    async def scenario(world: World) -> None:
        reply = await world.post(b"no json", secret=secret)
        assert reply.status == 401
        assert error_of(reply)["code"] == "invalid_api_key"
        assert error_of(reply)["type"] == "authentication_error"

    play(scenario)


def test_an_unknown_key_is_asked_for_once_in_a_while_only() -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        for _ in range(5):
            assert (await world.post(chat(), secret="sk-penstock-new")).status == 401
        assert len(world.ledger.questions) == 1
        world.ledger.open_account("new", "sk-penstock-new", credit_nano=10**9)
        await asyncio.sleep(6)
        assert (await world.post(chat(), secret="sk-penstock-new")).status == 200

    play(scenario)


def test_many_first_requests_of_one_key_ask_the_ledger_once() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.room = 50
        await world.put_offer(miner)
        async with asyncio.TaskGroup() as group:
            posts = [group.create_task(world.post(chat())) for _ in range(20)]
        assert {post.result().status for post in posts} == {200}
        assert [question["lease_id"] for question in world.ledger.questions] == [""]
        await world.at_rest()

    play(scenario)


def test_no_key_in_the_clear_leaves_the_gateway() -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        await world.post(chat())
        await world.at_rest()
        assert SECRET not in json.dumps(world.ledger.questions)
        assert SECRET not in json.dumps(world.ledger.events)
        assert ACCOUNT not in json.dumps([event.get("record") for _, event in world.ledger.events])

    play(scenario)


def test_too_little_money_is_told_with_what_is_needed_and_there() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        world.ledger.open_account("poor", POOR, credit_nano=POOR_NANO)
        reply = await world.post(chat(), secret=POOR)
        assert reply.status == 402
        error = error_of(reply)
        assert error["code"] == "insufficient_funds"
        assert usd(POOR_NANO) in error["message"]
        assert not miner.served
        assert (await world.post(chat(max_tokens=1, messages=[{"role": "u"}]), secret=POOR)).status

    play(scenario)


def test_an_empty_account_is_told_so() -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        world.ledger.open_account("empty", "sk-penstock-empty", credit_nano=0)
        reply = await world.post(chat(), secret="sk-penstock-empty")
        assert reply.status == 402
        assert "nothing available" in error_of(reply)["message"]

    play(scenario)


def test_money_is_shown_with_the_digits_that_count() -> None:
    assert [usd(nano) for nano in (0, 1, 500, 1_500_000_000, 20_000_000_000)] == [
        "$0.00",
        "$0.000000001",
        "$0.0000005",
        "$1.50",
        "$20.00",
    ]
    assert "$0.001" in InsufficientFunds(needed_nano=10**6, available_nano=0).text()


def test_a_free_chute_is_served_without_spending() -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1", renamed("gift", price_max=FREE))
        reply = await world.post(chat(model="gift"))
        assert reply.status == 200
        assert reply.header("x-penstock-charge") == "0"
        await world.at_rest()

    play(scenario)


def test_the_ledgers_absence_stops_nothing_that_fits_the_lease() -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        assert (await world.post(chat())).status == 200
        world.bus.down = True
        for _ in range(5):
            assert (await world.post(chat())).status == 200
        stranger = await world.post(chat(), secret="sk-penstock-else")
        assert stranger.status == 503
        assert error_of(stranger)["code"] == "bus_down"
        world.bus.down = False
        await asyncio.sleep(5)
        await world.at_rest()
        assert len(world.outcomes()) == 6

    play(scenario)


def test_a_lease_in_use_is_renewed_and_topped_up_in_the_background() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        first = await world.post(chat())
        charge = int(first.header("x-penstock-charge"))
        for _ in range(12):
            await asyncio.sleep(10)
            assert (await world.post(chat())).status == 200
        assert len(world.ledger.leases) == 1
        await world.at_rest()
        assert world.charged_nano() == 13 * charge
        assert len(miner.served) == 13

    play(scenario, params=replace(LOCAL, lease_amount_nano=9_000))


def test_a_request_larger_than_the_lease_extends_it_at_once() -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        assert (await world.post(chat(max_tokens=200, n=4))).status == 200
        assert [bool(question["need_nano"]) for question in world.ledger.questions][:2] == [
            False,
            True,
        ]
        await world.at_rest()

    play(scenario, params=replace(LOCAL, lease_amount_nano=1_000))


def test_an_idle_lease_is_given_back_and_a_new_one_opened_later() -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        assert (await world.post(chat())).status == 200
        await asyncio.sleep(70)
        assert world.ledger.held_nano == 0
        assert world.gateway.leases.count == 0
        assert (await world.post(chat())).status == 200
        assert len(world.ledger.leases) == 2
        await world.at_rest()

    play(scenario)


def test_a_lease_that_expired_while_the_ledger_was_away_is_not_used() -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        assert (await world.post(chat())).status == 200
        world.bus.down = True
        await asyncio.sleep(LOCAL.lease_ttl_ms / 1000 + 1)
        assert (await world.post(chat())).status == 503
        world.bus.down = False
        await asyncio.sleep(5)
        assert (await world.post(chat())).status == 200
        await world.at_rest()

    play(scenario)


def test_two_keys_of_one_account_share_a_lease() -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        world.ledger.open_account(ACCOUNT, "sk-penstock-second", credit_nano=0)
        assert (await world.post(chat())).status == 200
        assert (await world.post(chat(), secret="sk-penstock-second")).status == 200
        assert (await world.post(chat())).status == 200
        await world.at_rest()
        assert sum(lease.is_open for lease in world.ledger.leases.values()) == 1

    play(scenario)


def test_a_restarted_gateway_first_frees_what_its_former_life_held() -> None:
    async def scenario(world: World) -> None:
        subject, event = world.ledger.events[0]
        assert subject == "events.lease.gw"
        assert event == {
            "lease_id": "*",
            "close": True,
            "gateway": world.gateway.sign.identity,
            "at_ms": EPOCH_MS,
        }

    play(scenario)


def test_a_key_has_a_limit_of_requests_at_once() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.default = Script(word_ms=1_000)
        async with asyncio.TaskGroup() as group:
            posts = [group.create_task(world.post(chat())) for _ in range(5)]
        replies = [post.result() for post in posts]
        assert sorted(reply.status for reply in replies) == [200, 200, 429, 429, 429]
        refused = next(reply for reply in replies if reply.status == 429)
        assert error_of(refused)["code"] == "rate_limited"
        assert refused.header("retry-after") == "1"
        assert (await world.post(chat())).status == 200
        await world.at_rest()

    play(scenario, key_limits=KeyLimits(parallel_max=2))


def test_a_key_has_a_limit_of_requests_a_second_and_a_burst() -> None:
    async def scenario(world: World) -> None:
        (await world.add_miner("m1")).default = Script(words=("a",), word_ms=1)
        statuses = [(await world.post(chat())).status for _ in range(6)]
        assert statuses.count(200) in {3, 4}
        assert statuses[-1] == 429
        await asyncio.sleep(3)
        assert (await world.post(chat())).status == 200

    play(scenario, key_limits=KeyLimits(requests_per_s=1, burst_max=3))


def test_a_gateway_whose_records_pile_up_takes_no_new_requests() -> None:
    async def scenario(world: World) -> None:
        (await world.add_miner("m1")).default = Script(words=("a",), word_ms=1)
        assert (await world.post(chat())).status == 200
        await world.at_rest()
        world.bus.down = True
        statuses = [(await world.post(chat())).status for _ in range(8)]
        assert statuses[0] == 200
        assert statuses[-1] == 503
        world.bus.down = False
        await asyncio.sleep(5)
        assert (await world.post(chat())).status == 200
        await world.at_rest()
        assert len(world.outcomes()) == 2 + statuses.count(200)

    play(scenario, bounds=Bounds(records_max=5))


def test_the_key_cache_is_bounded_and_forgets_the_oldest() -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        for number in range(6):
            secret = f"sk-penstock-{number}"
            world.ledger.open_account(f"a{number}", secret, credit_nano=10**9)
            assert (await world.post(chat(), secret=secret)).status == 200
        assert world.gateway.leases.count <= 3
        assert (await world.post(chat(), secret="sk-penstock-0")).status == 200
        await world.at_rest()

    play(scenario, bounds=Bounds(keys_max=3, bad_keys_max=2))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["whole", "stream", "leave", "hang up", "bus"]),
        st.sampled_from(
            [Act.ANSWER, Act.ANSWER, Act.REFUSE, Act.ERROR, Act.BREAK, Act.CUT, Act.LOSE]
        ),
        st.integers(0, 3_000),
    ),
    min_size=1,
    max_size=12,
)


async def one_request(world: World, kind: str, body: dict[str, Any], wait_ms: int) -> None:
    """One client, who may leave at any moment."""
    try:
        async with asyncio.timeout(wait_ms / 1000 if kind in {"leave", "hang up"} else 600):
            if kind in {"stream", "leave"}:
                await world.hear({**body, "stream": True})
            else:
                await world.post(body)
    except TimeoutError:
        pass  # this client has left


@settings(max_examples=in_full(40), suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_what_is_held_is_the_sum_of_holds_in_flight_and_nothing_at_rest(
    steps: list[tuple[str, Act, int]],
) -> None:
    async def scenario(world: World) -> None:
        for name in ("m1", "m2", "m3"):
            miner = await world.add_miner(name)
            miner.scripts = [Script(act=act, words_until=1, word_ms=100) for _, act, _ in steps]
        async with asyncio.TaskGroup() as group:
            for kind, _, wait_ms in steps:
                if kind == "bus":
                    world.bus.down = not world.bus.down
                else:
                    group.create_task(one_request(world, kind, chat(), wait_ms))
                await asyncio.sleep(wait_ms / 10_000)
                held = world.gateway.leases.held_nano
                assert (held > 0) == (world.gateway.admission.running > 0) or not held
        world.bus.down = False
        await asyncio.sleep(30)
        await world.at_rest()
        total = sum(one.charge_nano for one in world.ledger.judgements.values())
        assert world.charged_nano() == total
        judged = world.ledger.judgements
        served = {one.order.order_id for miner in world.miners.values() for one in miner.served}
        assert served <= judged.keys()
        # An order whose client left before it had reached its miner is on record, too, and free.
        assert all(not judged[one].charge_nano for one in judged.keys() - served)

    play(scenario, bounds=Bounds(lease_idle_ms=20_000))


def test_nothing_is_left_open_when_the_gateway_stops_under_load() -> None:
    async def scenario(world: World) -> None:
        (await world.add_miner("m1")).default = Script(words=("a",) * 16, word_ms=10_000)
        bodies = [chat(stream=True), chat()]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one_request(world, "whole", body, 0)) for body in bodies]
            await asyncio.sleep(2)
            for task in tasks:
                task.cancel()
        await settle()

    play(scenario)


def test_requests_that_find_nobody_count_against_the_rate_too() -> None:
    """Else one key could ask without end for what nobody serves, and drive up its target and price."""

    async def scenario(world: World) -> None:
        await world.put_manifest(MANIFEST)
        replies = [await world.post(chat()) for _ in range(4)]
        assert [reply.status for reply in replies] == [503, 503, 429, 429]
        broken = [await world.post(b"{") for _ in range(2)]
        assert [reply.status for reply in broken] == [429, 429]

    play(scenario, key_limits=KeyLimits(requests_per_s=0, burst_max=2))
