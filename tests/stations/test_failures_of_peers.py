"""Failures that other markets of this kind have had, played against our stations.

What concerns the law alone is in `tests/spec/test_failures_of_peers.py`, under the same numbers.
"""

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.makers import (
    GATEWAY,
    MANIFEST,
    MINER,
    OWNER,
    ToyKey,
    make_order,
    make_receipt,
    toy_verify,
)
from tests.market_makers import ANNA, BERT, CHUTE, in_world, manifest_of
from tests.market_makers import World as MarketWorld
from tests.stations.ledger.makers_ledger import (
    CHARGE,
    LEASE_ID,
    PARAMS,
    SECOND_VALIDATOR,
    USD,
    VALIDATOR,
    HandClock,
    World,
    charter,
    claim,
    closing_event,
    order_id,
    posted_sum,
    record,
    record_event,
)

from penstock.gateway.config import Bounds
from penstock.gateway.directory import CHUTES, Directory
from penstock.gateway.errors import ModelUnknown
from penstock.kit.metrics import Metrics
from penstock.ledger.errors import Rejected
from penstock.market.errors import BadOffer, NameTaken
from penstock.sim.disk import MemoryFiles
from penstock.sim.stores_ledger import MemoryLedgerStore
from penstock.spec.canon import from_plain, to_plain
from penstock.spec.entries import EntryKind
from penstock.spec.errors import BadMessage
from penstock.spec.keys import sign
from penstock.spec.messages import Manifest, Report, Tier, chute_id
from penstock.spec.params import LOCAL
from penstock.spec.pricing import split_charge

MINER_PART = split_charge(CHARGE, PARAMS.fees).miner_nano


@pytest.fixture
async def world() -> World:
    return await World().start()


async def claimed(world: World, number: int = 1) -> dict[str, str]:
    _, said = await world.call("POST", "/v1/claims", {"claims": [claim(number)]})
    answer: dict[str, str] = said["claims"][0]
    return answer


async def test_1_a_gateway_that_never_says_the_end_does_not_get_the_work_for_nothing(
    world: World,
) -> None:
    """A sequencer streamed all output, omitted the finish message, and settled unpaid."""
    await world.leased()
    assert (await claimed(world))["state"] == "waiting"
    world.clock.pass_ms(PARAMS.claim_grace_ms)
    world.quiet()
    assert (await claimed(world))["state"] == "accepted"
    balances = await world.everyone()
    assert balances["miner"] == MINER_PART
    assert balances["payer"] == USD
    assert posted_sum(balances) == 0


async def test_2_a_report_signed_by_one_seat_does_not_fill_anothers(world: World) -> None:
    """A timeout vote signed by A claimed the heavier slot of B."""
    epoch = await world.end_epoch()
    honest = await world.report(epoch, SECOND_VALIDATOR)
    forged = sign("report", await said_by(world, epoch, SECOND_VALIDATOR), VALIDATOR)
    with pytest.raises(Rejected):
        await world.ledger.take_report(forged)
    with pytest.raises(Rejected):
        await world.ledger.take_report(replace(honest, signer=VALIDATOR.identity))
    await world.ledger.take_report(honest)
    logged = await world.store.entries_under(
        EntryKind.REPORT, prefix=f"report/{epoch}/", seq_max=99
    )
    assert [one.entry_id for one in logged] == [f"report/{epoch}/{SECOND_VALIDATOR.identity}"]


async def said_by(world: World, epoch: int, key: ToyKey) -> Any:
    return from_plain(Report, (await world.report(epoch, key)).body)


async def test_3_other_numbers_than_the_charters_start_no_ledger(world: World) -> None:
    """Parameters were read live: a ledger with other numbers moved other money under one name."""
    changed = world.charter
    world.charter = charter(params_digest="00" * 32)
    with pytest.raises(BadMessage):
        await world.start()
    world.charter = changed
    await world.start()


async def test_4_two_ledgers_whose_clocks_disagree_keep_the_same_log_and_books() -> None:
    """A wall clock inside replicated state made replicas diverge."""
    worlds = []
    for late_ms in (0, 3):
        world = await World(clock=HandClock(HandClock().at_ms + late_ms)).start()
        lease = await world.leased()
        for number in range(5):
            await world.take(record_event(record(number), lease_id=lease))
            world.clock.pass_ms(late_ms * 100)
        worlds.append(world)
    logs = [await world.store.entries(0, count=99) for world in worlds]
    assert [one.leaf for one in logs[0]] == [one.leaf for one in logs[1]]
    assert [one.row for one in logs[0]] == [one.row for one in logs[1]]
    assert await worlds[0].everyone() == await worlds[1].everyone()


async def test_7_a_seat_that_never_reports_does_not_hold_up_the_money(world: World) -> None:
    """A quorum became unreachable: here time is a quorum too."""
    lease = await world.leased()
    await world.take(record_event(record(), lease_id=lease))
    epoch = await world.end_epoch()
    await world.ledger.take_report(await world.report(epoch))
    await world.step()
    assert (await world.ledger.epochs())["settled"] == -1
    await world.step(PARAMS.report_deadline_ms)
    assert (await world.ledger.epochs())["settled"] == epoch
    assert await world.posted("pool") == 0


