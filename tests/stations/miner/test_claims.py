"""Receipts that the ledger may not know are claimed until it does, over crashes of both."""

import asyncio

import pytest
from tests.makers import make_order, make_receipt
from tests.stations.miner.world import World, chat_body, playing

from penstock.kit.metrics import Metrics
from penstock.kit.wire.problem import problem
from penstock.miner.outbox import DEAD_LINES_MAX, Outbox
from penstock.miner.statement import state
from penstock.miner.store import Claim, claim_line, read_line, settled_line
from penstock.sim.stores_miner import MemoryOutbox
from penstock.spec.params import LOCAL


def make_claim(number: int, *, signature: str = "g-signed") -> Claim:
    order = make_order(order_id=f"o-{number}")
    receipt = make_receipt(order)
    return Claim(
        order.order_id,
        state("order", order, signer=order.gateway, signature=signature),
        state("receipt", receipt, signer=order.miner, signature="m-signed"),
    )


def opened(store: MemoryOutbox, *, claims_max: int = 100) -> Outbox:
    outbox = Outbox(store, Metrics(), claims_max=claims_max)
    outbox.open(now_ms=0)
    return outbox


def ids(claims: list[Claim]) -> list[str]:
    return [claim.order_id for claim in claims]


def test_a_receipt_is_claimed_only_after_the_gateway_had_its_time() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        answer = await world.call(chat_body())
        done_ms = world.clock.now_ms()
        await world.until(lambda: world.market.claims)
        assert world.clock.now_ms() - done_ms >= LOCAL.claim_grace_ms // 4
        (claim,) = world.market.claims
        assert claim["receipt"]["signature"] == answer.signed_receipt.signature
        await world.until(lambda: len(world.miner.parts.outbox) == 0)
        await asyncio.sleep(60)
        assert len(world.market.claims) == 1

    playing(scenario)


def test_a_waiting_claim_is_asked_about_again_until_it_is_settled() -> None:
    def prepare(world: World) -> None:
        world.market.claim_state = "waiting"

    async def scenario(world: World) -> None:
        await world.ready()
        await world.call(chat_body())
        await world.until(lambda: len(world.market.claims) >= 3)
        assert len(world.miner.parts.outbox) == 1
        world.market.claim_state = "accepted"
        await world.until(lambda: len(world.miner.parts.outbox) == 0)

    playing(scenario, prepare=prepare)


def test_claims_survive_the_death_of_miner_and_ledger() -> None:
    def prepare(world: World) -> None:
        world.market.refuse["/v1/claims"] = problem(503, "down", "down")

    async def scenario(world: World) -> None:
        await world.ready()
        answer = await world.call(chat_body())
        await world.until(lambda: world.miner.parts.claims.why)
        assert any("ledger" in one for one in (await world.health())["problems"])
        world.stop.set()
        await asyncio.sleep(20)
        del world.market.refuse["/v1/claims"]
        async with asyncio.TaskGroup() as group:
            group.create_task(world.run_miner())
            await world.until(lambda: world.market.claims)
            world.stop.set()
        (claim,) = world.market.claims
        assert claim["order"]["signature"] == answer.order.signature

    playing(scenario, prepare=prepare)


def test_one_claim_that_the_ledger_cannot_read_does_not_hold_up_the_others() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        for _ in range(5):
            await world.call(chat_body())
        outbox = world.miner.parts.outbox
        claims = outbox.due(now_ms=2**50, claims_max=100)
        bad = world.market.unreadable = claims[2].order_id
        for claim in claims:
            outbox.postpone(claim.order_id, due_ms=0)
        await world.until(lambda: len(outbox) == 0)
        assert world.market.refused[-1] == 1
        claimed = {one["order"]["body"]["order_id"] for one in world.market.claims}
        assert claimed == set(ids(claims)) - {bad}

    playing(scenario)


def test_a_reopened_outbox_knows_what_was_put_and_not_settled() -> None:
    store = MemoryOutbox()
    outbox = opened(store)
    for number in range(3):
        outbox.put(make_claim(number), due_ms=50)
    outbox.settle("o-1")
    again = opened(store)
    assert ids(again.due(now_ms=0, claims_max=9)) == ["o-0", "o-2"]


def test_a_claim_is_due_only_once_it_is_proven() -> None:
    outbox = opened(MemoryOutbox())
    outbox.put(make_claim(1, signature=""), due_ms=0)
    outbox.put(make_claim(2), due_ms=0)
    assert ids(outbox.due(now_ms=50, claims_max=9)) == ["o-2"]
    outbox.prove({"o-1": "seal", "o-9": "seal"}, due_ms=60)
    assert outbox.due(now_ms=59, claims_max=9) == []
    (claim,) = outbox.due(now_ms=60, claims_max=9)
    assert (claim.order_id, claim.order.signature) == ("o-1", "seal")


