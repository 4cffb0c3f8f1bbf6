"""What a market holds, read past all stations: its books and log straight from PostgreSQL."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import asyncpg
from tests.e2e.load import Told
from tests.e2e.market import RunningMarket

from penstock.client.proof import LogName
from penstock.kit.keys import verify_raw
from penstock.spec.log import leaf_hash, root
from penstock.spec.notes import Checkpoint, parse_note, verify_checkpoint

PAYER = "payer/you"
GATEWAY_FAILED = "gateway_failed"
READ_DEADLINE_S = 30

T = TypeVar("T")


@dataclass(frozen=True)
class Snapshot:
    """The books and the log at one moment.

    `outcomes` is order id -> outcome of its record, `paid_nano` order id -> what our payer paid.
    """

    posted_nano: int
    held_nano: int
    outcomes: dict[str, str]
    paid_nano: dict[str, int]
    leaves: tuple[bytes, ...]
    drift: tuple[str, ...]
    total_nano: int
    negative: tuple[str, ...]
    disputes: int

    @property
    def size(self) -> int:
        return len(self.leaves)


def snapshot(market: RunningMarket) -> Snapshot:
    """Read everything in one transaction."""
    return reading(market, _snapshot)


def reading(
    market: RunningMarket, read: Callable[["asyncpg.Connection[asyncpg.Record]"], Awaitable[T]]
) -> T:
    url = (market.home / "keys" / "database-url").read_text().strip()

    async def run() -> T:
        async with asyncio.timeout(READ_DEADLINE_S):
            connection = await asyncpg.connect(url)
            try:
                async with connection.transaction(isolation="repeatable_read", readonly=True):
                    return await read(connection)
            finally:
                await connection.close()

    return asyncio.run(run())


async def _snapshot(connection: "asyncpg.Connection[asyncpg.Record]") -> Snapshot:
    account = await connection.fetchrow(
        "SELECT posted_nano, held_nano FROM ledger.account WHERE name = $1", PAYER
    )
    assert account is not None, "the first account is opened by up"
    records = await connection.fetch(
        "SELECT entry_id, row_json FROM ledger.log_entry WHERE kind = 'record' ORDER BY seq"
    )
    outcomes = {one["entry_id"]: str(json.loads(one["row_json"])["outcome"]) for one in records}
    assert len(outcomes) == len(records), "an order is in the log once"
    paid = await connection.fetch(
        "SELECT journal, -amount_nano AS nano FROM ledger.leg"
        " WHERE account = $1 AND journal LIKE 'record/%'",
        PAYER,
    )
    leaves = await connection.fetch("SELECT leaf FROM ledger.log_entry ORDER BY seq")
    drift = await connection.fetch("SELECT name FROM ledger.drift")
    negative = await connection.fetch(
        "SELECT name FROM ledger.account WHERE posted_nano < 0 AND name <> 'mint'"
    )
    return Snapshot(
        posted_nano=account["posted_nano"],
        held_nano=account["held_nano"],
        outcomes=outcomes,
        paid_nano={one["journal"].removeprefix("record/"): int(one["nano"]) for one in paid},
        leaves=tuple(one["leaf"] for one in leaves),
        drift=tuple(one["name"] for one in drift),
        total_nano=int(await connection.fetchval("SELECT sum(posted_nano) FROM ledger.account")),
        negative=tuple(one["name"] for one in negative),
        disputes=await connection.fetchval(
            "SELECT count(*) FROM ledger.log_entry WHERE kind = 'dispute'"
        ),
    )


def log_name(market: RunningMarket) -> LogName:
    """The log of this market, from its published files or, before the first, its charter."""
    charter = json.loads((market.home / "config" / "charter.json").read_text())["charter"]["body"]
    return LogName(origin=charter["origin"], key=charter["ledger"])


def checkpoint_of(market: RunningMarket, note: str) -> Checkpoint:
    """A signed note, opened and checked against the market's log key."""
    log = log_name(market)
    public_key = bytes.fromhex(log.key.partition(":")[2])
    return verify_checkpoint(
        parse_note(note.encode()), log.origin, public_key=public_key, verify_raw=verify_raw
    )


def check_books(after: Snapshot) -> None:
    """Every asset adds up to zero, cached balances are the journal's, nobody is overdrawn."""
    assert after.total_nano == 0
    assert after.drift == ()
    assert after.negative == ()


def check_log(after: Snapshot, signed: list[Checkpoint]) -> None:
    """All that was ever signed is a state of the log as it stands: nothing changed, only more came."""
    hashes = [leaf_hash(leaf) for leaf in after.leaves]
    for checkpoint in signed:
        assert checkpoint.size <= after.size
        assert root(hashes[: checkpoint.size]) == checkpoint.root


def check_told(before: Snapshot, after: Snapshot, told: list[Told], *, gateway_died: bool) -> None:
    """Every order a client saw is in the log, and cost what the client was told, or nothing.

    A gateway that died may have taken the record of a delivered answer with it: then the miner's
    claim closes the order, and its payer pays nothing.
    """
    assert not [one for one in told if not one.is_over]
    seen = [one for one in told if one.order_id]
    assert len({one.order_id for one in seen}) == len(seen), "an order id is given once"
    paid = {
        order_id: nano
        for order_id, nano in after.paid_nano.items()
        if order_id not in before.paid_nano
    }
    for one in seen:
        assert one.order_id in after.outcomes, one
        nano = paid.get(one.order_id, 0)
        forgiven = gateway_died and after.outcomes[one.order_id] == GATEWAY_FAILED
        assert nano == (0 if forgiven else one.charge_nano or 0), (
            f"{one}: logged as {after.outcomes[one.order_id]}, charged {nano}"
        )
    strangers = set(paid) - {one.order_id for one in seen if one.is_paid_for}
    assert not strangers, "something was charged that nobody was told of"
    assert before.posted_nano - after.posted_nano == sum(paid.values())
    assert after.held_nano == 0
