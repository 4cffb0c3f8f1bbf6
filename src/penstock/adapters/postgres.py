"""Database: PostgreSQL through asyncpg, with bounds, deadlines and one error for "it is down".

Whatever asyncpg or the socket raises because the server is away, restarting or too slow becomes
StoreDown. Errors that the SQL itself earned (a unique key, a check) pass through as they are: only
a store.py meets them, and it knows its constraints. After a restart of the server the next use
connects again.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Literal

import asyncpg

from penstock.adapters.migrations import Connection, apply_migrations, read_schema
from penstock.adapters.opened import Opened
from penstock.kit.ports import StoreDown

__all__ = ["Connection", "Database", "read_schema"]

CONNECTIONS_MAX = 8
CONNECT_DEADLINE_MS = 5_000
STATEMENT_DEADLINE_MS = 10_000
ACQUIRE_DEADLINE_MS = 10_000
MIGRATE_DEADLINE_MS = 300_000
CLOSE_DEADLINE_MS = 5_000
# The client gives up a little later than the server, so that the server's answer wins.
CLIENT_GRACE_MS = 2_000

Isolation = Literal["read_committed", "repeatable_read", "serializable"]

DOWN = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # shutting down, starting up, statement cancelled
    asyncpg.InsufficientResourcesError,  # too many connections, disk full, out of memory
    asyncpg.InternalClientError,
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)
# asyncpg says InterfaceError both for a connection that broke and for a wrong call by us.
BROKEN_CONNECTION_WORDS = ("closed", "closing", "released", "terminated", "not initialized")


class Database(Opened):
    """A bounded pool. It connects on first use, so it may be made while the server is down."""

    def __init__(
        self,
        url: str,
        *,
        connections_max: int = CONNECTIONS_MAX,
        connect_deadline_ms: int = CONNECT_DEADLINE_MS,
        statement_deadline_ms: int = STATEMENT_DEADLINE_MS,
    ) -> None:
        self._url = url
        self._connections_max = connections_max
        self._connect_deadline_ms = connect_deadline_ms
        self._statement_deadline_ms = statement_deadline_ms
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def open(self) -> None:
        """Make the pool (no connection yet)."""
        deadline = str(self._statement_deadline_ms)
        self._pool = await asyncpg.create_pool(
            self._url,
            min_size=0,
            max_size=self._connections_max,
            timeout=self._connect_deadline_ms / 1000,
            command_timeout=(self._statement_deadline_ms + CLIENT_GRACE_MS) / 1000,
            server_settings={
                "application_name": "penstock",
                "statement_timeout": deadline,
                "lock_timeout": deadline,
                "idle_in_transaction_session_timeout": deadline,
                "timezone": "UTC",
            },
        )

    async def close(self) -> None:
        """Let statements in flight end, then close; after a deadline, cut."""
        if self._pool is None:
            return
        pool, self._pool = self._pool, None
        try:
            async with asyncio.timeout(CLOSE_DEADLINE_MS / 1000):
                await pool.close()
        except DOWN:
            pool.terminate()

    async def migrate(self, package: str, schema: Sequence[tuple[int, str]]) -> tuple[int, ...]:
        """Apply the (number, sql) of `schema` that `package` lacks; returns their numbers.

        Safe to call from several processes at once. Raises MigrationChanged, MigrationOrder,
        StoreDown. `read_schema("penstock.ledger.schema")` reads the files of a package.
        """
        async with self.connection() as connection, asyncio.timeout(MIGRATE_DEADLINE_MS / 1000):
            # A migration of a large table may take longer than any request should.
            await connection.execute("SET statement_timeout = 0; SET lock_timeout = 0")
            try:
                return await apply_migrations(connection, package, schema)
            finally:
                if not connection.is_closed():
                    await connection.execute("RESET statement_timeout; RESET lock_timeout")

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """One connection, each statement for itself (reads). Raises StoreDown."""
        assert self._pool is not None, "open() comes first"
        with store_down():
            async with self._pool.acquire(timeout=ACQUIRE_DEADLINE_MS / 1000) as connection:
                yield connection

    @asynccontextmanager
    async def transaction(
        self, *, isolation: Isolation = "read_committed"
    ) -> AsyncIterator[Connection]:
        """One transaction: committed at the end, rolled back when the body raises.

        Raises StoreDown; when that happens at the end the commit may or may not have been kept, so
        the caller repeats the same idempotent writes.
        """
        async with self.connection() as connection, connection.transaction(isolation=isolation):
            yield connection


@contextmanager
def store_down() -> Iterator[None]:
    """Translate what means "the server is away" into StoreDown; let the rest pass."""
    try:
        yield
    except DOWN as error:
        raise StoreDown(f"{type(error).__name__}: {error}") from error
    except asyncpg.InterfaceError as error:
        if any(word in str(error) for word in BROKEN_CONNECTION_WORDS):
            raise StoreDown(str(error)) from error
        raise
