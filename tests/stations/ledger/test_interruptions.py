"""A ledger that is interrupted at every single write, of a batch or of a file, ends where one that
was never interrupted ends: same log, same books, same published bytes.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
from tests.stations.ledger.makers_ledger import (
    BIG_DISK,
    CHARGE,
    PARAMS,
    SECOND_VALIDATOR,
    VALIDATOR,
    World,
    claim,
    closing_event,
    failed,
    record,
    record_event,
)

from penstock.kit.ports import StoreDown
from penstock.ledger.state import Batch
from penstock.sim.disk import MemoryFiles
from penstock.sim.stores_ledger import MemoryLedgerStore
from penstock.spec.entries import EntryKind, parse_leaf

ATTEMPTS_MAX = 10


class Cut(Exception):
    """The process ended here."""


class CutStore(MemoryLedgerStore):
    """Goes away at one chosen write, before it is kept or just after, and is back at once."""

    def __init__(self, cut_at: int, *, is_kept: bool) -> None:
        super().__init__()
        self.writes = 0
        self._cut_at = cut_at
        self._is_kept = is_kept

    async def apply(self, batch: Batch) -> None:
        self.writes += 1
        if self.writes != self._cut_at:
            await super().apply(batch)
            return
        if self._is_kept:
            await super().apply(batch)
        raise StoreDown("cut")


class CutFiles(MemoryFiles):
    """A disk whose process ends at one chosen write, before it or just after it."""

    def __init__(self, cut_at: int = 0, *, is_kept: bool = False) -> None:
        super().__init__(bytes_max=BIG_DISK)
        self.writes = 0
        self._cut_at = cut_at
        self._is_kept = is_kept

    def write(self, name: str, data: bytes) -> None:
        self.writes += 1
        if self.writes != self._cut_at:
            super().write(name, data)
            return
        if self._is_kept:
            super().write(name, data)
        raise Cut


async def insist(step: Callable[[], Awaitable[object]]) -> None:
    """Do it again while the store is away, as every caller of the ledger does."""
    for _ in range(ATTEMPTS_MAX):
        try:
            await step()
        except StoreDown:
            continue
        return
    raise AssertionError("it was down far longer than one write")


@dataclass(frozen=True)
class End:
    """Where a market has come to."""

    leaves: tuple[bytes, ...]
    accounts: dict[str, tuple[int, int]]
    files: dict[str, bytes]


async def day(store: MemoryLedgerStore, files: MemoryFiles) -> End:
    """Two epochs of everything a ledger does, each step repeated until it is done."""
    world = World(store=store, files=files)
    await insist(world.start)
    # The credit goes to a key that leases nothing by itself, so a repeated question holds no more.
    await insist(world.fund)
    lease = await only_lease(world, store)
    await world.take(*(record_event(record(n), lease_id=lease) for n in range(4)))
    await world.take(record_event(failed(4), lease_id=lease), record_event(record(1)))
    await world.take(record_event(record(2, ttft_us=1), lease_id=lease))
    await insist(lambda: world.ledger.take_claims([claim(6)]))
    world.clock.pass_ms(PARAMS.claim_grace_ms)
    world.quiet()
    await insist(lambda: world.ledger.take_claims([claim(6)]))
    epoch = (await world.ledger.epochs())["epoch"]
    await through(world, PARAMS.epoch_ms)
    for key in (VALIDATOR, SECOND_VALIDATOR):
        report = await world.report(epoch, key)
        await insist(lambda report=report: world.ledger.take_report(report))  # type: ignore[misc]
    await through(world, 0)
    await world.take(closing_event(lease))
    await through(world, PARAMS.epoch_ms)
    await through(world, PARAMS.report_deadline_ms)
    logged = await store.entries(0, count=4_000)
    return End(
        leaves=tuple(one.leaf for one in logged),
        accounts={
            name: (one.posted_nano, one.held_nano)
            for name, one in sorted(store.books.accounts.items())
        },
        files={name: files.read(name) for name in files.names("")},
    )


async def only_lease(world: World, store: MemoryLedgerStore) -> str:
    """Ask until there is a lease, and give back any other that an unheard answer has granted."""
    while "lease_id" not in (answer := await world.lease(20 * CHARGE)):
        assert answer == {"error": "store_down"}
    found: str = answer["lease_id"]
    for other in [name for name in store.books.holds if name != found]:
        await world.take(closing_event(other))
    return found


async def through(world: World, span_ms: int) -> None:
    """Let time pass, then do what is due until nothing is left to do; start anew after a cut."""
    world.clock.pass_ms(span_ms)
    for _ in range(ATTEMPTS_MAX):
        world.quiet()
        try:
            await world.ledger.upkeep.step()
        except Cut:
            await insist(world.start)
        except StoreDown:
            pass
        else:
            return
    raise AssertionError("upkeep never came to an end")


async def undisturbed() -> tuple[End, int, int]:
    """(the end, how many batches it takes, how many files)."""
    store, files = CutStore(0, is_kept=False), CutFiles()
    return await day(store, files), store.writes, files.writes


async def test_the_day_holds_everything_that_can_be_interrupted() -> None:
    end, batches, files = await undisturbed()
    kinds = {parse_leaf(leaf).kind for leaf in end.leaves}
    assert kinds == {
        EntryKind.CHARTER,
        EntryKind.RECORD,
        EntryKind.DISPUTE,
        EntryKind.CLOSE,
        EntryKind.REPORT,
        EntryKind.SETTLEMENT,
    }
    assert sum(posted for posted, _ in end.accounts.values()) == 0
    assert all(held == 0 for _, held in end.accounts.values())
    assert end.accounts["pool"] == (0, 0)
    assert batches >= 14
    assert files >= 10


@pytest.mark.parametrize("is_kept", [False, True], ids=["lost", "kept but not answered"])
async def test_a_store_that_goes_away_at_any_write_changes_nothing_in_the_end(
    is_kept: bool,
) -> None:
    expected, batches, _ = await undisturbed()
    for cut_at in range(1, batches + 1):
        store = CutStore(cut_at, is_kept=is_kept)
        found = await day(store, CutFiles())
        assert found.leaves == expected.leaves, cut_at
        assert found.accounts == expected.accounts, cut_at
        assert found.files == expected.files, cut_at


@pytest.mark.parametrize("is_kept", [False, True], ids=["before the write", "after the write"])
async def test_a_process_that_ends_at_any_file_publishes_the_same_bytes_in_its_next_life(
    is_kept: bool,
) -> None:
    expected, _, writes = await undisturbed()
    for cut_at in range(1, writes + 1):
        found = await day(MemoryLedgerStore(), CutFiles(cut_at, is_kept=is_kept))
        assert found == expected, cut_at


async def test_a_disk_with_room_for_any_number_of_bytes_is_caught_up_with_later() -> None:
    """The disk is full after any file; what could not be written is written when there is room."""
    expected, _, _ = await undisturbed()
    sizes = [len(data) for data in expected.files.values()]
    was_full = []
    for room in sorted({sum(sizes[:count]) for count in range(len(sizes))}):
        files = MemoryFiles(bytes_max=room)
        world = World(store=MemoryLedgerStore(), files=files)
        await world.start()
        lease = await world.leased()
        await world.take(*(record_event(record(n), lease_id=lease) for n in range(4)))
        await world.end_epoch()
        was_full.append(world.ledger.upkeep.is_disk_full)
        assert world.ledger.health()["status"] == ("degraded" if was_full[-1] else "ok")
        files.bytes_max = BIG_DISK
        await world.step()
        assert not world.ledger.upkeep.is_disk_full
        assert world.ledger.upkeep.unpublished == 0
        assert (await world.everyone())["pool"] > 0
    # With the least room it was full, with the most it was not.
    assert was_full == sorted(was_full, reverse=True)
    assert was_full[0]
    assert not was_full[-1]