async def test_8_an_event_that_can_never_hold_is_put_aside_once_and_blocks_nobody(
    world: World,
) -> None:
    """Invalid gossip was never evicted and blocked all signers."""
    lease = await world.leased()
    forged = replace(record(7), receipt=None)
    poison: list[tuple[str, Any]] = [
        ("events.record.gw", b"\xff\xfe"),
        ("events.record.gw", b"[" * 100_000),
        record_event(forged, lease_id=lease),
        ("events.lease.gw", {"lease_id": "l-x", "close": True}),
        ("events.log.market", {"kind": "close", "id": "close/1", "body": {}}),
        ("events.unheard.of", {}),
    ]
    good = record_event(record(1), lease_id=lease)
    await world.take(*poison, good, *poison)
    assert len(world.acked) == 2 * len(poison) + 1
    assert (await world.everyone())["payer"] == USD - CHARGE
    assert world.fate("posted") == 1


def test_15_a_tier_that_nobody_verified_is_refused() -> None:
    """An attested shim loaded unmeasured code: a tier is the operator's word, not the miner's."""

    async def story(world: MarketWorld) -> None:
        for tier in (Tier.MEASURED, Tier.ATTESTED):
            with pytest.raises(BadOffer, match=tier.value):
                await world.market.offer(world.offer(ANNA, tier=tier), delegation=None)
        dear = world.offer(ANNA, hardware="nvidia-b200")
        await world.market.offer(dear, delegation=None)
        outcome = world.market.close_epoch()
        assert [one.hardware for one in outcome.rolls[0].presences] == ["unproven"]

    in_world(story)


async def test_20_a_retry_is_one_order_however_often_and_wherever_it_arrives(world: World) -> None:
    """Retries double-counted and replays were not idempotent."""
    lease = await world.leased()
    event = record_event(record(), lease_id=lease)
    before = await world.everyone()
    for _ in range(3):
        await world.take(event, event)
        await world.start()
        assert (await claimed(world))["state"] == "posted"
    other_gateway = record_event(record(), lease_id=LEASE_ID)
    await world.take(other_gateway)
    after = await world.everyone()
    assert before["payer"] - after["payer"] == CHARGE
    records = [
        one for one in await world.store.entries(0, count=99) if one.kind is EntryKind.RECORD
    ]
    assert [one.entry_id for one in records] == [order_id(1)]


async def test_20_a_log_replayed_into_a_new_ledger_comes_to_the_same_balances(
    world: World,
) -> None:
    """The log is the truth: whoever replays its records comes to what they charged and earned."""
    lease = await world.leased()
    await world.take(*(record_event(record(n), lease_id=lease) for n in range(4)))
    logged = await world.store.entries(0, count=99)
    again = await World().start()
    fresh = await again.leased()
    for one in logged:
        if one.kind is EntryKind.RECORD:
            body = json.loads(one.leaf)["body"]
            said = {"record": body, "account": "ann", "lease_id": fresh}
            await again.take(("events.record.gw", said))
    assert await again.everyone() == await world.everyone()


async def test_22_no_money_left_is_said_with_how_much_there_is(world: World) -> None:
    """A price filter silently emptied the supply; a refusal here says what is free."""
    await world.fund(500)
    answer = await world.lease(need_nano=501)
    assert answer == {"error": "insufficient_funds", "available_nano": 500}
    assert (await world.lease(need_nano=500))["granted_nano"] == 500


async def test_24_a_miner_is_paid_without_anybodys_acceptance(world: World) -> None:
    """An invoice was never accepted and the provider stayed unpaid."""
    for number in range(3):
        assert (await claimed(world, number))["state"] == "waiting"
    world.clock.pass_ms(PARAMS.claim_grace_ms)
    world.quiet()
    for number in range(3):
        assert (await claimed(world, number))["outcome"] == "gateway_failed"
    assert (await world.everyone())["miner"] == 3 * MINER_PART


async def test_25_money_of_a_lease_closed_early_is_never_stuck(world: World) -> None:
    """Funds of an early close were stuck without a route to claim them."""
    lease = await world.leased()
    await world.take(record_event(record(1), lease_id=lease), closing_event(lease))
    balance = await world.balance("payer/ann")
    assert (balance.posted_nano, balance.held_nano) == (USD - CHARGE, 0)
    # All that is left can be leased at once, and what comes late costs the payer nothing.
    assert (await world.lease(USD - CHARGE))["granted_nano"] == USD - CHARGE
    await world.take(record_event(record(2), lease_id=lease))
    balances = await world.everyone()
    assert balances["payer"] == USD - CHARGE
    assert balances["miner"] == 2 * MINER_PART


async def test_25_money_of_a_gateway_that_vanished_comes_back_by_itself(world: World) -> None:
    """The same for a gateway that never closes anything: expiry is a route without anybody."""
    await world.leased()
    await world.step(PARAMS.lease_ttl_ms + PARAMS.claim_grace_ms)
    balance = await world.balance("payer/ann")
    assert (balance.posted_nano, balance.held_nano) == (USD, 0)


