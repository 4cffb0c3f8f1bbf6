"""Records under seals and with their decisions: judged, paid, logged and proven like all others."""

from dataclasses import replace
from typing import Any

import pytest
from tests.makers import (
    GATEWAY,
    MINER,
    make_countersign,
    make_decision,
    make_order,
    make_receipt,
    seal,
    sealed,
    toy_verify,
)
from tests.stations.ledger.makers_ledger import (
    CHARGE,
    PARAMS,
    USD,
    World,
    claim,
    order_id,
    record,
    record_event,
    unseen,
)

from penstock.client.proof import check_document
from penstock.kit.keys import verify_raw
from penstock.ledger.intake import (
    EVENT_BYTES_MAX,
    RECORD_BATCH_MAX,
    RECORD_BYTES_MAX,
    judged_record,
    record_leaf,
)
from penstock.spec.canon import to_plain
from penstock.spec.entries import Entry, EntryKind, leaf_bytes, parse_leaf
from penstock.spec.keys import sign
from penstock.spec.pricing import split_charge
from penstock.spec.receipts import Record, decision_digest, parse_record
from penstock.spec.routing import DECISION_SHOWN_MAX, Considered, Decision
from penstock.spec.seals import SEAL_LEAVES_MAX, is_seal

FEES = split_charge(CHARGE, PARAMS.fees)
DECISION = make_decision(
    present=100_000,
    considered=tuple(
        Considered(
            instance=f"{number}" + "x" * 63, reason="too_dear", merit=2**53 - 1, cached_ppm=10**6
        )
        for number in range(DECISION_SHOWN_MAX)
    ),
    choice="0" + "x" * 63,
)


def under_seals(number: int = 1, *, strangers: int = SEAL_LEAVES_MAX - 1) -> Record:
    return sealed(record(number), gateway=GATEWAY, miner=MINER, strangers=strangers)


def decided(number: int = 1, *, named: Decision | None = DECISION) -> Record:
    """A record with a decision, whose order names that one."""
    order = make_order(order_id=order_id(number), decision_digest=decision_digest(named))
    receipt = sign("receipt", make_receipt(order), MINER)
    return Record(
        order=sign("order", order, GATEWAY),
        receipt=receipt,
        checkpoint=None,
        countersign=sign("countersign", make_countersign(order, receipt), GATEWAY),
        decision=DECISION,
    )


@pytest.fixture
async def world() -> World:
    return await World().start()


async def document(world: World, number: int = 1) -> Any:
    status, body = await world.call("GET", f"/v1/receipts/{order_id(number)}")
    assert status == 200
    return body


@pytest.mark.parametrize("strangers", [0, 1, 6, SEAL_LEAVES_MAX - 1])
async def test_a_sealed_record_is_paid_like_one_that_is_signed_word_by_word(
    world: World, strangers: int
) -> None:
    lease = await world.leased()
    await world.take(record_event(under_seals(strangers=strangers), lease_id=lease))
    everyone = await world.everyone()
    assert everyone["payer"] == USD - CHARGE
    assert everyone["miner"] == FEES.miner_nano


async def test_the_logged_record_proves_itself_without_the_others_of_its_batch(
    world: World,
) -> None:
    lease = await world.leased()
    await world.take(record_event(under_seals(), lease_id=lease))
    proof = check_document(
        await document(world), params=PARAMS, verify=toy_verify, verify_raw=verify_raw, log=None
    )
    assert proof.seq >= 0
    assert is_seal(proof.record.order.signature)
    assert proof.judgement.charge_nano == CHARGE


async def test_a_sealed_record_delivered_again_is_charged_once(world: World) -> None:
    lease = await world.leased()
    for _ in range(3):
        await world.take(record_event(under_seals(), lease_id=lease))
    assert (await world.everyone())["payer"] == USD - CHARGE


async def test_many_records_of_one_batch_come_in_together(world: World) -> None:
    lease = await world.leased()
    records = [record(number) for number in range(8)]
    orders = seal(GATEWAY, *(one.order for one in records))
    both = [replace(one, order=order) for one, order in zip(records, orders, strict=True)]
    await world.take(*(record_event(one, lease_id=lease) for one in both))
    assert (await world.everyone())["payer"] == USD - 8 * CHARGE


def together(*events: tuple[str, Any]) -> tuple[str, Any]:
    """Several records as one message on the bus."""
    return "events.record.gw", {"records": [body for _, body in events]}


async def test_records_that_come_in_one_message_are_taken_in_one_by_one(world: World) -> None:
    lease = await world.leased()
    events = [record_event(under_seals(number), lease_id=lease) for number in range(5)]
    await world.take(together(*events))
    await world.take(together(*events[2:]), events[0])
    assert (await world.everyone())["payer"] == USD - 5 * CHARGE
    assert world.fate("posted") == 5


