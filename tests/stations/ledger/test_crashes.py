"""A store that fails before, while or after it keeps a batch: nothing is lost or counted twice."""

import json

import pytest
from tests.stations.ledger.makers_ledger import (
    CHARGE,
    USD,
    World,
    order_id,
    record,
    record_event,
    refuse_ack,
)
from tests.stations.ledger.test_records import kinds

from penstock.kit.ports import Delivery, StoreDown
from penstock.ledger.state import Batch
from penstock.sim.stores_ledger import MemoryLedgerStore
from penstock.spec.entries import EntryKind
from penstock.spec.errors import Overdraft


@pytest.fixture
async def world() -> World:
    return await World().start()


class Crash(Exception):
    """A crash at a place chosen by the test."""


class FailingStore(MemoryLedgerStore):
    """A store that fails the next `failures` times it is asked to apply."""

    def __init__(self, failures: list[Exception]) -> None:
        super().__init__()
        self.failures = failures

    async def apply(self, batch: Batch) -> None:
        if batch.entries and batch.entries[0].kind is EntryKind.RECORD and self.failures:
            raise self.failures.pop(0)
        await super().apply(batch)


class TestCrashes:
    async def test_a_crash_before_the_commit_leaves_nothing_and_no_ack(self) -> None:
        world = await World(store=FailingStore([Crash()])).start()
        lease = await world.leased()
        with pytest.raises(Crash):
            await world.take(record_event(record(), lease_id=lease))
        assert world.acked == []
        assert (await world.everyone())["payer"] == USD
        await world.start()
        await world.take(record_event(record(), lease_id=lease))
        assert (await world.everyone())["payer"] == USD - CHARGE

    async def test_a_store_that_is_down_is_waited_for(self) -> None:
        world = await World(store=FailingStore([StoreDown("away")])).start()
        lease = await world.leased()
        await world.take(record_event(record(), lease_id=lease))
        assert (await world.everyone())["payer"] == USD - CHARGE
        assert world.ledger.metrics.value("ledger_store_down_total") == 1

    async def test_a_lost_ack_brings_the_event_again_and_changes_nothing(
        self, world: World
    ) -> None:
        lease = await world.leased()
        subject, body = record_event(record(), lease_id=lease)
        raw = json.dumps(body).encode()
        lost = Delivery(subject=subject, data=raw, attempt=1, ack=refuse_ack)
        await world.ledger.consumer.take([lost])
        await world.take((subject, body))
        assert (await world.everyone())["payer"] == USD - CHARGE
        assert world.ledger.metrics.value("ledger_acks_lost_total") == 1

    async def test_the_books_survive_a_restart(self, world: World) -> None:
        lease = await world.leased()
        await world.take(record_event(record(), lease_id=lease))
        before = await world.everyone()
        await world.start()
        assert await world.everyone() == before
        assert (await kinds(world)) == ["charter", "record"]

    async def test_a_record_that_the_books_refuse_is_left_out_alone(self) -> None:
        world = await World(store=RefusingStore()).start()
        lease = await world.leased()
        await world.take(*(record_event(record(n), lease_id=lease) for n in range(4)))
        assert (await world.everyone())["payer"] == USD - 3 * CHARGE
        assert world.rejected("books") == 1
        assert len(world.acked) == 4


class RefusingStore(MemoryLedgerStore):
    """A store whose books do not take order 2: a bug that must not stop the others."""

    async def apply(self, batch: Batch) -> None:
        if any(one.entry_id == order_id(2) for one in batch.entries):
            raise Overdraft(account="payer/ann", short_nano=1)
        await super().apply(batch)
