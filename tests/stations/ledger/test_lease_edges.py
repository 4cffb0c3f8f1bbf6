"""Leases at the very millisecond, and next to each other: when money is held and when it is free."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.makers import GATEWAY, ToyKey
from tests.properties import in_full
from tests.stations.ledger.makers_ledger import (
    CHARGE,
    KEY_HASH,
    LOG_KEY,
    MARKET,
    OPERATOR_KEY,
    PARAMS,
    START_MS,
    USD,
    World,
    charter,
    closing_event,
    record,
    record_event,
)

from penstock.ledger.leases import expired_before_ms, read_question
from penstock.spec.canon import INT_MAX

SECOND_GATEWAY = ToyKey("second gateway")
TTL_MS, GRACE_MS = PARAMS.lease_ttl_ms, PARAMS.claim_grace_ms
EDGE_MS = TTL_MS + GRACE_MS


@pytest.fixture
async def world() -> World:
    both = (GATEWAY.identity, SECOND_GATEWAY.identity)
    return await World(charter=charter(gateways=both)).start()


async def held(world: World) -> int:
    return (await world.balance("payer/ann")).held_nano


async def granted(world: World, need_nano: int, **changes: Any) -> tuple[str, int]:
    """(lease id, expiry) of a lease that is granted."""
    answer = await world.lease(need_nano, **changes)
    return answer["lease_id"], answer["expires_ms"]


@pytest.mark.parametrize(("waited_ms", "is_held"), [(-1, True), (0, False), (1, False)])
async def test_a_lease_is_held_up_to_its_last_millisecond_and_the_grace(
    world: World,
    waited_ms: int,
    is_held: bool,
) -> None:
    await world.fund()
    _, expires_ms = await granted(world, 100)
    assert expires_ms == START_MS + TTL_MS
    await world.step(EDGE_MS + waited_ms)
    assert bool(await held(world)) is is_held


@pytest.mark.parametrize(("behind_ms", "is_held"), [(1, True), (0, False)])
async def test_the_grace_is_counted_up_to_what_the_ledger_has_taken_in(
    world: World,
    behind_ms: int,
    is_held: bool,
) -> None:
    await world.fund()
    await granted(world, 100)
    world.clock.pass_ms(EDGE_MS)
    world.ledger.consumer.quiet_ms = world.clock.now_ms() - behind_ms
    await world.ledger.upkeep.step()
    assert bool(await held(world)) is is_held


@given(now_ms=st.integers(0, 10**13), quiet_ms=st.integers(-1, 10**13))
def test_nothing_is_due_before_the_clock_or_the_intake_says_so(now_ms: int, quiet_ms: int) -> None:
    due_ms = expired_before_ms(now_ms=now_ms, quiet_ms=quiet_ms, grace_ms=GRACE_MS)
    assert due_ms + GRACE_MS <= now_ms
    assert due_ms + GRACE_MS <= quiet_ms
    assert due_ms + GRACE_MS in {now_ms, quiet_ms}


async def test_a_renewal_in_the_last_millisecond_moves_the_edge(world: World) -> None:
    await world.fund()
    lease, _ = await granted(world, 100)
    await world.step(EDGE_MS - 1)
    again, expires_ms = await granted(world, 0, lease_id=lease)
    assert (again, expires_ms) == (lease, world.clock.now_ms() + TTL_MS)
    await world.step(EDGE_MS - 1)
    assert await held(world) > 0
    await world.step(1)
    assert await held(world) == 0


async def test_a_renewal_a_millisecond_too_late_is_a_new_lease(world: World) -> None:
    await world.fund()
    lease, _ = await granted(world, 100)
    await world.step(EDGE_MS)
    fresh, _ = await granted(world, 100, lease_id=lease)
    assert fresh != lease
    lost = await world.lease(100, lease_id=lease)
    assert lost["lease_id"] not in {lease, fresh}


async def test_a_record_at_the_edge_is_paid_by_the_payer_and_after_it_by_the_operator(
    world: World,
) -> None:
    await world.fund()
    lease, _ = await granted(world, 2 * CHARGE)
    await world.step(EDGE_MS - 1)
    await world.take(record_event(record(1), lease_id=lease))
    assert (await world.everyone())["payer"] == USD - CHARGE
    await world.step(1)
    await world.take(record_event(record(2), lease_id=lease))
    assert (await world.everyone())["payer"] == USD - CHARGE
    assert world.fate("operator_paid") == 1


async def test_a_capture_of_all_that_is_left_fits_and_one_more_does_not(world: World) -> None:
    await world.fund(2 * CHARGE)
    lease, _ = await granted(world, 2 * CHARGE)
    await world.take(*(record_event(record(n), lease_id=lease) for n in range(3)))
    assert world.fate("posted") == 2
    assert world.fate("operator_paid") == 1
    assert (await world.balance("payer/ann")).posted_nano == 0


async def test_leases_of_two_gateways_expire_each_at_its_own_time(world: World) -> None:
    await world.fund()
    await granted(world, 100)
    first = await held(world)
    await world.step(7)
    await granted(world, 100, gateway=SECOND_GATEWAY.identity)
    both = await held(world)
    assert both > first
    await world.step(EDGE_MS - 7)
    assert await held(world) == both - first
    await world.step(7)
    assert await held(world) == 0


async def test_a_gateway_closes_its_own_leases_and_not_a_strangers(world: World) -> None:
    await world.fund()
    await granted(world, 100)
    mine = await held(world)
    await granted(world, 100, gateway=SECOND_GATEWAY.identity)
    await world.take(closing_event("*", gateway=SECOND_GATEWAY.identity))
    assert await held(world) == mine


@pytest.mark.parametrize("offset_ms", [-1, 0, 1])
async def test_all_leases_up_to_a_moment_includes_that_moment(world: World, offset_ms: int) -> None:
    await world.fund()
    await granted(world, 100)
    opened_ms = world.clock.now_ms()
    closing = closing_event("*", gateway=GATEWAY.identity, at_ms=opened_ms + offset_ms)
    await world.take(closing)
    assert bool(await held(world)) is (offset_ms < 0)


async def test_a_restart_between_grant_and_expiry_forgets_neither(world: World) -> None:
    await world.fund()
    lease, _ = await granted(world, 100)
    await world.step(EDGE_MS - 1)
    await world.start()
    assert await held(world) > 0
    again, _ = await granted(world, 0, lease_id=lease)
    assert again == lease
    await world.step(EDGE_MS)
    assert await held(world) == 0


async def test_expiry_and_closing_of_one_lease_give_back_once(world: World) -> None:
    await world.fund()
    lease, _ = await granted(world, 100)
    await world.step(EDGE_MS)
    await world.take(closing_event(lease), closing_event(lease))
    balance = await world.balance("payer/ann")
    assert (balance.posted_nano, balance.held_nano) == (USD, 0)


def question(**changes: Any) -> bytes:
    said = {
        "gateway": GATEWAY.identity,
        "key_hash": KEY_HASH,
        "need_nano": 1,
        "lease_id": "",
        **changes,
    }
    return json.dumps(said).encode()


@pytest.mark.parametrize(
    ("need_nano", "error"),
    [
        (INT_MAX, "insufficient_funds"),
        (INT_MAX + 1, "malformed"),
        (-1, "malformed"),
        (2**63, "malformed"),
        (2**200, "malformed"),
        (1.5, "malformed"),
        ("1", "malformed"),
        (None, "malformed"),
        (True, "malformed"),
    ],
)
async def test_a_need_is_a_whole_number_that_any_reader_can_hold(
    world: World, need_nano: object, error: str
) -> None:
    await world.fund()
    answer = json.loads(await world.ledger.answer_lease(question(need_nano=need_nano)))
    assert answer["error"] == error
    assert await held(world) == 0


def test_a_question_is_read_as_it_was_asked() -> None:
    found = read_question(question(need_nano=INT_MAX, lease_id="l-1"))
    assert (found.need_nano, found.lease_id, found.key_hash) == (INT_MAX, "l-1", KEY_HASH)


@settings(max_examples=in_full(40))
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ask", "renew", "close", "wait", "record"]),
            st.integers(0, 4),
            st.integers(1, EDGE_MS // 2),
        ),
        max_size=15,
    )
)
async def test_whatever_is_asked_held_money_is_never_more_than_there_is_and_comes_back(
    steps: list[tuple[str, int, int]],
) -> None:
    world = await World().start()
    await world.fund(10 * CHARGE)
    leases = ["l-" + "0" * 32]
    for number, (verb, index, span_ms) in enumerate(steps):
        chosen = leases[index % len(leases)]
        if verb in {"ask", "renew"}:
            need = CHARGE if verb == "ask" else 0
            answer = await world.lease(need, lease_id=chosen)
            if "lease_id" in answer and answer["lease_id"] not in leases:
                leases.append(answer["lease_id"])
        elif verb == "close":
            await world.take(closing_event(chosen))
        elif verb == "wait":
            await world.step(span_ms)
        else:
            await world.take(record_event(record(number), lease_id=chosen))
        balance = await world.balance("payer/ann")
        assert 0 <= balance.held_nano <= balance.posted_nano
    paid = int(world.fate("posted")) * CHARGE
    await world.step(EDGE_MS)
    balance = await world.balance("payer/ann")
    assert (balance.posted_nano, balance.held_nano) == (10 * CHARGE - paid, 0)


async def test_a_key_of_the_ledger_or_the_market_is_no_gateway(world: World) -> None:
    await world.fund()
    for key in (LOG_KEY.identity, MARKET.identity, OPERATOR_KEY.identity, ""):
        assert (await world.lease(1, gateway=key))["error"] == "unknown_gateway"
