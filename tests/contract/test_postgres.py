"""The database adapter against a real PostgreSQL, and against one that is killed."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from tests.servers import RunningServer, postgres_in

from penstock.adapters.errors import MigrationChanged, MigrationOrder
from penstock.adapters.postgres import Database, read_schema
from penstock.kit.ports import StoreDown

DEADLINE_S = 60
FIRST = (1, "CREATE TABLE notes (id integer PRIMARY KEY, text text NOT NULL)")
SECOND = (2, "ALTER TABLE notes ADD COLUMN stars integer NOT NULL DEFAULT 0")
SCHEMA = (FIRST, SECOND)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url) as opened:
        yield opened


@asynccontextmanager
async def killable(home: Path) -> AsyncIterator[RunningServer]:
    server = RunningServer(postgres_in(home))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def notes_count(database: Database) -> int:
    async with database.connection() as connection:
        count: int = await connection.fetchval("SELECT count(*) FROM notes")
        return count


class TestMigrations:
    async def test_a_package_is_brought_forward_once(self, database: Database) -> None:
        assert await database.migrate("ledger", [FIRST]) == (1,)
        assert await database.migrate("ledger", SCHEMA) == (2,)
        assert await database.migrate("ledger", SCHEMA) == ()

    async def test_packages_do_not_know_each_other(self, database: Database) -> None:
        await database.migrate("ledger", [FIRST])
        assert await database.migrate("market", [(1, "CREATE TABLE chutes (id text)")]) == (1,)

    async def test_a_changed_past_is_an_error_that_says_so(self, database: Database) -> None:
        await database.migrate("ledger", SCHEMA)
        changed = (1, FIRST[1].replace("text NOT NULL", "text"))
        with pytest.raises(MigrationChanged, match="0001 of ledger was changed"):
            await database.migrate("ledger", [changed, SECOND])

    async def test_an_older_program_does_not_touch_a_newer_database(
        self, database: Database
    ) -> None:
        await database.migrate("ledger", SCHEMA)
        with pytest.raises(MigrationOrder, match="install the newer release"):
            await database.migrate("ledger", [FIRST])

    async def test_a_gap_in_the_numbers_is_an_error(self, database: Database) -> None:
        with pytest.raises(MigrationOrder, match="without gaps"):
            await database.migrate("ledger", [FIRST, (3, "SELECT 1")])

    async def test_a_migration_that_fails_leaves_the_database_as_it_was(
        self, database: Database
    ) -> None:
        with pytest.raises(asyncpg.PostgresSyntaxError):
            await database.migrate("ledger", [FIRST, (2, "CREATE TABEL x ()")])
        assert await database.migrate("ledger", SCHEMA) == (1, 2)

    async def test_processes_that_start_together_apply_it_once(
        self, database: Database, database_url: str
    ) -> None:
        async with asyncio.TaskGroup() as group:
            runs = [group.create_task(database.migrate("ledger", SCHEMA)) for _ in range(5)]
        assert sorted(run.result() for run in runs) == [(), (), (), (), (1, 2)]

    def test_files_are_read_in_order_and_strangers_are_ignored(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        package = tmp_path / "toy_schema_package"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "0002_more.sql").write_text("SELECT 2")
        (package / "0001_first.sql").write_text("SELECT 1")
        (package / "README.md").write_text("no")
        monkeypatch.syspath_prepend(tmp_path)
        assert read_schema("toy_schema_package") == ((1, "SELECT 1"), (2, "SELECT 2"))


class TestTransactions:
    async def test_a_body_that_raises_leaves_nothing(self, database: Database) -> None:
        await database.migrate("ledger", SCHEMA)

        async def change_one_s_mind() -> None:
            async with database.transaction() as connection:
                await connection.execute("INSERT INTO notes VALUES (1, 'x')")
                raise LookupError

        with pytest.raises(LookupError):
            await change_one_s_mind()
        assert await notes_count(database) == 0

    async def test_a_body_that_ends_is_kept(self, database: Database) -> None:
        await database.migrate("ledger", SCHEMA)
        async with database.transaction() as connection:
            await connection.execute("INSERT INTO notes VALUES (1, 'x')")
        assert await notes_count(database) == 1

    async def test_an_error_that_the_sql_earned_passes_through(self, database: Database) -> None:
        await database.migrate("ledger", SCHEMA)
        with pytest.raises(asyncpg.UniqueViolationError):
            async with database.transaction() as connection:
                await connection.execute("INSERT INTO notes VALUES (1, 'x'), (1, 'y')")

    async def test_a_wrong_call_is_our_bug_and_not_a_server_that_is_down(
        self, database: Database
    ) -> None:
        with pytest.raises(asyncpg.InterfaceError, match="expects 1 argument"):
            async with database.connection() as connection:
                await connection.fetch("SELECT $1::int")

    async def test_serializable_transactions_are_serializable(self, database: Database) -> None:
        async with database.transaction(isolation="serializable") as connection:
            assert await connection.fetchval("SHOW transaction_isolation") == "serializable"

    async def test_a_statement_that_takes_too_long_ends_as_store_down(
        self, database_url: str
    ) -> None:
        async with Database(database_url, statement_deadline_ms=200) as database:
            with pytest.raises(StoreDown):
                async with database.connection() as connection:
                    await connection.execute("SELECT pg_sleep(60)")
            async with database.connection() as connection:
                assert await connection.fetchval("SELECT 1") == 1

    async def test_more_users_than_connections_wait_their_turn(self, database_url: str) -> None:
        async with Database(database_url, connections_max=2) as database:

            async def use() -> int:
                async with database.connection() as connection:
                    pid: int = await connection.fetchval("SELECT pg_backend_pid()")
                    return pid

            async with asyncio.TaskGroup() as group:
                uses = [group.create_task(use()) for _ in range(20)]
        assert len({task.result() for task in uses}) <= 2

    async def test_commits_wait_for_the_disk(self, database: Database) -> None:
        async with database.connection() as connection:
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                assert await connection.fetchval(f"SHOW {setting}") == "on"


class TestKilledServer:
    async def test_statements_in_flight_fail_and_the_next_use_works_when_it_is_back(
        self, tmp_path: Path
    ) -> None:
        async with killable(tmp_path) as server, Database(server.url) as database:
            await database.migrate("ledger", SCHEMA)
            async with database.transaction() as connection:
                await connection.execute("INSERT INTO notes VALUES (1, 'kept')")
            sleeping = asyncio.Event()

            async def in_flight() -> None:
                async with database.transaction() as connection:
                    await connection.execute("INSERT INTO notes VALUES (2, 'lost')")
                    sleeping.set()
                    await connection.execute("SELECT pg_sleep(60)")

            with pytest.raises(StoreDown):
                async with asyncio.timeout(DEADLINE_S):
                    await kill_during(in_flight(), sleeping, server)
            with pytest.raises(StoreDown):
                await notes_count(database)
            await server.start()
            assert await notes_count(database) == 1
            async with database.transaction() as connection:
                await connection.execute("INSERT INTO notes VALUES (2, 'again')")
            assert await notes_count(database) == 2

    async def test_a_database_can_be_made_before_its_server_is_there(self, tmp_path: Path) -> None:
        async with killable(tmp_path) as server:
            await server.kill()
            async with Database(server.url) as database:
                with pytest.raises(StoreDown):
                    await database.migrate("ledger", SCHEMA)
                await server.start()
                assert await database.migrate("ledger", SCHEMA) == (1, 2)

    async def test_committed_rows_survive_several_kills(self, tmp_path: Path) -> None:
        async with killable(tmp_path) as server, Database(server.url) as database:
            await database.migrate("ledger", [FIRST])
            for number in range(3):
                for row in range(20):
                    async with database.transaction() as connection:
                        await connection.execute(
                            "INSERT INTO notes VALUES ($1, 'x')", number * 20 + row
                        )
                await server.kill()
                await server.start()
            assert await notes_count(database) == 60

    async def test_a_stale_lock_file_does_not_stop_a_start(self, tmp_path: Path) -> None:
        async with killable(tmp_path) as server:
            await server.kill()
            lock = tmp_path / "postgres" / "data" / "postmaster.pid"
            lines = lock.read_text().splitlines()
            # The number now belongs to somebody who lives for ever.
            lock.write_text("\n".join(["1", *lines[1:]]) + "\n")
            await server.start()
            async with Database(server.url) as database, database.connection() as connection:
                assert await connection.fetchval("SELECT 1") == 1

    async def test_a_folder_from_another_place_is_moved_and_still_works(
        self, tmp_path: Path
    ) -> None:
        async with killable(tmp_path / "old") as server, Database(server.url) as database:
            await database.migrate("ledger", [FIRST])
        shutil.move(tmp_path / "old", tmp_path / "new")
        async with killable(tmp_path / "new") as server, Database(server.url) as database:
            assert await notes_count(database) == 0


async def kill_during(
    work: Coroutine[object, object, None], started: asyncio.Event, server: RunningServer
) -> None:
    """Run `work`, kill the server once it has started, and pass on how the work ended."""
    task = asyncio.ensure_future(work)
    await started.wait()
    await server.kill()
    await task