def test_what_proves_a_claim_survives_a_restart_and_a_compaction() -> None:
    store = MemoryOutbox()
    outbox = opened(store)
    for number in range(3):
        outbox.put(make_claim(number, signature=""), due_ms=0)
    outbox.prove({"o-0": "seal-0", "o-2": "seal-2"}, due_ms=0)
    again = opened(store)
    found = again.due(now_ms=0, claims_max=9)
    assert [(one.order_id, one.order.signature) for one in found] == [
        ("o-0", "seal-0"),
        ("o-2", "seal-2"),
    ]
    assert len(again) == 3, "the one without a seal may still be proven"
    store.replace([claim_line(claim) for claim in again.claims()])
    assert ids(opened(store).due(now_ms=0, claims_max=9)) == ["o-0", "o-2"]


def test_seals_of_orders_that_are_not_kept_leave_no_line() -> None:
    store = MemoryOutbox()
    outbox = opened(store)
    outbox.prove({"o-1": "seal"}, due_ms=0)
    assert store.load() == []


@pytest.mark.parametrize("signature", ["", "g-signed"])
def test_a_claim_reads_back_from_its_line_as_it_was(signature: str) -> None:
    claim = make_claim(1, signature=signature)
    claim.receipt.signature = signature
    assert read_line(claim_line(claim)) == claim


def test_an_order_and_a_receipt_of_two_orders_are_no_claim() -> None:
    first, second = make_claim(1), make_claim(2)
    assert read_line(claim_line(Claim("o-1", first.order, second.receipt))) is None
    assert read_line(claim_line(Claim("o-1", first.receipt, first.order))) is None


def test_claims_come_due_in_their_time_and_once() -> None:
    outbox = opened(MemoryOutbox())
    outbox.put(make_claim(1), due_ms=20)
    outbox.put(make_claim(2), due_ms=10)
    assert outbox.due(now_ms=9, claims_max=9) == []
    assert ids(outbox.due(now_ms=10, claims_max=9)) == ["o-2"]
    assert ids(outbox.due(now_ms=30, claims_max=9)) == ["o-1"]
    assert outbox.due(now_ms=30, claims_max=9) == []
    outbox.postpone("o-2", due_ms=40)
    outbox.postpone("o-9", due_ms=40)
    assert ids(outbox.due(now_ms=40, claims_max=9)) == ["o-2"]


def test_while_the_ledger_is_away_the_times_of_dropped_claims_are_forgotten() -> None:
    outbox = opened(MemoryOutbox(), claims_max=2)
    for number in range(1_000):
        outbox.put(make_claim(number), due_ms=number)
        assert outbox.times_kept <= 5
    assert ids(outbox.due(now_ms=10**6, claims_max=9)) == ["o-998", "o-999"]


def test_a_full_outbox_drops_the_oldest_and_counts_it() -> None:
    outbox = opened(MemoryOutbox(), claims_max=2)
    for number in range(3):
        outbox.put(make_claim(number), due_ms=number)
    assert (len(outbox), outbox.dropped) == (2, 1)
    assert ids(outbox.due(now_ms=9, claims_max=9)) == ["o-1", "o-2"]
    assert outbox.metrics.value("miner_claims_dropped_total") == 1


async def test_the_journal_is_written_anew_when_most_of_it_is_dead() -> None:
    store = MemoryOutbox()
    outbox = opened(store, claims_max=10_000)
    outbox.put(make_claim(0), due_ms=0)
    for number in range(1, DEAD_LINES_MAX):
        outbox.put(make_claim(number), due_ms=0)
        outbox.settle(f"o-{number}")
    await outbox.sync()
    assert [read_line(line) for line in store.load()] == [make_claim(0)]


async def test_a_full_disk_keeps_claims_in_memory() -> None:
    store = MemoryOutbox(bytes_max=5_000)
    outbox = opened(store)
    for number in range(5):
        outbox.put(make_claim(number), due_ms=0)
    await outbox.sync()
    assert len(ids(outbox.due(now_ms=0, claims_max=9))) == 5
    assert 0 < len(store.load()) < 5


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"\xff",
        b'{"settled":1}',
        b'{"proven":{"o-1":2}}',
        b'{"proven":{},"settled":"o-1"}',
        b'{"order":{},"receipt":{}}',
        claim_line(make_claim(1))[:-1] + b',"settled":"o-1"}',
    ],
)
def test_lines_that_say_nothing_are_skipped(line: bytes) -> None:
    assert read_line(line) is None
    store = MemoryOutbox()
    for one in (line, claim_line(make_claim(1)), settled_line("o-7")):
        store.append(one)
    assert ids(opened(store).due(now_ms=0, claims_max=9)) == ["o-1"]