async def test_one_bad_record_in_a_message_leaves_the_others_alone(world: World) -> None:
    lease = await world.leased()
    bad = replace(under_seals(2), receipt=under_seals(3).receipt)
    await world.take(
        together(
            record_event(under_seals(1), lease_id=lease),
            record_event(bad, lease_id=lease),
            ("events.record.gw", {"record": 1}),
            ("events.record.gw", 7),
            record_event(under_seals(4), lease_id=lease),
        )
    )
    assert (await world.everyone())["payer"] == USD - 2 * CHARGE
    assert (world.rejected("refused"), world.rejected("malformed")) == (1, 2)
    assert world.acked == ["events.record.gw"]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b'{"records":1}', "malformed"),
        (b'{"records":[', "malformed"),
        (b'{"records":[],"more":1}', "malformed"),
        (b'{"records":[' + b",".join([b"{}"] * (RECORD_BATCH_MAX + 1)) + b"]}", "too_large"),
        (b'{"records":["' + b"x" * EVENT_BYTES_MAX + b'"]}', "too_large"),
        (b'{"records":["' + b"x" * RECORD_BYTES_MAX + b'"]}', "too_large"),
        (b'{"records":[{"records":[]}]}', "malformed"),
    ],
)
async def test_a_message_that_is_no_batch_is_refused_and_acknowledged(
    world: World, message: bytes, reason: str
) -> None:
    await world.take(("events.record.gw", message))
    assert world.rejected(reason) == 1
    assert world.acked == ["events.record.gw"]


@pytest.mark.parametrize("part", ["order", "receipt", "countersign"])
async def test_a_seal_of_another_order_is_refused(world: World, part: str) -> None:
    lease = await world.leased()
    stolen = getattr(under_seals(2), part).signature
    signed = replace(getattr(under_seals(1), part), signature=stolen)
    changed: dict[str, Any] = {part: signed}
    await world.take(record_event(replace(under_seals(1), **changed), lease_id=lease))
    assert world.rejected("refused") == 1
    assert (await world.everyone())["payer"] == USD


async def test_a_seal_of_a_megabyte_is_refused_by_its_size(world: World) -> None:
    said = under_seals()
    huge = replace(said.order, signature=said.order.signature + "0" * (1 << 20))
    await world.take(record_event(replace(said, order=huge)))
    assert world.rejected("too_large") == 1


async def test_a_claim_with_the_orders_seal_is_accepted_after_its_grace(world: World) -> None:
    """What a miner holds of a session whose gateway went away: the order's seal, its own receipt."""
    (order,) = seal(GATEWAY, unseen().order, strangers=30)
    said = {**claim(), "order": to_plain(order)}
    status, answer = await world.call("POST", "/v1/claims", {"claims": [said]})
    assert (status, answer["claims"][0]["state"]) == (200, "waiting")
    world.clock.pass_ms(PARAMS.claim_grace_ms)
    world.quiet()
    _, answer = await world.call("POST", "/v1/claims", {"claims": [said]})
    assert (answer["claims"][0]["state"], answer["claims"][0]["outcome"]) == (
        "accepted",
        "gateway_failed",
    )
    assert (await world.everyone())["miner"] == FEES.miner_nano


async def test_an_order_that_was_only_vouched_for_cannot_be_claimed(world: World) -> None:
    """A MAC is between two; without the gateway's seal there is no proof of the order."""
    order = replace(unseen().order, signature="00" * 32)
    said = {**claim(), "order": to_plain(order)}
    _, answer = await world.call("POST", "/v1/claims", {"claims": [said]})
    assert answer["claims"][0]["state"] == "rejected"


async def test_a_claim_for_an_order_with_a_decision_needs_none(world: World) -> None:
    said = replace(decided(), countersign=None, decision=None)
    claims = [{"order": to_plain(said.order), "receipt": to_plain(said.receipt)}]
    _, answer = await world.call("POST", "/v1/claims", {"claims": claims})
    assert answer["claims"][0]["state"] == "waiting"


async def test_a_decision_is_logged_with_its_record(world: World) -> None:
    lease = await world.leased()
    await world.take(record_event(decided(), lease_id=lease))
    found = parse_record((await document(world))["record"])
    assert found.decision == DECISION
    entries = await world.store.entries(0, count=100)
    (logged,) = [one for one in entries if one.kind is EntryKind.RECORD]
    assert parse_record(parse_leaf(logged.leaf).body) == found


@pytest.mark.parametrize(
    "said",
    [
        replace(decided(), decision=None),
        replace(decided(), decision=replace(DECISION, seed=1)),
        decided(named=None),
    ],
)
async def test_a_decision_that_the_order_does_not_name_is_refused(
    world: World, said: Record
) -> None:
    lease = await world.leased()
    await world.take(record_event(said, lease_id=lease))
    assert world.rejected("refused") == 1


def test_the_largest_decision_under_the_longest_seals_fits_with_room_to_spare(
    world: World,
) -> None:
    said = sealed(decided(), gateway=GATEWAY, miner=MINER, strangers=SEAL_LEAVES_MAX - 1)
    plain = to_plain(said)
    leaf = record_leaf(order_id(1), plain)
    assert leaf == leaf_bytes(Entry(EntryKind.RECORD, order_id(1), plain))
    assert len(leaf) < RECORD_BYTES_MAX // 8
    assert judged_record(plain, world.ledger.rules()).leaf == leaf
