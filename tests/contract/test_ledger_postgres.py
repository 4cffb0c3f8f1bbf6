"""The ledger on a real PostgreSQL under many writers at once, and against SQL that nobody should
write: what the memory store cannot show.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from random import Random
from typing import TypeAlias

import asyncpg
import pytest

from penstock.adapters.postgres import Database, read_schema
from penstock.kit.ports import StoreDown
from penstock.ledger.errors import StaleView
from penstock.ledger.policy import Draft
from penstock.ledger.state import Appending, Batch, EpochState, Wanted
from penstock.ledger.store import PostgresStore
from penstock.ledger.writer import Writer
from penstock.sim.stores_ledger import MemoryLedgerStore
from penstock.spec.books import (
    MINT,
    NOTHING,
    POOL,
    Balance,
    Capture,
    Extend,
    Hold,
    Leg,
    Operation,
    Post,
    Release,
    miner_account,
    payer_account,
)
from penstock.spec.canon import INT_MAX
from penstock.spec.entries import Entry, EntryKind, leaf_bytes
from penstock.spec.errors import IdReused, NotCanonical, SpecError
from penstock.spec.log import leaf_hash, root
from penstock.spec.params import LOCAL

EPOCH = 7
PAYERS = tuple(payer_account(name) for name in ("ann", "bob", "eve"))
MINERS = tuple(miner_account("toy:" + str(number) * 16) for number in range(2))
SCHEMA = "penstock.ledger.schema"
BIGINT_MAX = 2**63 - 1


# A string: asyncpg's classes take their type argument in the stubs only.
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def opened(url: str) -> Database:
    database = Database(url)
    await database.open()
    await database.migrate("penstock.ledger", read_schema(SCHEMA))
    return database


@pytest.fixture
async def stores(database_url: str) -> AsyncIterator[tuple[PostgresStore, PostgresStore]]:
    """Two processes' worth of stores over one database, with the first epoch open."""
    databases = [await opened(database_url) for _ in range(2)]
    first, second = (PostgresStore(one) for one in databases)
    await apply(first, epochs=(EpochState(epoch=EPOCH, first_seq=0),))
    yield first, second
    for one in databases:
        await one.close()


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def apply(
    store: PostgresStore | MemoryLedgerStore,
    *operations: Operation,
    epochs: tuple[EpochState, ...] = (),
) -> None:
    view = await store.view(Wanted())
    await store.apply(
        Batch(
            version=view.version,
            entries_epoch=EPOCH,
            open_epoch=EPOCH,
            operations=operations,
            epochs=epochs,
        )
    )


def fund(account: str, nano: int, name: str = "fund") -> Post:
    return Post(f"{name}/{account}", (Leg(MINT, -nano), Leg(account, nano)))


async def check_books(sql: Connection) -> None:
    """All balances are zero together, follow from the journal, and every journal balances."""
    assert await sql.fetchval("SELECT coalesce(sum(posted_nano), 0) FROM ledger.account") == 0
    assert await sql.fetch("SELECT * FROM ledger.drift") == []
    off = await sql.fetch(
        "SELECT journal FROM ledger.leg GROUP BY journal HAVING sum(amount_nano) <> 0"
    )
    assert off == []
    orphans = await sql.fetch(
        "SELECT id FROM ledger.journal j WHERE kind IN ('post', 'capture')"
        " AND NOT EXISTS (SELECT 1 FROM ledger.leg l WHERE l.journal = j.id)"
    )
    assert orphans == []


