"""Whatever gateways, miners and faults do, in any order: the books balance, nobody is charged twice
or above the lease, and when all is quiet nothing is held.
"""

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.makers import GATEWAY
from tests.properties import in_full
from tests.stations.ledger.makers_ledger import (
    CHARGE,
    PARAMS,
    World,
    claim,
    closing_event,
    failed,
    record,
    record_event,
    unseen,
)

from penstock.sim.stores_ledger import MemoryLedgerStore
from penstock.spec.books import MINT, pool_part
from penstock.spec.entries import EntryKind
from penstock.spec.pricing import split_charge

NUMBERS = st.integers(min_value=0, max_value=12)
STEPS = 30


class LedgerMachine(RuleBasedStateMachine):
    """One gateway, one payer, a few orders, delivered and claimed in any way."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryLedgerStore()
        self.loop = asyncio.new_event_loop()
        self.world = self.run(World(store=self.store).start())
        self.leases = ["l-" + "0" * 32]
        self.funded = 0

    def run(self, coro: Any) -> Any:
        return self.loop.run_until_complete(coro)

    def teardown(self) -> None:
        self.run(self.come_to_rest())
        self.loop.close()

    async def come_to_rest(self) -> None:
        """Give all leases back, let everything pass that has a deadline: then nothing is held."""
        await self.world.take(closing_event("*", gateway=GATEWAY.identity))
        await self.world.end_epoch()
        await self.world.step(PARAMS.report_deadline_ms)
        assert all(one.held_nano == 0 for one in self.store.books.accounts.values())
        about = await self.world.ledger.epochs()
        assert about["settled"] == about["closed"]

    @rule(nano=st.integers(min_value=1, max_value=20 * CHARGE))
    def fund(self, nano: int) -> None:
        self.funded += 1
        self.run(self.world.fund(nano, opening_id=f"f{self.funded}"))

    @rule(need=st.integers(min_value=0, max_value=3 * CHARGE), index=NUMBERS)
    def lease(self, need: int, index: int) -> None:
        chosen = self.leases[index % len(self.leases)]
        answer = self.run(self.world.lease(need, lease_id=chosen))
        if "lease_id" in answer and answer["lease_id"] not in self.leases:
            self.leases.append(answer["lease_id"])

    @rule(numbers=st.lists(NUMBERS, min_size=1, max_size=4), index=NUMBERS)
    def deliver(self, numbers: list[int], index: int) -> None:
        lease = self.leases[index % len(self.leases)]
        said = (record_event(record(number), lease_id=lease) for number in numbers)
        self.run(self.world.take(*said))

    @rule(number=NUMBERS, kind=st.sampled_from([failed, unseen]))
    def deliver_another(self, number: int, kind: Any) -> None:
        self.run(self.world.take(record_event(kind(number), lease_id=self.leases[-1])))

    @rule(number=NUMBERS)
    def claim(self, number: int) -> None:
        self.run(self.world.call("POST", "/v1/claims", {"claims": [claim(number)]}))

    @rule(index=NUMBERS)
    def close(self, index: int) -> None:
        self.run(self.world.take(closing_event(self.leases[index % len(self.leases)])))

    @rule(span_ms=st.sampled_from([1, 5_000, PARAMS.lease_ttl_ms, PARAMS.epoch_ms]))
    def pass_time(self, span_ms: int) -> None:
        self.run(self.world.step(span_ms))

    @precondition(lambda self: self.funded)
    @rule()
    def restart(self) -> None:
        self.run(self.world.start())

    @invariant()
    def the_books_balance_and_nobody_is_overdrawn(self) -> None:
        accounts = self.store.books.accounts
        assert sum(one.posted_nano for one in accounts.values()) == 0
        assert all(one.free_nano >= 0 for name, one in accounts.items() if name != MINT)

    @invariant()
    def each_order_is_logged_once_and_its_miner_paid_what_the_record_says(self) -> None:
        entries = self.run(self.store.entries(0, count=4_000))
        rows = [one.row for one in entries if one.kind is EntryKind.RECORD]
        assert len({row.order_id for row in rows}) == len(rows)
        earned = sum(split_charge(row.earned_nano, PARAMS.fees).miner_nano for row in rows)
        paid = sum(
            one.posted_nano
            for name, one in self.store.books.accounts.items()
            if name.startswith("miner/")
        )
        assert paid == earned

    @invariant()
    def the_pool_and_the_reserve_hold_what_the_rows_say(self) -> None:
        entries = self.run(self.store.entries(0, count=4_000))
        rows = [one.row for one in entries if one.kind is EntryKind.RECORD]
        parts = sum(pool_part(row.charge_nano, PARAMS.fees) for row in rows)
        books = self.store.books
        assert books.balance("pool").posted_nano + books.balance("reserve").posted_nano == parts


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(
    max_examples=in_full(25), stateful_step_count=STEPS, deadline=None
)
