"""Claims: a miner is paid for what its gateway kept to itself, and never twice."""

from dataclasses import replace
from typing import Any

import pytest
from tests.makers import GATEWAY, MINER, ToyKey, make_order, make_receipt
from tests.stations.ledger.makers_ledger import (
    CHARGE,
    PARAMS,
    USD,
    World,
    charter,
    claim,
    closing_event,
    order_id,
    record,
    record_event,
    unseen,
)

from penstock.spec.canon import to_plain
from penstock.spec.keys import sign
from penstock.spec.pricing import split_charge
from penstock.spec.receipts import Outcome

FEES = split_charge(CHARGE, PARAMS.fees)
GRACE = PARAMS.claim_grace_ms


@pytest.fixture
async def world() -> World:
    return await World().start()


async def claimed(world: World, *claims: dict[str, Any]) -> list[dict[str, Any]]:
    status, answer = await world.call("POST", "/v1/claims", {"claims": list(claims)})
    assert status == 200
    found: list[dict[str, Any]] = answer["claims"]
    return found


def pass_quietly(world: World, span_ms: int) -> None:
    world.clock.pass_ms(span_ms)
    world.quiet()


async def test_a_young_claim_waits_and_moves_nothing(world: World) -> None:
    [answer] = await claimed(world, claim())
    said = {"order_id": order_id(1), "state": "waiting", "outcome": "", "reason": ""}
    assert answer == said
    assert (await world.everyone())["miner"] == 0


async def test_a_claim_is_accepted_when_the_grace_is_over(world: World) -> None:
    await claimed(world, claim())
    pass_quietly(world, GRACE - 1)
    assert (await claimed(world, claim()))[0]["state"] == "waiting"
    pass_quietly(world, 1)
    [answer] = await claimed(world, claim())
    assert (answer["state"], answer["outcome"]) == ("accepted", "gateway_failed")
    assert (await world.everyone())["miner"] == FEES.miner_nano


async def test_an_accepted_claim_is_posted_from_then_on_and_paid_once(world: World) -> None:
    await claimed(world, claim())
    pass_quietly(world, GRACE)
    await claimed(world, claim(), claim())
    [answer] = await claimed(world, claim())
    assert (answer["state"], answer["outcome"]) == ("posted", "gateway_failed")
    assert (await world.everyone())["miner"] == FEES.miner_nano


async def test_a_claim_for_a_delivered_record_is_posted_with_its_outcome(world: World) -> None:
    lease = await world.leased()
    await world.take(record_event(record(), lease_id=lease))
    [answer] = await claimed(world, claim())
    assert (answer["state"], answer["outcome"]) == ("posted", "complete")
    assert (await world.everyone())["payer"] == USD - CHARGE


async def test_a_record_that_comes_within_the_grace_ends_the_claim(world: World) -> None:
    lease = await world.leased()
    await claimed(world, claim())
    await world.take(record_event(record(), lease_id=lease))
    pass_quietly(world, GRACE)
    assert (await claimed(world, claim()))[0]["outcome"] == "complete"
    assert (await world.everyone())["miner"] == FEES.miner_nano


async def test_a_record_that_comes_after_an_accepted_claim_is_a_dispute(world: World) -> None:
    lease = await world.leased()
    await claimed(world, claim())
    pass_quietly(world, GRACE)
    await claimed(world, claim())
    await world.take(record_event(record(), lease_id=lease))
    assert world.fate("disputed") == 1
    assert (await world.everyone())["payer"] == USD


def running_claim(world: World, *, left_ms: int) -> dict[str, Any]:
    """A claim for an order that was issued now and runs for so long."""
    now_ms = world.clock.at_ms
    order = make_order(order_id=order_id(1), issued_ms=now_ms, deadline_ms=now_ms + left_ms)
    return {
        "order": to_plain(sign("order", order, GATEWAY)),
        "receipt": to_plain(sign("receipt", make_receipt(order), MINER)),
    }


async def test_while_its_gateway_may_be_at_work_an_order_cannot_be_claimed(world: World) -> None:
    """A miner that drags an answer out past the grace would be paid for what nobody received."""
    await world.leased()
    running = running_claim(world, left_ms=5 * GRACE)
    await claimed(world, running)
    pass_quietly(world, 6 * GRACE - 1)
    assert (await claimed(world, running))[0]["state"] == "waiting"
    assert (await world.everyone())["miner"] == 0
    pass_quietly(world, 1)
    assert (await claimed(world, running))[0]["state"] == "accepted"


async def test_a_gateway_without_a_lease_from_before_an_order_has_said_all_about_it(
    world: World,
) -> None:
    lease = await world.leased()
    running = running_claim(world, left_ms=50 * GRACE)
    await claimed(world, running)
    await world.take(closing_event(lease))
    pass_quietly(world, GRACE)
    await world.leased()
    assert (await claimed(world, running))[0]["state"] == "accepted"


