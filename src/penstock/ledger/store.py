"""The ledger's PostgreSQL: the only SQL of the station. Rows become values here.

A batch is one transaction under the lock of the one state row. The law of the books
(`spec.books`) is applied to what the database holds at that moment, and the schema refuses what the
law would refuse (see `schema/`). Rows go in by COPY and `unnest`: one statement per table and batch.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import asyncpg
import msgspec

from penstock.ledger.errors import StaleView
from penstock.ledger.state import (
    ENTRIES_PAGE_MAX,
    Batch,
    EntryKey,
    EpochState,
    Lease,
    Logged,
    View,
    Wanted,
)
from penstock.ledger.store_batch import (
    EPOCH_COLUMNS,
    LEASE_COLUMNS,
    Connection,
    keep_books,
    keep_log,
    keep_memory,
    read_books,
    read_pairs,
)
from penstock.spec.books import (
    Balance,
)
from penstock.spec.entries import EntryKind, Row
from penstock.spec.log import Frontier

_ENTRY = "seq, epoch, kind, entry_id, leaf, row_json"
_read_row = msgspec.json.Decoder(Row).decode


class Database(Protocol):
    """What the store needs of a pool; errors of a lost server come as StoreDown."""

    def connection(self) -> AbstractAsyncContextManager[Connection]: ...
    def transaction(self) -> AbstractAsyncContextManager[Connection]: ...


class PostgresStore:
    """Implements `ports.Store`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Look ---------------------------------------------------------------------------------------

    async def view(self, wanted: Wanted) -> View:
        """What a decision needs. The version is read first: what is newer than it only makes the
        batch stale. Raises StoreDown.
        """
        async with self._database.connection() as connection:
            state = await connection.fetchrow("SELECT * FROM ledger.state")
            assert state is not None
            epoch = await connection.fetchrow(
                f"SELECT {EPOCH_COLUMNS} FROM ledger.epoch WHERE epoch = $1",  # noqa: S608 - our columns
                state["open_epoch"],
            )
            leases = await _leases(connection, wanted)
            return View(
                version=state["version"],
                frontier=Frontier(state["log_size"], tuple(state["log_roots"])),
                epoch=EpochState(*epoch) if epoch is not None else None,
                entries=await _entries(connection, wanted.entries),
                books=await read_books(
                    connection,
                    accounts=wanted.accounts,
                    holds=tuple(leases),
                    operations=wanted.operations,
                ),
                leases=leases,
                keys=await read_pairs(
                    connection,
                    "SELECT key_hash, account FROM ledger.api_key WHERE key_hash = any($1)",
                    wanted.key_hashes,
                ),
                claims=await read_pairs(
                    connection,
                    "SELECT order_id, first_ms FROM ledger.claim WHERE order_id = any($1)",
                    wanted.claims,
                ),
            )

    # Apply --------------------------------------------------------------------------------------

    async def apply(self, batch: Batch) -> None:
        """All of the batch in one transaction. Raises StaleView, StoreDown, and what the books
        refuse.
        """
        async with self._database.transaction() as connection:
            state = await connection.fetchrow("SELECT * FROM ledger.state FOR UPDATE")
            assert state is not None
            if state["version"] != batch.version:
                raise StaleView(batch.version, state["version"])
            await keep_books(connection, batch)
            before = Frontier(state["log_size"], tuple(state["log_roots"]))
            frontier = await keep_log(connection, batch, before)
            await keep_memory(connection, batch)
            await connection.execute(
                "UPDATE ledger.state SET version = version + 1, log_size = $1, log_roots = $2,"
                " open_epoch = $3",
                *(frontier.size, list(frontier.roots), batch.open_epoch),
            )

    # The log ------------------------------------------------------------------------------------

    async def entry(self, key: EntryKey) -> Logged | None:
        """The entry of this kind and id."""
        async with self._database.connection() as connection:
            return (await _entries(connection, (key,))).get(key)

    async def entries(self, first_seq: int, *, count: int) -> list[Logged]:
        """Entries in order; at most ENTRIES_PAGE_MAX."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                f"SELECT {_ENTRY} FROM ledger.log_entry"  # noqa: S608 - our columns
                " WHERE seq >= $1 ORDER BY seq LIMIT $2",
                *(first_seq, min(count, ENTRIES_PAGE_MAX)),
            )
        return [_logged(row) for row in rows]

    async def entries_under(self, kind: EntryKind, *, prefix: str, seq_max: int) -> list[Logged]:
        """Entries by the prefix of their id; served by the unique index on (kind, entry_id)."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                f"SELECT {_ENTRY} FROM ledger.log_entry"  # noqa: S608 - our columns
                " WHERE kind = $1 AND entry_id >= $2 AND starts_with(entry_id, $2)"
                " AND seq <= $3 ORDER BY seq LIMIT $4",
                *(kind.value, prefix, seq_max, ENTRIES_PAGE_MAX),
            )
        return [_logged(row) for row in rows]

    async def nodes(self, wanted: Sequence[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        """Roots of complete subtrees."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                "SELECT n.level, n.index, n.hash FROM ledger.log_node n"
                " JOIN unnest($1::smallint[], $2::bigint[]) AS w (level, index)"
                " ON n.level = w.level AND n.index = w.index",
                *([level for level, _ in wanted], [index for _, index in wanted]),
            )
        return {(row[0], row[1]): row[2] for row in rows}

    # Accounts and epochs --------------------------------------------------------------------------

    async def balance(self, account: str) -> Balance:
        """An account's balance."""
        async with self._database.connection() as connection:
            books = await read_books(connection, accounts=(account,), holds=(), operations=())
        return books.balance(account)

    async def unfinished(self, *, count: int) -> list[EpochState]:
        """Closed epochs that are not done, oldest first."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                f"SELECT {EPOCH_COLUMNS} FROM ledger.epoch"  # noqa: S608 - our columns
                " WHERE NOT is_done AND close_seq >= 0 ORDER BY epoch LIMIT $1",
                count,
            )
        return [EpochState(*row) for row in rows]

    async def newest(self) -> tuple[int, int]:
        """(newest closed, newest settled)."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(
                "SELECT coalesce(max(epoch) FILTER (WHERE close_seq >= 0), -1),"
                " coalesce(max(epoch) FILTER (WHERE settled_seq >= 0), -1) FROM ledger.epoch"
            )
        assert row is not None
        return row[0], row[1]

    async def epoch(self, number: int) -> EpochState | None:
        """One epoch."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(
                f"SELECT {EPOCH_COLUMNS} FROM ledger.epoch WHERE epoch = $1",  # noqa: S608 - our columns
                number,
            )
        return EpochState(*row) if row is not None else None


# Reading ------------------------------------------------------------------------------------------


def _logged(row: asyncpg.Record) -> Logged:
    return Logged(
        seq=row["seq"],
        epoch=row["epoch"],
        kind=EntryKind(row["kind"]),
        entry_id=row["entry_id"],
        leaf=row["leaf"],
        row=None if row["row_json"] is None else _read_row(row["row_json"]),
    )


async def _entries(connection: Connection, keys: Sequence[EntryKey]) -> dict[EntryKey, Logged]:
    if not keys:
        return {}
    rows = await connection.fetch(
        "SELECT e.* FROM ledger.log_entry e"
        " JOIN unnest($1::text[], $2::text[]) AS w (kind, entry_id)"
        " ON e.kind = w.kind AND e.entry_id = w.entry_id",
        *([kind.value for kind, _ in keys], [entry_id for _, entry_id in keys]),
    )
    found = [_logged(row) for row in rows]
    return {(one.kind, one.entry_id): one for one in found}


async def _leases(connection: Connection, wanted: Wanted) -> dict[str, Lease]:
    if not wanted.leases and not wanted.leases_of and wanted.leases_due_ms < 0:
        return {}
    rows = await connection.fetch(
        f"SELECT {LEASE_COLUMNS} FROM ledger.lease WHERE lease_id = any($1)"  # noqa: S608 - our columns
        " OR (is_open AND (gateway = any($2) OR expires_ms <= $3))",
        *(list(wanted.leases), list(wanted.leases_of), wanted.leases_due_ms),
    )
    return {row[0]: Lease(*row) for row in rows}
