"""What a miner knows of the seals between it and its gateways: bounded, and forgotten in time."""

import asyncio
from collections.abc import Sequence

import pytest
from tests.makers import GATEWAY, MINER, ToyKey, make_order, make_receipt, toy_verify
from tests.stations.miner.test_session_offers import FixedClock

from penstock.kit.metrics import Metrics
from penstock.kit.spell import spell_digest
from penstock.miner.errors import SessionRefused
from penstock.miner.outbox import Outbox
from penstock.miner.sealing import ASK_AGAIN_MS, UNSEALED_MIN, OrderSeals, Sealing
from penstock.miner.statement import Statement, state
from penstock.miner.store import Claim
from penstock.sim.stores_miner import MemoryOutbox
from penstock.spec.messages import Order
from penstock.spec.seals import seal_digest, seal_root

NOW_MS = 10_000_000
SEAL_MS = 60_000


class Bench:
    """A Sealing by itself, at a time of the test's choice."""

    def __init__(self, *, unsealed_max: int = 1_000, taken_max: int = 1_000) -> None:
        self.clock = FixedClock(NOW_MS)
        self.store = MemoryOutbox()
        self.life(unsealed_max=unsealed_max, taken_max=taken_max)

    def life(self, *, unsealed_max: int = 1_000, taken_max: int = 1_000) -> None:
        """A new life of the miner over the same disk."""
        outbox = Outbox(self.store, Metrics())
        outbox.open(now_ms=self.clock.ms)
        self.sealing = Sealing(
            key=MINER,
            verify=toy_verify,
            outbox=outbox,
            time=self.clock,
            metrics=Metrics(),
            taken_max=taken_max,
            unsealed_max=unsealed_max,
            seal_ms=SEAL_MS,
            settle_ms=0,
        )
        self.sealing.adopt()

    def order(self, number: int, key: ToyKey = GATEWAY) -> Order:
        return make_order(order_id=f"o-{number}", gateway=key.identity, deadline_ms=NOW_MS + 1_000)

    def take(self, number: int, key: ToyKey = GATEWAY) -> Statement:
        order = self.order(number, key)
        statement = state("order", order, signer=key.identity)
        self.sealing.take(order.order_id, statement, deadline_ms=self.clock.ms + 1_000)
        return statement

    def end(self, number: int, statement: Statement, key: ToyKey = GATEWAY) -> None:
        """The order ends with a receipt that earns."""
        order = self.order(number, key)
        receipt = state("receipt", make_receipt(order), signer=order.miner)
        if self.sealing.close(order.order_id, receipt):
            claim = Claim(order.order_id, statement, receipt)
            self.sealing.outbox.put(claim, due_ms=self.clock.ms)

    def seal(self, numbers: Sequence[int], key: ToyKey = GATEWAY) -> int:
        digests = [spell_digest("order", self.order(number, key)) for number in numbers]
        signature = key.sign(seal_digest(seal_root(digests), len(digests)))
        order_ids = [f"o-{number}" for number in numbers]
        return self.sealing.take_seals(key.identity, OrderSeals(order_ids, digests, signature))

    def claimable(self) -> set[str]:
        found = self.sealing.outbox.due(now_ms=1 << 50, claims_max=1_000)
        for one in found:
            self.sealing.outbox.postpone(one.order_id, due_ms=0)
        return {one.order_id for one in found}


class TestTable:
    def test_a_full_table_lets_go_of_the_oldest_that_needs_no_seal_any_more(self) -> None:
        bench = Bench(taken_max=4)
        statements = [bench.take(number) for number in range(4)]
        assert not bench.sealing.has_room(GATEWAY.identity), "all of them run"
        for number in (1, 2):
            bench.end(number, statements[number])
        bench.seal([2])
        bench.sealing.give_seals(GATEWAY.identity, ["o-2"])
        assert bench.sealing.has_room(GATEWAY.identity)
        assert bench.sealing.give_seals(GATEWAY.identity, ["o-2"]).unknown == ("o-2",)
        assert bench.claimable() == {"o-2"}, "it is still claimed"
        bench.take(4)
        assert bench.sealing.has_room(GATEWAY.identity)
        assert bench.seal([1]) == 0, "the one that was never sealed had to go"
        assert not bench.sealing.knows("o-1")
        assert bench.sealing.knows("o-2"), "what earns keeps its id"

    def test_sealed_both_ways_it_is_kept_for_a_while_and_then_forgotten(self) -> None:
        bench = Bench()
        bench.end(1, bench.take(1))
        bench.seal([1])
        assert bench.sealing.give_seals(GATEWAY.identity, ["o-1"]).order_ids == ("o-1",)
        bench.clock.ms += ASK_AGAIN_MS
        bench.sealing.sweep()
        assert bench.sealing.give_seals(GATEWAY.identity, ["o-1"]).order_ids == ("o-1",)
        bench.clock.ms += ASK_AGAIN_MS + 1
        bench.sealing.sweep()
        assert len(bench.sealing) == 0
        assert bench.claimable() == {"o-1"}

    def test_early_seals_are_bounded_and_forgotten(self) -> None:
        bench = Bench(unsealed_max=UNSEALED_MIN)
        bench.seal(range(UNSEALED_MIN + 2))
        statements = [bench.take(number) for number in range(UNSEALED_MIN + 2)]
        assert [one.is_signed for one in statements] == [False] * 2 + [True] * UNSEALED_MIN
        bench.seal([100])
        bench.clock.ms += SEAL_MS + 1
        bench.sealing.sweep()
        assert not bench.take(100).is_signed

    def test_a_clock_that_is_set_forward_drops_nothing(self) -> None:
        bench = Bench()
        bench.end(1, bench.take(1))
        bench.clock.ahead_ms = 3_600_000
        bench.sealing.sweep()
        assert bench.seal([1]) == 1

    def test_an_order_that_ended_after_it_was_given_up_is_not_kept(self) -> None:
        bench = Bench()
        statement = bench.take(1)
        bench.clock.ms += 1_000 + SEAL_MS + 1
        bench.sealing.sweep()
        bench.end(1, statement)
        assert len(bench.sealing.outbox) == 0

    def test_orders_of_a_former_life_cost_their_gateway_no_trust(self) -> None:
        bench = Bench()
        for number in range(20):
            bench.end(number, bench.take(number))
        bench.life(unsealed_max=UNSEALED_MIN)
        assert bench.sealing.unsealed == 0
        bench.clock.ms += SEAL_MS + 1
        bench.sealing.sweep()
        assert len(bench.sealing.outbox) == 0
        for number in range(100, 100 + UNSEALED_MIN):
            assert bench.sealing.has_room(GATEWAY.identity)
            bench.take(number)

    async def test_it_is_quiet_when_nothing_misses_a_seal(self) -> None:
        bench = Bench()
        await bench.sealing.wait_quiet()
        bench.end(1, bench.take(1))
        waiting = asyncio.create_task(bench.sealing.wait_quiet())
        await asyncio.sleep(0)
        bench.seal([1])
        await asyncio.sleep(0)
        assert not waiting.done()
        bench.sealing.give_seals(GATEWAY.identity, ["o-1"])
        await asyncio.wait_for(waiting, 20)

    def test_a_wrong_seal_raises_and_changes_nothing(self) -> None:
        bench = Bench()
        bench.take(1)
        digests = [spell_digest("order", bench.order(1))]
        with pytest.raises(SessionRefused):
            bench.sealing.take_seals(GATEWAY.identity, OrderSeals(["o-1"], digests, "00"))
        assert bench.sealing.unsealed == 1