async def test_another_gateways_lease_does_not_hold_a_claim_up() -> None:
    second = ToyKey("second gateway")
    world = await World(charter=charter(gateways=(GATEWAY.identity, second.identity))).start()
    await world.fund(10 * USD)
    await world.lease(1, gateway=second.identity)
    running = running_claim(world, left_ms=50 * GRACE)
    await claimed(world, running)
    pass_quietly(world, GRACE)
    assert (await claimed(world, running))[0]["state"] == "accepted"


async def test_a_ledger_that_lags_behind_calls_no_gateway_silent(world: World) -> None:
    world.quiet()
    await claimed(world, claim())
    world.clock.pass_ms(10 * GRACE)
    assert (await claimed(world, claim()))[0]["state"] == "waiting"


async def test_the_grace_survives_a_restart(world: World) -> None:
    await claimed(world, claim())
    pass_quietly(world, GRACE)
    await world.start()
    world.quiet()
    assert (await claimed(world, claim()))[0]["state"] == "accepted"


async def test_claims_of_one_request_are_answered_in_their_order(world: World) -> None:
    lease = await world.leased()
    await world.take(record_event(record(2), lease_id=lease))
    answers = await claimed(world, claim(1), claim(2), {}, claim(3))
    assert [one["state"] for one in answers] == ["waiting", "posted", "rejected", "waiting"]


def other_receipt(**changes: Any) -> dict[str, Any]:
    said = unseen()
    order = make_order(order_id=order_id(1))
    receipt = sign("receipt", make_receipt(order, **changes), MINER)
    return {"order": to_plain(said.order), "receipt": to_plain(receipt)}


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"order": None, "receipt": None},
        {**claim(), "more": 1},
        {"order": claim()["order"]},
        {"order": claim()["order"], "receipt": claim(2)["receipt"]},
        other_receipt(charge_nano=CHARGE + 1),
        other_receipt(miner=ToyKey("other").identity),
        {**claim(), "order": {**claim()["order"], "signature": "00"}},
    ],
)
async def test_a_claim_that_does_not_hold_is_rejected_with_a_reason(
    world: World, bad: dict[str, Any]
) -> None:
    pass_quietly(world, GRACE)
    [answer] = await claimed(world, bad)
    assert answer["state"] == "rejected"
    assert answer["reason"]


async def test_a_claim_on_a_gateway_outside_the_charter_is_rejected(world: World) -> None:
    stranger = ToyKey("stranger")
    order = make_order(gateway=stranger.identity, order_id=order_id(1))
    bad = {
        "order": to_plain(sign("order", order, stranger)),
        "receipt": to_plain(sign("receipt", make_receipt(order), MINER)),
    }
    assert (await claimed(world, bad))[0]["reason"].startswith("unknown_gateway")


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.MINER_FAILED])
async def test_a_claim_for_nothing_earned_pays_nothing(world: World, outcome: Outcome) -> None:
    free = other_receipt(outcome=outcome)
    await claimed(world, free)
    pass_quietly(world, GRACE)
    assert (await claimed(world, free))[0]["state"] == "accepted"
    assert (await world.everyone())["miner"] == 0


async def test_too_many_claims_in_one_request_are_refused(world: World) -> None:
    status, answer = await world.call("POST", "/v1/claims", {"claims": [{}] * 257})
    assert (status, answer["error"]["code"]) == (422, "too_many_claims")


async def test_256_claims_are_answered(world: World) -> None:
    answers = await claimed(world, *(claim(number) for number in range(256)))
    assert {one["state"] for one in answers} == {"waiting"}


async def test_a_claim_of_another_receipt_for_a_logged_order_changes_nothing(
    world: World,
) -> None:
    await world.take(record_event(record()))
    before = await world.everyone()
    order = make_order(order_id=order_id(1))
    other = replace(make_receipt(order), seed=8)
    bad = {**claim(), "receipt": to_plain(sign("receipt", other, MINER))}
    assert (await claimed(world, bad))[0]["state"] == "posted"
    assert await world.everyone() == before


async def test_gateways_word_for_another_receipt_than_claimed_stands_if_it_came_first(
    world: World,
) -> None:
    lease = await world.leased()
    await claimed(world, claim())
    await world.take(record_event(record(ttft_us=77), lease_id=lease))
    assert (await claimed(world, claim()))[0]["outcome"] == "complete"
    assert GATEWAY.identity in str(world.charter.body)


async def test_the_answers_to_claims_are_counted_by_their_state(world: World) -> None:
    await claimed(world, {"order": 7}, {"order": 7}, claim(1))
    metrics = world.ledger.metrics
    assert metrics.value("ledger_claims_total", state="rejected") == 2
    assert metrics.value("ledger_claims_total", state="waiting") == 1


async def test_refused_openings_are_counted(world: World) -> None:
    forged = to_plain(sign("account", {"account": "ann"}, ToyKey("toy:stranger")))
    status, _ = await world.call("POST", "/v1/accounts", forged)
    assert status in {400, 403}
    counted = [
        world.ledger.metrics.value("ledger_openings_refused_total", code=code)
        for code in ("not_the_operator", "bad_opening")
    ]
    assert sum(counted) == 1
