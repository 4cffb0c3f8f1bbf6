"""The ledger's schema refuses what would change the past or the sums, whoever asks."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
from tests.contract.test_ledger_store import apply, entry, migrated

from penstock.adapters.postgres import read_schema
from penstock.ledger.store import PostgresStore
from penstock.spec.books import (
    MINT,
    Hold,
    Leg,
    Post,
    payer_account,
)

ANN = payer_account("ann")
FUND = Post(id="fund", legs=(Leg(MINT, -1_000), Leg(ANN, 1_000)))
HOLD = Hold(id="h", account=ANN, amount_nano=600)


@pytest.fixture
async def connection(database_url: str) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    """A connection to a ledger's own tables, with Ann's 1000 and a hold of 600 in them."""
    database = await migrated(database_url)
    await apply(PostgresStore(database), FUND, HOLD, entries=(entry(1),))
    await database.close()
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


class TestSchema:
    """The tables defend themselves against whatever speaks SQL to them."""

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE ledger.journal SET epoch = 8",
            "DELETE FROM ledger.journal",
            "TRUNCATE ledger.journal",
            "UPDATE ledger.leg SET amount_nano = amount_nano * 2",
            "DELETE FROM ledger.leg",
            "TRUNCATE ledger.leg",
            "UPDATE ledger.log_entry SET leaf = 'x'",
            "DELETE FROM ledger.log_entry",
            "TRUNCATE ledger.log_entry",
            "UPDATE ledger.log_node SET level = 9",
            "DELETE FROM ledger.log_node",
            "INSERT INTO ledger.leg VALUES ('fund', 'pool', 5)",
            "INSERT INTO ledger.leg VALUES ('none', 'pool', 5), ('none', 'mint', -5)",
            "UPDATE ledger.account SET posted_nano = posted_nano + 1 WHERE name = 'payer/ann'",
            "UPDATE ledger.account SET held_nano = 1001 WHERE name = 'payer/ann'",
            "UPDATE ledger.account SET held_nano = -1 WHERE name = 'payer/ann'",
            "INSERT INTO ledger.account VALUES ('payer/eve', 1000000)",
            "DELETE FROM ledger.account",
            "UPDATE ledger.hold SET captured_nano = 601",
            "UPDATE ledger.hold SET amount_nano = 599",
            "UPDATE ledger.hold SET account = 'mint'",
            "UPDATE ledger.state SET version = version + 1, log_size = 0",
            "UPDATE ledger.state SET log_size = 9",
            "INSERT INTO ledger.state (one) VALUES (false)",
            "INSERT INTO ledger.api_key VALUES ('sk-penstock-plain', 'ann')",
        ],
    )
    async def test_a_change_of_the_past_or_of_the_sum_is_refused(
        self, connection: "asyncpg.Connection[asyncpg.Record]", statement: str
    ) -> None:
        with pytest.raises((asyncpg.IntegrityConstraintViolationError, asyncpg.RaiseError)):
            await connection.execute(statement)

    async def test_a_released_hold_stays_released(
        self, connection: "asyncpg.Connection[asyncpg.Record]"
    ) -> None:
        await connection.execute("UPDATE ledger.hold SET is_open = false")
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute("UPDATE ledger.hold SET is_open = true")

    async def test_balances_follow_from_the_journal(
        self, connection: "asyncpg.Connection[asyncpg.Record]"
    ) -> None:
        assert await connection.fetch("SELECT * FROM ledger.drift") == []
        async with connection.transaction():
            await connection.execute(
                "UPDATE ledger.account SET held_nano = 0 WHERE name = 'payer/ann'"
            )
            drift = await connection.fetch("SELECT name FROM ledger.drift")
        assert [row["name"] for row in drift] == [ANN]

    async def test_migrating_again_changes_nothing(self, database_url: str) -> None:
        await (await migrated(database_url)).close()
        database = await migrated(database_url)
        assert (
            await database.migrate("penstock.ledger", read_schema("penstock.ledger.schema")) == ()
        )
        await database.close()
