"""One contract for the ledger's store, kept by the one in memory and by PostgreSQL."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from penstock.adapters.postgres import Database, read_schema
from penstock.ledger.errors import StaleView
from penstock.ledger.policy import Draft
from penstock.ledger.ports import Store
from penstock.ledger.state import Appending, Batch, EpochState, Lease, View, Wanted
from penstock.ledger.store import PostgresStore
from penstock.ledger.writer import Writer
from penstock.sim.stores_ledger import MemoryLedgerStore
from penstock.spec.books import (
    MINT,
    NOTHING,
    Balance,
    Capture,
    Extend,
    Held,
    Hold,
    Leg,
    Operation,
    Post,
    Release,
    miner_account,
    payer_account,
)
from penstock.spec.entries import Entry, EntryKind, Row, leaf_bytes
from penstock.spec.errors import (
    HoldExceeded,
    IdReused,
    Overdraft,
    SpecError,
    Unbalanced,
    UnknownHold,
)
from penstock.spec.log import EMPTY, leaf_hash, root
from penstock.spec.params import LOCAL

ANN, MINER = payer_account("ann"), miner_account("toy:" + "1" * 16)
FUND = Post(id="fund", legs=(Leg(MINT, -1_000), Leg(ANN, 1_000)))
HOLD = Hold(id="h", account=ANN, amount_nano=600)
TAKE = Capture(id="c", hold="h", legs=(Leg(ANN, -250), Leg(MINER, 250)))
ROW = Row(
    order_id="o-1",
    chute="sha256:00",
    instance="i",
    miner="toy:" + "1" * 16,
    outcome="complete",
    prompt=1,
    cached=0,
    completion=2,
    charge_nano=3,
    earned_nano=3,
    work_units=17,
    bucket=5,
    ns_per_unit=9,
    ttft_us=4,
    total_us=5,
    counts=1,
    success=1,
)


LEASE = Lease(
    lease_id="l-1",
    gateway="toy:gw",
    account="ann",
    granted_nano=600,
    grants=1,
    opened_ms=10,
    expires_ms=500,
    is_open=True,
)


async def migrated(url: str) -> Database:
    database = Database(url)
    await database.open()
    await database.migrate("penstock.ledger", read_schema("penstock.ledger.schema"))
    return database


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryLedgerStore()
        return
    # The fixture `database_url` cannot be asked for here: this one runs inside a loop already.
    url = request.getfixturevalue("postgres_url")
    name = f"ledger_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(url)
    await connection.execute(f"CREATE DATABASE {name}")
    database = await migrated(url.replace("/penstock?", f"/{name}?"))
    try:
        yield PostgresStore(database)
    finally:
        await database.close()
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await connection.close()


def entry(number: int, *, kind: EntryKind = EntryKind.TARGETS, row: Row | None = None) -> Appending:
    said = Entry(kind=kind, entry_id=f"e/{number}", body={"number": number})
    return Appending(kind=kind, entry_id=said.entry_id, leaf=leaf_bytes(said), row=row)


async def apply(store: Store, *operations: Operation, **more: Any) -> None:
    """A batch on top of what is there now."""
    view = await store.view(Wanted())
    await store.apply(
        Batch(
            version=view.version,
            entries_epoch=7,
            open_epoch=7,
            operations=operations,
            **more,
        )
    )


async def everything(store: Store) -> View:
    """All that these tests write."""
    return await store.view(
        Wanted(
            entries=tuple((EntryKind.TARGETS, f"e/{n}") for n in range(20)),
            accounts=(ANN, MINER, MINT),
            leases=("l-1",),
            operations=("fund", "h", "c", "x"),
            key_hashes=("ab" * 32,),
            claims=("o-1",),
        )
    )


class TestBooks:
    async def test_an_empty_store_has_an_empty_view(self, store: Store) -> None:
        view = await everything(store)
        assert view.frontier == EMPTY
        assert (view.epoch, dict(view.entries), dict(view.leases)) == (None, {}, {})
        assert view.books.balance(ANN) == NOTHING

    async def test_operations_are_kept_in_their_order(self, store: Store) -> None:
        await apply(store, FUND, HOLD, TAKE)
        assert await store.balance(ANN) == Balance(posted_nano=750, held_nano=350)
        assert await store.balance(MINER) == Balance(posted_nano=250, held_nano=0)
        assert (await store.balance(MINT)).posted_nano == -1_000

    async def test_operations_go_on_from_batch_to_batch(self, store: Store) -> None:
        for one in (FUND, HOLD, TAKE, Extend(id="x", hold="h", amount_nano=50), Release("h")):
            await apply(store, one)
        assert await store.balance(ANN) == Balance(posted_nano=750, held_nano=0)

    async def test_a_view_shows_the_holds_of_its_leases(self, store: Store) -> None:
        hold = replace(HOLD, id="l-1")
        await apply(store, FUND, hold, leases=(LEASE,))
        view = await store.view(Wanted(leases=("l-1",)))
        assert view.leases == {"l-1": LEASE}
        assert view.books.holds["l-1"] == Held(ANN, 600, 0, is_open=True)
        assert view.books.balance(ANN) == Balance(posted_nano=1_000, held_nano=600)

    async def test_the_same_operations_again_change_nothing(self, store: Store) -> None:
        await apply(store, FUND, HOLD, TAKE)
        await apply(store, FUND, HOLD, TAKE)
        await apply(store, TAKE, TAKE)
        assert await store.balance(ANN) == Balance(posted_nano=750, held_nano=350)

    async def test_operations_that_were_applied_are_seen(self, store: Store) -> None:
        await apply(store, FUND)
        seen = (await store.view(Wanted(operations=("fund", "other")))).books.seen
        assert set(seen) == {"fund"}

    @pytest.mark.parametrize(
        ("operation", "error"),
        [
            (Post(id="fund", legs=(Leg(MINT, -1), Leg(ANN, 1))), IdReused),
            (Post(id="x", legs=(Leg(ANN, -1_001), Leg(MINER, 1_001))), Overdraft),
            (Hold(id="x", account=ANN, amount_nano=1_001), Overdraft),
            (Post(id="x", legs=(Leg(MINT, -1), Leg(ANN, 2))), Unbalanced),
            (Capture(id="x", hold="h", legs=(Leg(ANN, -601), Leg(MINER, 601))), HoldExceeded),
            (Release("nothing"), UnknownHold),
        ],
    )
    async def test_what_the_books_refuse_leaves_nothing_of_its_batch(
        self, store: Store, operation: Operation, error: type[SpecError]
    ) -> None:
        await apply(store, FUND)
        before = await everything(store)
        with pytest.raises(error):
            await apply(store, HOLD, operation, entries=(entry(1),), leases=(LEASE,))
        assert await everything(store) == before
        assert await store.entries(0, count=10) == []

    async def test_a_stale_batch_is_refused_whole(self, store: Store) -> None:
        view = await store.view(Wanted())
        await apply(store, FUND)
        before = await everything(store)
        stale = Batch(
            version=view.version,
            entries_epoch=7,
            open_epoch=7,
            operations=(HOLD,),
            entries=(entry(1),),
        )
        with pytest.raises(StaleView):
            await store.apply(stale)
        assert await everything(store) == before


class TestLog:
    async def test_entries_are_numbered_and_grow_the_tree(self, store: Store) -> None:
        leaves = [entry(n) for n in range(11)]
        await apply(store, entries=tuple(leaves[:4]))
        await apply(store, entries=tuple(leaves[4:5]))
        await apply(store, entries=tuple(leaves[5:]))
        frontier = (await store.view(Wanted())).frontier
        assert frontier.size == 11
        assert frontier.root() == root(leaf_hash(one.leaf) for one in leaves)
        logged = await store.entries(0, count=100)
        assert [one.seq for one in logged] == list(range(11))
        assert [one.leaf for one in logged] == [one.leaf for one in leaves]
        assert {one.epoch for one in logged} == {7}

    async def test_pages_begin_and_end_where_asked(self, store: Store) -> None:
        await apply(store, entries=tuple(entry(n) for n in range(10)))
        assert [one.seq for one in await store.entries(3, count=4)] == [3, 4, 5, 6]
        assert await store.entries(10, count=4) == []

    async def test_an_entry_is_found_by_kind_and_id(self, store: Store) -> None:
        await apply(store, entries=(entry(1), entry(1, kind=EntryKind.ROLL)))
        found = await store.entry((EntryKind.ROLL, "e/1"))
        assert found is not None
        assert found.seq == 1
        assert await store.entry((EntryKind.ROLL, "e/2")) is None
        assert set((await everything(store)).entries) == {(EntryKind.TARGETS, "e/1")}

    async def test_a_row_is_kept_with_its_record(self, store: Store) -> None:
        await apply(store, entries=(entry(1, kind=EntryKind.RECORD, row=ROW), entry(2)))
        logged = await store.entries(0, count=2)
        assert [one.row for one in logged] == [ROW, None]

    async def test_entries_are_found_by_the_prefix_of_their_id(self, store: Store) -> None:
        said = [
            Appending(kind=EntryKind.REPORT, entry_id=name, leaf=name.encode())
            for name in ("report/1/b", "report/10/a", "report/1/a", "report/2/a", "report/1%")
        ]
        await apply(store, entries=tuple(said))
        found = await store.entries_under(EntryKind.REPORT, prefix="report/1/", seq_max=99)
        assert [one.entry_id for one in found] == ["report/1/b", "report/1/a"]
        early = await store.entries_under(EntryKind.REPORT, prefix="report/1/", seq_max=1)
        assert [one.entry_id for one in early] == ["report/1/b"]
        every = await store.entries_under(EntryKind.REPORT, prefix="", seq_max=99)
        assert len(every) == 5

    async def test_nodes_of_complete_subtrees_are_kept(self, store: Store) -> None:
        leaves = [entry(n) for n in range(5)]
        await apply(store, entries=tuple(leaves))
        hashes = [leaf_hash(one.leaf) for one in leaves]
        found = await store.nodes([(0, 4), (1, 1), (2, 0), (3, 0), (0, 5)])
        assert found == {(0, 4): hashes[4], (1, 1): root(hashes[2:4]), (2, 0): root(hashes[:4])}

    async def test_an_id_is_logged_once(self, store: Store) -> None:
        await apply(store, entries=(entry(1),))
        with pytest.raises((AssertionError, asyncpg.UniqueViolationError)):
            await apply(store, FUND, HOLD, entries=(entry(2), entry(1)))
        assert (await store.view(Wanted())).frontier.size == 1
        assert await store.entry((EntryKind.TARGETS, "e/2")) is None
        # The money of the batch went in before its entries, and is gone with them.
        assert await store.balance(ANN) == NOTHING


class TestMemory:
    async def test_leases_are_found_by_id_gateway_and_expiry(self, store: Store) -> None:
        other = replace(LEASE, lease_id="l-2", gateway="toy:other", expires_ms=900)
        over = replace(LEASE, lease_id="l-3", is_open=False)
        await apply(store, leases=(LEASE, other, over))

        async def found(**wanted: Any) -> set[str]:
            return set((await store.view(Wanted(**wanted))).leases)

        assert await found(leases=("l-3", "l-9")) == {"l-3"}
        assert await found(leases_of=("toy:gw",)) == {"l-1"}
        assert await found(leases_due_ms=500) == {"l-1"}
        assert await found(leases_due_ms=499) == set()
        assert await found() == set()

    async def test_a_lease_is_replaced_under_its_id(self, store: Store) -> None:
        await apply(store, leases=(LEASE,))
        changed = replace(LEASE, granted_nano=900, grants=2, expires_ms=700, is_open=False)
        await apply(store, leases=(changed,))
        assert (await store.view(Wanted(leases=("l-1",)))).leases == {"l-1": changed}

    async def test_keys_belong_to_accounts(self, store: Store) -> None:
        await apply(store, keys=(("ab" * 32, "ann"),))
        view = await store.view(Wanted(key_hashes=("ab" * 32, "cd" * 32)))
        assert view.keys == {"ab" * 32: "ann"}

    async def test_claims_come_and_go(self, store: Store) -> None:
        await apply(store, claims=(("o-1", 5), ("o-2", 6)))
        assert (await store.view(Wanted(claims=("o-1", "o-3")))).claims == {"o-1": 5}
        await apply(store, claims_over=("o-1",))
        assert (await store.view(Wanted(claims=("o-1", "o-2")))).claims == {"o-2": 6}

    async def test_epochs_are_followed_from_open_to_done(self, store: Store) -> None:
        closed = EpochState(epoch=7, first_seq=0, close_seq=3, closed_ms=9, pool_nano=11)
        following = EpochState(epoch=8, first_seq=4, previous=7)
        await apply(store, epochs=(closed, following))
        assert await store.unfinished(count=9) == [closed]
        assert await store.newest() == (7, -1)
        assert await store.epoch(8) == following
        assert await store.epoch(9) is None
        done = replace(closed, published_ms=10, settled_seq=5, is_done=True)
        await apply(store, epochs=(done,))
        assert await store.unfinished(count=9) == []
        assert await store.newest() == (7, 7)
        assert await store.epoch(7) == done

    async def test_unfinished_epochs_come_oldest_first(self, store: Store) -> None:
        states = [EpochState(epoch=n, first_seq=n, close_seq=n, previous=n - 1) for n in (3, 1, 2)]
        await apply(store, epochs=tuple(states))
        assert [one.epoch for one in await store.unfinished(count=2)] == [1, 2]

    async def test_the_open_epoch_is_in_every_view(self, store: Store) -> None:
        await apply(store, epochs=(EpochState(epoch=7, first_seq=0, pool_nano=4),))
        epoch = (await store.view(Wanted())).epoch
        assert epoch is not None
        assert (epoch.epoch, epoch.pool_nano) == (7, 4)

    async def test_nothing_newest_at_first(self, store: Store) -> None:
        assert await store.newest() == (-1, -1)


class TestWriter:
    async def test_two_writers_on_one_store_lose_nothing(self, store: Store) -> None:
        await apply(store, epochs=(EpochState(epoch=7, first_seq=0),))
        writers = [Writer(store, params=LOCAL), Writer(store, params=LOCAL)]

        async def add(writer: Writer, number: int) -> None:
            def decide(draft: Draft) -> None:
                one = entry(number)
                if draft.find((one.kind, one.entry_id)) is None:
                    draft.append_leaf(one)

            wanted = Wanted(entries=((EntryKind.TARGETS, f"e/{number}"),))
            await writer.decide(wanted, decide)

        await asyncio.gather(*(add(writers[n % 2], n // 2) for n in range(12)))
        logged = await store.entries(0, count=100)
        assert sorted(one.entry_id for one in logged) == [f"e/{n}" for n in range(6)]
