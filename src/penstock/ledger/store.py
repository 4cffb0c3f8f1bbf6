"""The ledger's PostgreSQL: the only SQL of the station. Rows become values here.

A batch is one transaction under the lock of the one state row. The law of the books
(`spec.books`) is applied to what the database holds at that moment, and the schema refuses what the
law would refuse (see `schema/`). Rows go in by COPY and `unnest`: one statement per table and batch.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import astuple
from typing import Any, Protocol

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
from penstock.spec.books import (
    NOTHING,
    Balance,
    Books,
    Capture,
    Extend,
    Held,
    Hold,
    Operation,
    Post,
    Release,
    apply_all,
)
from penstock.spec.entries import EntryKind, Row
from penstock.spec.log import Frontier, Node, leaf_hash

Connection = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

_LEASE = "lease_id, gateway, account, granted_nano, grants, opened_ms, expires_ms, is_open"
_EPOCH = "epoch, first_seq, close_seq, closed_ms, published_ms, settled_seq, is_done, pool_nano"
_ENTRY = "seq, epoch, kind, entry_id, leaf, row_json"
_read_row = msgspec.json.Decoder(Row).decode
_KINDS: Mapping[type, str] = {
    Post: "post",
    Hold: "hold",
    Extend: "extend",
    Capture: "capture",
    Release: "release",
}


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
        batch stale. Raises StoreDown."""
        async with self._database.connection() as connection:
            state = await connection.fetchrow("SELECT * FROM ledger.state")
            assert state is not None
            epoch = await connection.fetchrow(
                f"SELECT {_EPOCH} FROM ledger.epoch WHERE epoch = $1",  # noqa: S608 - our columns
                state["open_epoch"],
            )
            leases = await _leases(connection, wanted)
            return View(
                version=state["version"],
                frontier=Frontier(state["log_size"], tuple(state["log_roots"])),
                epoch=EpochState(*epoch) if epoch is not None else None,
                entries=await _entries(connection, wanted.entries),
                books=await _books(
                    connection,
                    accounts=wanted.accounts,
                    holds=tuple(leases),
                    operations=wanted.operations,
                ),
                leases=leases,
                keys=await _pairs(
                    connection,
                    "SELECT key_hash, account FROM ledger.api_key WHERE key_hash = any($1)",
                    wanted.key_hashes,
                ),
                claims=await _pairs(
                    connection,
                    "SELECT order_id, first_ms FROM ledger.claim WHERE order_id = any($1)",
                    wanted.claims,
                ),
            )

    # Apply --------------------------------------------------------------------------------------

    async def apply(self, batch: Batch) -> None:
        """All of the batch in one transaction. Raises StaleView, StoreDown, and what the books
        refuse."""
        async with self._database.transaction() as connection:
            state = await connection.fetchrow("SELECT * FROM ledger.state FOR UPDATE")
            assert state is not None
            if state["version"] != batch.version:
                raise StaleView(batch.version, state["version"])
            await _keep_books(connection, batch)
            before = Frontier(state["log_size"], tuple(state["log_roots"]))
            frontier = await _keep_log(connection, batch, before)
            await _keep_memory(connection, batch)
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
            books = await _books(connection, accounts=(account,), holds=(), operations=())
        return books.balance(account)

    async def unfinished(self, *, count: int) -> list[EpochState]:
        """Closed epochs that are not done, oldest first."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                f"SELECT {_EPOCH} FROM ledger.epoch"  # noqa: S608 - our columns
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
                f"SELECT {_EPOCH} FROM ledger.epoch WHERE epoch = $1",  # noqa: S608 - our columns
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
        f"SELECT {_LEASE} FROM ledger.lease WHERE lease_id = any($1)"  # noqa: S608 - our columns
        " OR (is_open AND (gateway = any($2) OR expires_ms <= $3))",
        *(list(wanted.leases), list(wanted.leases_of), wanted.leases_due_ms),
    )
    return {row[0]: Lease(*row) for row in rows}


async def _pairs(connection: Connection, query: str, keys: Sequence[str]) -> dict[str, Any]:
    rows = await connection.fetch(query, list(keys)) if keys else []
    return {row[0]: row[1] for row in rows}


async def _books(
    connection: Connection,
    *,
    accounts: Sequence[str],
    holds: Sequence[str],
    operations: Sequence[str],
) -> Books:
    """The part of the books around these accounts, holds (with their accounts) and ids."""
    held, balances, seen = {}, {}, {}
    if holds:
        rows = await connection.fetch(
            "SELECT id, account, amount_nano, captured_nano, is_open FROM ledger.hold"
            " WHERE id = any($1)",
            list(holds),
        )
        held = {row[0]: Held(*row[1:]) for row in rows}
    names = sorted({*accounts, *(one.account for one in held.values())})
    if names:
        rows = await connection.fetch(
            "SELECT name, posted_nano, held_nano FROM ledger.account WHERE name = any($1)", names
        )
        balances = {row[0]: Balance(row[1], row[2]) for row in rows}
    if operations:
        seen = await _pairs(
            connection, "SELECT id, content FROM ledger.journal WHERE id = any($1)", operations
        )
    return Books(accounts=balances, holds=held, seen=seen)


# Writing ------------------------------------------------------------------------------------------


async def _keep_books(connection: Connection, batch: Batch) -> None:
    if not batch.operations:
        return
    before = await _books(
        connection,
        accounts=_accounts_of(batch.operations),
        holds=[one.hold for one in batch.operations if isinstance(one, Extend | Capture | Release)],
        operations=[one.id for one in batch.operations],
    )
    after = apply_all(before, batch.operations)
    fresh = {one.id: one for one in batch.operations if one.id not in before.seen}
    await _keep_balances(connection, before, after)
    await _keep_holds(connection, before, after)
    await connection.copy_records_to_table(
        "journal",
        schema_name="ledger",
        columns=("id", "kind", "hold", "amount_nano", "content", "epoch"),
        records=[
            (
                *(one.id, _KINDS[type(one)], getattr(one, "hold", None)),
                *(getattr(one, "amount_nano", 0), after.seen[one.id], batch.entries_epoch),
            )
            for one in fresh.values()
        ],
    )
    legs = [
        (one.id, leg.account, leg.amount_nano)
        for one in fresh.values()
        if isinstance(one, Post | Capture)
        for leg in one.legs
    ]
    if legs:
        await connection.copy_records_to_table(
            "leg",
            schema_name="ledger",
            columns=("journal", "account", "amount_nano"),
            records=legs,
        )


def _accounts_of(operations: Sequence[Operation]) -> list[str]:
    names: set[str] = set()
    for one in operations:
        if isinstance(one, Post | Capture):
            names.update(leg.account for leg in one.legs)
        elif isinstance(one, Hold):
            names.add(one.account)
    return list(names)


async def _keep_balances(connection: Connection, before: Books, after: Books) -> None:
    changed = sorted(
        (name, one) for name, one in after.accounts.items() if one != before.balance(name)
    )
    # An account that is new and ends the batch as it began still needs its row for its hold.
    fresh = sorted(name for name in after.accounts if name not in before.accounts)
    if fresh:
        await connection.execute(
            "INSERT INTO ledger.account (name) SELECT unnest($1::text[])", fresh
        )
    if changed:
        await connection.execute(
            "UPDATE ledger.account a SET posted_nano = w.posted, held_nano = w.held"
            " FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS w (name, posted, held)"
            " WHERE a.name = w.name",
            [name for name, _ in changed],
            [one.posted_nano for _, one in changed],
            [one.held_nano for _, one in changed],
        )


async def _keep_holds(connection: Connection, before: Books, after: Books) -> None:
    fresh = [(name, one) for name, one in after.holds.items() if name not in before.holds]
    changed = [
        (name, one)
        for name, one in after.holds.items()
        if name in before.holds and one != before.holds[name]
    ]
    if fresh:
        await connection.copy_records_to_table(
            "hold",
            schema_name="ledger",
            columns=("id", "account", "amount_nano", "captured_nano", "is_open"),
            records=[(name, *astuple(one)) for name, one in fresh],
        )
    if changed:
        await connection.execute(
            "UPDATE ledger.hold h SET amount_nano = w.amount, captured_nano = w.captured,"
            " is_open = w.is_open FROM"
            " unnest($1::text[], $2::bigint[], $3::bigint[], $4::boolean[])"
            " AS w (id, amount, captured, is_open) WHERE h.id = w.id",
            [name for name, _ in changed],
            [one.amount_nano for _, one in changed],
            [one.captured_nano for _, one in changed],
            [one.is_open for _, one in changed],
        )


async def _keep_log(connection: Connection, batch: Batch, frontier: Frontier) -> Frontier:
    if not batch.entries:
        return frontier
    first_seq = frontier.size
    nodes: list[Node] = []
    for one in batch.entries:
        frontier, completed = frontier.grow(leaf_hash(one.leaf))
        nodes.extend(completed)
    await connection.copy_records_to_table(
        "log_entry",
        schema_name="ledger",
        columns=("seq", "epoch", "kind", "entry_id", "leaf", "row_json"),
        records=[
            (
                *(first_seq + offset, batch.entries_epoch, one.kind.value, one.entry_id, one.leaf),
                None if one.row is None else msgspec.json.encode(one.row),
            )
            for offset, one in enumerate(batch.entries)
        ],
    )
    await connection.copy_records_to_table(
        "log_node",
        schema_name="ledger",
        columns=("level", "index", "hash"),
        records=[(node.level, node.index, node.hash) for node in nodes],
    )
    return frontier


async def _keep_memory(connection: Connection, batch: Batch) -> None:
    if batch.epochs:
        await connection.executemany(
            f"INSERT INTO ledger.epoch ({_EPOCH})"  # noqa: S608 - our columns
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (epoch) DO UPDATE SET"
            " close_seq = $3, closed_ms = $4, published_ms = $5, settled_seq = $6, is_done = $7,"
            " pool_nano = $8",
            [astuple(one) for one in batch.epochs],
        )
    if batch.leases:
        await connection.executemany(
            f"INSERT INTO ledger.lease ({_LEASE})"  # noqa: S608 - our columns
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (lease_id) DO UPDATE SET"
            " granted_nano = $4, grants = $5, expires_ms = $7, is_open = $8",
            [astuple(one) for one in batch.leases],
        )
    if batch.keys:
        await connection.executemany("INSERT INTO ledger.api_key VALUES ($1, $2)", batch.keys)
    if batch.claims:
        await connection.executemany("INSERT INTO ledger.claim VALUES ($1, $2)", batch.claims)
    if batch.claims_over:
        await connection.execute(
            "DELETE FROM ledger.claim WHERE order_id = any($1)", list(batch.claims_over)
        )


assert NOTHING == Balance(0, 0), "the schema begins accounts with these"