class StandingClock:
    def now_ms(self) -> int:
        return 2_000

    def mono_us(self) -> int:
        return 0


def directory(*manifests: Manifest) -> Directory:
    made = Directory(
        clock=StandingClock(),
        verify=toy_verify,
        params=LOCAL,
        bounds=Bounds(),
        metrics=Metrics(),
    )
    for one in manifests:
        key = chute_id(one).removeprefix("sha256:")
        signed = sign("manifest", one, OWNER)
        made.take(CHUTES, key, json.dumps(to_plain(signed)).encode())
    return made


@pytest.mark.parametrize(
    "asked",
    [
        "",
        "big",
        "big-chatty",
        "Big-Chat",
        "big-chat ",
        "chat",
        "big-chat@",
        "*",
        "big-chat@sha256:",
    ],
)
def test_27_a_name_that_nobody_published_never_means_the_first_model_there_is(asked: str) -> None:
    """A catalogue name resolved to whatever came first in the list."""
    known = directory(replace(MANIFEST, name="big-chat"), replace(MANIFEST, name="small-chat"))
    with pytest.raises(ModelUnknown) as refused:
        known.resolve(asked)
    assert refused.value.known == ("big-chat", "small-chat")


def test_27_a_digest_under_another_name_is_refused() -> None:
    """`name@digest` is that model and that name, or nothing."""
    big, small = replace(MANIFEST, name="big-chat"), replace(MANIFEST, name="small-chat")
    known = directory(big, small)
    assert known.resolve(f"small-chat@{chute_id(small)}").manifest == small
    with pytest.raises(ModelUnknown):
        known.resolve(f"small-chat@{chute_id(big)}")


def test_27_nobody_takes_over_a_name_that_others_call() -> None:
    """The market holds a name for its first owner, whatever others publish under it."""

    async def story(world: MarketWorld) -> None:
        with pytest.raises(NameTaken):
            await world.market.publish(manifest_of(BERT, name=MANIFEST.name, instances_max=3))
        assert [one.chute for one in world.market.catalogue.all()] == [CHUTE]
        assert f"chutes.{CHUTE.removeprefix('sha256:')}" in world.board()

    in_world(story)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"charge_nano": 1}, "the charge is not the price of the units"),
        ({"miner": OWNER.identity}, "names another order, chute, instance or miner"),
        ({"order_digest": "00" * 32}, "of another order or miner"),
    ],
)
async def test_28_why_a_claim_was_refused_is_told_to_who_claims(
    world: World, changes: dict[str, Any], cause: str
) -> None:
    """The upstream's cause was hidden behind "Provider returned error"."""
    order = make_order(order_id=order_id(1))
    receipt = sign("receipt", replace(make_receipt(order), **changes), MINER)
    said = {"order": to_plain(sign("order", order, GATEWAY)), "receipt": to_plain(receipt)}
    status, answer = await world.call("POST", "/v1/claims", {"claims": [said]})
    assert status == 200
    assert answer["claims"][0]["state"] == "rejected"
    assert cause in answer["claims"][0]["reason"]


async def test_28_a_ledger_in_trouble_says_what_to_do() -> None:
    """A full disk is told with what waits and what helps, not as an error of the payer's."""
    world = await World(files=MemoryFiles(bytes_max=10)).start()
    await world.end_epoch()
    status, about = await world.get("/health")
    assert status == 200
    assert about["status"] == "degraded"
    assert "Free space" in about["problems"][0]
    lease = await world.leased()
    await world.take(record_event(record(), lease_id=lease))
    assert (await world.everyone())["miner"] == MINER_PART


async def test_29_work_beyond_what_was_set_aside_is_paid_by_who_let_it_pass() -> None:
    """An escrow was overdrawn and the job ran on for nothing."""
    store = MemoryLedgerStore()
    world = await World(store=store).start()
    await world.fund(CHARGE)
    lease = (await world.lease(CHARGE))["lease_id"]
    await world.take(*(record_event(record(n), lease_id=lease) for n in range(3)))
    balances = await world.everyone()
    assert balances["payer"] == 0
    assert balances["miner"] == 3 * MINER_PART
    assert all(one.free_nano >= 0 for name, one in store.books.accounts.items() if name != "mint")
    assert balances["mint"] < -CHARGE
    assert posted_sum(balances) == 0


async def test_30_a_refusal_is_about_this_request_and_never_grows(world: World) -> None:
    """A ban for too many requests grew to a day, unexplained: here money decides, each time anew."""
    for _ in range(50):
        assert (await world.lease(1))["error"] == "unknown_key"
    await world.fund(10)
    assert (await world.lease(10))["granted_nano"] == 10
    for _ in range(50):
        assert (await world.lease(1))["error"] == "insufficient_funds"
    await world.fund(10, opening_id="second")
    assert (await world.lease(10))["granted_nano"] == 10
