"""How a batch is written to PostgreSQL: one statement per table, inside the store's transaction.

The law of the books (`spec.books`) is applied to what the database holds at that moment; what it
says is then written by COPY and `unnest`. The schema refuses what the law would refuse.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any, TypeAlias

import asyncpg
import msgspec

from penstock.ledger.state import Batch
from penstock.spec.books import (
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
from penstock.spec.log import Frontier, Node, leaf_hash

# A string: asyncpg's classes take their type argument in the stubs only.
Connection: TypeAlias = (
    "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
)

LEASE_COLUMNS = "lease_id, gateway, account, granted_nano, grants, opened_ms, expires_ms, is_open"
EPOCH_COLUMNS = (
    "epoch, first_seq, previous, close_seq, closed_ms, published_ms, settled_seq, is_done,"
    " pool_nano"
)
_KINDS: Mapping[type, str] = {
    Post: "post",
    Hold: "hold",
    Extend: "extend",
    Capture: "capture",
    Release: "release",
}


async def read_pairs(connection: Connection, query: str, keys: Sequence[str]) -> dict[str, Any]:
    rows = await connection.fetch(query, list(keys)) if keys else []
    return {row[0]: row[1] for row in rows}


async def read_books(
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
        seen = await read_pairs(
            connection, "SELECT id, content FROM ledger.journal WHERE id = any($1)", operations
        )
    return Books(accounts=balances, holds=held, seen=seen)


async def keep_books(connection: Connection, batch: Batch) -> None:
    if not batch.operations:
        return
    before = await read_books(
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


async def keep_log(connection: Connection, batch: Batch, frontier: Frontier) -> Frontier:
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


async def keep_memory(connection: Connection, batch: Batch) -> None:
    if batch.epochs:
        await connection.executemany(
            f"INSERT INTO ledger.epoch ({EPOCH_COLUMNS})"  # noqa: S608 - our columns
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (epoch) DO UPDATE SET"
            " close_seq = $4, closed_ms = $5, published_ms = $6, settled_seq = $7, is_done = $8,"
            " pool_nano = $9",
            [astuple(one) for one in batch.epochs],
        )
    if batch.leases:
        await connection.executemany(
            f"INSERT INTO ledger.lease ({LEASE_COLUMNS})"  # noqa: S608 - our columns
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
