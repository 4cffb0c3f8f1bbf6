"""SQL that is not ours, on the ledger's tables: it is refused and the books stand."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeAlias

import asyncpg
import pytest
from tests.contract.test_ledger_postgres import apply, check_books, fund, opened

from penstock.adapters.postgres import read_schema
from penstock.ledger.state import EpochState, Wanted
from penstock.ledger.store import PostgresStore
from penstock.spec.books import (
    Balance,
    Hold,
    payer_account,
)

EPOCH = 7
PAYERS = tuple(payer_account(name) for name in ("ann", "bob", "eve"))
SCHEMA = "penstock.ledger.schema"


# A string: asyncpg's classes take their type argument in the stubs only.
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


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


def journal(name: str, kind: str) -> str:
    """An insert of one journal line with content of the right length."""
    content = "decode(repeat('00', 32), 'hex')"
    return f"INSERT INTO ledger.journal VALUES ('{name}', '{kind}', NULL, 0, {content}, 7)"


class TestForeignSql:
    """Whatever else speaks SQL to these tables is held to the same rules."""

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE ledger.journal SET amount_nano = 0 WHERE false",
            "DELETE FROM ledger.leg WHERE journal = 'nobody'",
            "TRUNCATE ledger.log_node",
            "TRUNCATE ledger.journal, ledger.leg",
            "TRUNCATE ledger.account CASCADE",
            "DELETE FROM ledger.hold",
            "TRUNCATE ledger.hold",
            "DELETE FROM ledger.state",
            "TRUNCATE ledger.state",
            "DELETE FROM ledger.lease",
            "DELETE FROM ledger.epoch WHERE epoch = 7",
            journal("fund/payer/ann", "post"),
            journal("x", "gift"),
            "INSERT INTO ledger.journal VALUES ('x', 'post', NULL, 0, 'short', 7)",
            "INSERT INTO ledger.leg VALUES ('fund/payer/ann', 'pool', 0)",
            "INSERT INTO ledger.leg VALUES ('fund/payer/ann', 'pool', 3), ('hold', 'mint', -3)",
            "INSERT INTO ledger.hold VALUES ('y', 'payer/nobody', 5, 0, true)",
            "INSERT INTO ledger.hold VALUES ('y', 'payer/ann', 0, 0, true)",
            "INSERT INTO ledger.hold VALUES ('y', 'payer/ann', 5, 6, true)",
            "INSERT INTO ledger.log_entry VALUES (-1, 7, 'close', 'x', 'leaf', NULL)",
            "INSERT INTO ledger.log_node VALUES (0, 99, 'short')",
            "UPDATE ledger.account SET name = 'payer/eve' WHERE name = 'payer/ann'",
            "UPDATE ledger.account SET posted_nano = -posted_nano",
            "UPDATE ledger.state SET open_epoch = open_epoch - 1, version = version + 1",
            "UPDATE ledger.state SET version = version + 2",
            "INSERT INTO ledger.epoch (epoch, first_seq, previous) VALUES (8, 0, 8)",
            "UPDATE ledger.epoch SET pool_nano = -1",
        ],
    )
    async def test_it_is_refused_and_the_books_stand(
        self,
        statement: str,
        stores: tuple[PostgresStore, PostgresStore],
        sql: Connection,
    ) -> None:
        await apply(stores[0], fund(PAYERS[0], 1_000), Hold("hold", PAYERS[0], 600))
        with pytest.raises(asyncpg.PostgresError) as refused:
            await sql.execute(statement)
        # Refused for what it says, not because it could not be read.
        assert not isinstance(refused.value, asyncpg.SyntaxOrAccessError)
        assert await stores[1].balance(PAYERS[0]) == Balance(1_000, 600)
        await check_books(sql)

    async def test_half_of_a_journal_cannot_be_left_to_a_later_statement(
        self, stores: tuple[PostgresStore, PostgresStore], sql: Connection
    ) -> None:
        await apply(stores[0], fund(PAYERS[0], 1_000))
        halves = (
            "INSERT INTO ledger.leg VALUES ('fund/payer/ann', 'pool', -5);"
            "INSERT INTO ledger.leg VALUES ('fund/payer/ann', 'reserve', 5)"
        )
        async with sql.transaction():
            with pytest.raises(asyncpg.CheckViolationError):
                await sql.execute(halves)

    async def test_copy_is_held_to_the_balance_like_insert(
        self, stores: tuple[PostgresStore, PostgresStore], sql: Connection
    ) -> None:
        await apply(stores[0], fund(PAYERS[0], 1_000))
        with pytest.raises(asyncpg.CheckViolationError):
            await sql.copy_records_to_table(
                "leg",
                schema_name="ledger",
                columns=("journal", "account", "amount_nano"),
                records=[("fund/payer/ann", "pool", 1), ("fund/payer/ann", "reserve", 1)],
            )
        await check_books(sql)

    async def test_migrating_from_many_processes_at_once_is_migrating_once(
        self, database_url: str
    ) -> None:
        databases = await asyncio.gather(*(opened(database_url) for _ in range(4)))
        again = [await one.migrate("penstock.ledger", read_schema(SCHEMA)) for one in databases]
        assert again == [()] * 4
        view = await PostgresStore(databases[0]).view(Wanted())
        assert (view.version, view.frontier.size, view.epoch) == (0, 0, None)
        for one in databases:
            await one.close()
