"""The database adapter where things end badly: closing under load, locks, lost connections, bounds."""

import asyncio

import asyncpg
import pytest

from penstock.adapters.postgres import Database
from penstock.kit.ports import StoreDown
from penstock.market.store import PostgresMarketStore


async def test_closing_twice_or_before_opening_is_harmless(database_url: str) -> None:
    database = Database(database_url)
    await database.close()
    await database.open()
    await database.close()
    await database.close()
    with pytest.raises(AssertionError):
        async with database.connection():
            pass


async def test_it_can_be_opened_again_after_closing(database_url: str) -> None:
    database = Database(database_url)
    for _ in range(2):
        async with database, database.connection() as connection:
            assert await connection.fetchval("SELECT 1") == 1


async def test_a_row_locked_by_another_is_waited_for_no_longer_than_the_deadline(
    database_url: str,
) -> None:
    async with Database(database_url, statement_deadline_ms=300) as database:
        async with database.transaction() as connection:
            await connection.execute("CREATE TABLE t (n int)")
            await connection.execute("INSERT INTO t VALUES (1)")
        holder = await asyncpg.connect(database_url)
        try:
            async with holder.transaction():
                await holder.execute("UPDATE t SET n = 2")
                with pytest.raises(StoreDown):
                    async with database.transaction() as connection:
                        await connection.execute("UPDATE t SET n = 3")
            async with database.connection() as connection:
                assert await connection.fetchval("SELECT n FROM t") == 2
        finally:
            await holder.close()


async def test_a_connection_that_is_cut_in_a_transaction_keeps_none_of_it(
    database_url: str,
) -> None:
    async with Database(database_url) as database:
        async with database.transaction() as connection:
            await connection.execute("CREATE TABLE t (n int)")
        admin = await asyncpg.connect(database_url)

        async def cut() -> None:
            async with database.transaction() as connection:
                await connection.execute("INSERT INTO t VALUES (1)")
                pid = connection.get_server_pid()
                await admin.execute("SELECT pg_terminate_backend($1, 10000)", pid)
                await connection.execute("INSERT INTO t VALUES (2)")

        with pytest.raises(StoreDown):
            await cut()
        await admin.close()
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT count(*) FROM t") == 0


async def test_a_cancelled_transaction_keeps_nothing_and_gives_its_connection_back(
    database_url: str,
) -> None:
    async with Database(database_url, connections_max=1) as database:
        async with database.transaction() as connection:
            await connection.execute("CREATE TABLE t (n int)")
        inside = asyncio.Event()

        async def work() -> None:
            async with database.transaction() as connection:
                await connection.execute("INSERT INTO t VALUES (1)")
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.ensure_future(work())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(30), database.connection() as connection:
            assert await connection.fetchval("SELECT count(*) FROM t") == 0


async def test_a_deadlock_that_other_sql_makes_hits_one_side_only(database_url: str) -> None:
    """Two transactions that lock two rows crosswise: PostgreSQL ends one, the other is kept."""
    async with Database(database_url) as database:
        async with database.transaction() as connection:
            await connection.execute("CREATE TABLE t (id int PRIMARY KEY, n int)")
            await connection.execute("INSERT INTO t VALUES (1, 0), (2, 0)")
        both = asyncio.Barrier(2)

        async def cross(first: int, second: int) -> None:
            async with database.transaction() as connection:
                await connection.execute("UPDATE t SET n = n + 1 WHERE id = $1", first)
                await both.wait()
                await connection.execute("UPDATE t SET n = n + 1 WHERE id = $1", second)

        async with asyncio.timeout(60):
            said = await asyncio.gather(cross(1, 2), cross(2, 1), return_exceptions=True)
        assert sum(one is None for one in said) == 1
        async with database.connection() as connection:
            rows = await connection.fetch("SELECT n FROM t ORDER BY id")
        assert [row["n"] for row in rows] == [1, 1]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://nobody@127.0.0.1:1/penstock?ssl=disable",
        "postgresql:///penstock?host=/no/such/folder",
    ],
)
async def test_a_server_that_is_not_there_is_down_at_the_first_use_and_not_before(url: str) -> None:
    async with Database(url, connect_deadline_ms=1_000) as database:
        with pytest.raises(StoreDown):
            await PostgresMarketStore(database).chutes()


async def test_a_database_that_is_not_there_is_not_called_a_server_that_is_down(
    database_url: str,
) -> None:
    """A wrong name in the configuration would else be waited for until somebody looks."""
    wrong = database_url.replace("/test_", "/no_such_")
    async with Database(wrong) as database:
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            await PostgresMarketStore(database).chutes()