class TestManyWriters:
    async def test_of_two_batches_on_one_view_one_is_applied_and_one_is_stale(
        self, stores: tuple[PostgresStore, PostgresStore], sql: Connection
    ) -> None:
        view = await stores[0].view(Wanted())
        batches = [
            Batch(view.version, EPOCH, EPOCH, operations=(fund(PAYERS[0], 100, f"f{number}"),))
            for number in range(6)
        ]
        said = await asyncio.gather(
            *(stores[number % 2].apply(batch) for number, batch in enumerate(batches)),
            return_exceptions=True,
        )
        assert sorted(type(one).__name__ for one in said) == ["NoneType"] + ["StaleView"] * 5
        assert (await stores[1].balance(PAYERS[0])).posted_nano == 100
        assert (await stores[1].view(Wanted())).version == view.version + 1
        await check_books(sql)

    async def test_a_stale_batch_says_both_versions_and_leaves_nothing(
        self, stores: tuple[PostgresStore, PostgresStore]
    ) -> None:
        old = await stores[0].view(Wanted())
        await apply(stores[1], fund(PAYERS[0], 1))
        with pytest.raises(StaleView) as refused:
            await stores[0].apply(
                Batch(old.version, EPOCH, EPOCH, operations=(fund(PAYERS[1], 5),))
            )
        assert (refused.value.seen_version, refused.value.version) == (
            old.version,
            old.version + 1,
        )
        assert await stores[0].balance(PAYERS[1]) == NOTHING

    async def test_transfers_both_ways_at_once_never_lock_each_other_out(
        self, stores: tuple[PostgresStore, PostgresStore], sql: Connection
    ) -> None:
        """Rows locked in two orders are how peers met deadlocks on their hottest accounts."""
        await apply(stores[0], *(fund(name, 1_000) for name in PAYERS))
        writers = [Writer(store, params=LOCAL) for store in stores]

        async def move(number: int) -> None:
            chance = Random(number)
            source, to = chance.sample(PAYERS, 2)
            post = Post(f"move/{number}", (Leg(source, -1), Leg(to, 1)))
            wanted = Wanted(accounts=PAYERS, operations=(post.id,))
            while True:
                try:
                    await writers[number % 2].decide(wanted, lambda draft: draft.post(post))
                except StoreDown:
                    continue  # The other process came first five times: that is no failure.
                return

        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task(move(number))
        assert await sql.fetchval("SELECT count(*) FROM ledger.journal") == 3 + 40
        assert sum([(await stores[0].balance(name)).posted_nano for name in PAYERS]) == 3_000
        await check_books(sql)

    async def test_two_processes_that_spend_the_same_money_spend_it_once(
        self, stores: tuple[PostgresStore, PostgresStore], sql: Connection
    ) -> None:
        """A balance read before another's spending must not decide anything."""
        await apply(stores[0], fund(PAYERS[0], 100))
        writers = [Writer(store, params=LOCAL) for store in stores]

        def spend(number: int, draft: Draft) -> bool:
            if draft.books.balance(PAYERS[0]).free_nano < 60:
                return False
            draft.post(Hold(f"hold/{number}", PAYERS[0], 60))
            return True

        async def attempt(number: int) -> bool:
            while True:
                try:
                    return await writers[number % 2].decide(
                        Wanted(accounts=PAYERS[:1]), lambda draft: spend(number, draft)
                    )
                except StoreDown:
                    continue

        async with asyncio.timeout(120):
            said = await asyncio.gather(*(attempt(number) for number in range(8)))
        assert sum(said) == 1
        assert await stores[1].balance(PAYERS[0]) == Balance(100, 60)
        await check_books(sql)

    async def test_entries_of_two_processes_stand_in_one_gapless_log(
        self, stores: tuple[PostgresStore, PostgresStore]
    ) -> None:
        writers = [Writer(store, params=LOCAL) for store in stores]

        async def log(number: int) -> None:
            said = Entry(EntryKind.TARGETS, f"e/{number}", {"number": number})
            leaf = Appending(said.kind, said.entry_id, leaf_bytes(said))
            wanted = Wanted(entries=((said.kind, said.entry_id),))

            def decide(draft: Draft) -> None:
                if draft.find((said.kind, said.entry_id)) is None:
                    draft.append_leaf(leaf)

            while True:
                try:
                    await writers[number % 2].decide(wanted, decide)
                except StoreDown:
                    continue
                return

        async with asyncio.timeout(120):
            await asyncio.gather(*(log(number // 2) for number in range(30)))
        logged = await stores[0].entries(0, count=100)
        assert [one.seq for one in logged] == list(range(15))
        frontier = (await stores[1].view(Wanted())).frontier
        assert frontier.root() == root(leaf_hash(one.leaf) for one in logged)


class TestAgainstTheLaw:
    @pytest.mark.parametrize("seed", range(4))
    async def test_random_batches_do_the_same_here_and_in_memory(
        self, seed: int, stores: tuple[PostgresStore, PostgresStore], sql: Connection
    ) -> None:
        """The same operations, refused or done alike, and no drift whatever they were."""
        chance, memory = Random(seed), MemoryLedgerStore()
        await apply(memory, epochs=(EpochState(epoch=EPOCH, first_seq=0),))
        for number in range(40):
            batch = random_operations(chance, number)
            said = [await outcome(store, batch) for store in (stores[number % 2], memory)]
            assert said[0] == said[1]
        names = (*PAYERS, *MINERS, POOL, MINT)
        for name in names:
            assert await stores[0].balance(name) == await memory.balance(name)
        await check_books(sql)
        open_holds = [name for name, one in memory.books.holds.items() if one.is_open]
        await apply(stores[0], *(Release(name) for name in open_holds))
        assert await sql.fetchval("SELECT sum(held_nano) FROM ledger.account") == 0
        await check_books(sql)

    async def test_a_hold_is_resolved_once_by_whoever_comes_first(
        self, stores: tuple[PostgresStore, PostgresStore], sql: Connection
    ) -> None:
        take = Capture("c", "h", (Leg(PAYERS[0], -80), Leg(MINERS[0], 80)))
        await apply(stores[0], fund(PAYERS[0], 100), Hold("h", PAYERS[0], 80))
        await apply(stores[0], take)
        await apply(stores[1], take, Release("h"))
        await apply(stores[0], Release("h"))
        assert await stores[0].balance(PAYERS[0]) == Balance(20, 0)
        with pytest.raises(SpecError):
            await apply(stores[1], Extend("x", "h", 5))
        with pytest.raises(asyncpg.CheckViolationError):
            await sql.execute("UPDATE ledger.hold SET captured_nano = 0 WHERE id = 'h'")
        await check_books(sql)

    async def test_an_id_reused_across_processes_is_refused_with_its_batch(
        self, stores: tuple[PostgresStore, PostgresStore], sql: Connection
    ) -> None:
        await apply(stores[0], fund(PAYERS[0], 100, "same"))
        with pytest.raises(IdReused):
            await apply(stores[1], fund(PAYERS[1], 7), fund(PAYERS[0], 101, "same"))
        assert await stores[0].balance(PAYERS[1]) == NOTHING
        await apply(stores[1], fund(PAYERS[0], 100, "same"))
        assert (await stores[0].balance(PAYERS[0])).posted_nano == 100
        await check_books(sql)

    async def test_the_largest_number_of_a_message_is_money_and_one_more_is_refused(
        self, stores: tuple[PostgresStore, PostgresStore], sql: Connection
    ) -> None:
        await apply(stores[0], fund(PAYERS[0], INT_MAX), Hold("h", PAYERS[0], INT_MAX))
        assert await stores[0].balance(PAYERS[0]) == Balance(INT_MAX, INT_MAX)
        legs = (Leg(PAYERS[0], -INT_MAX), Leg(MINERS[0], INT_MAX))
        await apply(stores[0], Capture("c", "h", legs), Release("h"))
        assert (await stores[0].balance(MINERS[0])).posted_nano == INT_MAX
        with pytest.raises(NotCanonical):
            await apply(stores[0], fund(PAYERS[1], INT_MAX + 1))
        assert await stores[0].balance(PAYERS[1]) == NOTHING
        await check_books(sql)

    async def test_balances_beyond_what_a_column_holds_are_refused_whole(
        self, stores: tuple[PostgresStore, PostgresStore], sql: Connection
    ) -> None:
        """1,024 of the largest fundings fit in 63 bits, one more does not; nothing wraps around."""
        await apply(stores[0], *(fund(PAYERS[0], INT_MAX, f"f{n}") for n in range(1_024)))
        full = 1_024 * INT_MAX
        assert full <= BIGINT_MAX < full + INT_MAX
        assert (await stores[0].balance(PAYERS[0])).posted_nano == full
        with pytest.raises(asyncpg.DataError):
            await apply(stores[0], fund(PAYERS[1], 5), fund(PAYERS[0], INT_MAX, "over"))
        assert (await stores[0].balance(PAYERS[0])).posted_nano == full
        assert await stores[0].balance(PAYERS[1]) == NOTHING
        await check_books(sql)


def random_operations(chance: Random, number: int) -> list[Operation]:
    """A few operations: good ones, overdrafts, repeats, and some that name nothing known."""
    made: list[Operation] = []
    for index in range(chance.randrange(1, 5)):
        name, account = f"{number}/{index}", chance.choice(PAYERS)
        nano = chance.randrange(1, 400)
        hold = f"h/{chance.randrange(max(1, number))}/0"
        legs = (Leg(account, -nano), Leg(chance.choice(MINERS), nano))
        choices: list[Operation] = [
            Post(f"p/{name}", (Leg(MINT, -nano), Leg(account, nano))),
            Post(f"p/{chance.randrange(number + 1)}/0", legs),
            Hold(f"h/{number}/0", account, nano),
            Extend(f"e/{name}", hold, nano),
            Capture(f"c/{name}", hold, legs),
            Release(hold),
        ]
        made.append(chance.choice(choices))
    return made


async def outcome(
    store: PostgresStore | MemoryLedgerStore, batch: Sequence[Operation]
) -> type[BaseException] | None:
    try:
        await apply(store, *batch)
    except SpecError as error:
        return type(error)
    return None
