"""The market's PostgreSQL: the only SQL of the station. Rows become values here."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeAlias

import asyncpg
import msgspec

from penstock.market.errors import NameTaken
from penstock.market.ports import PENDING_MAX, Chute, EpochWords, Word
from penstock.spec.canon import from_plain, to_plain
from penstock.spec.keys import Signed
from penstock.spec.messages import Manifest

# A string: asyncpg's classes take their type argument in the stubs only.
Connection: TypeAlias = (
    "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
)


class Database(Protocol):
    """What the store needs of a pool; errors of a lost server come as StoreDown."""

    def connection(self) -> AbstractAsyncContextManager[Connection]: ...
    def transaction(self) -> AbstractAsyncContextManager[Connection]: ...


class PostgresMarketStore:
    """Implements `ports.MarketStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def chutes(self) -> tuple[Chute, ...]:
        """The catalogue in the order of publishing."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                "SELECT chute, manifest FROM market.chute ORDER BY number"
            )
        return tuple(_chute(row["chute"], row["manifest"]) for row in rows)

    async def add_chute(self, chute: Chute) -> bool:
        """Keep a chute; False if it was there already. Raises NameTaken, StoreDown."""
        name, owner = chute.manifest.name, chute.manifest.owner
        async with self._database.transaction() as connection:
            # The row of the name is locked, so two owners or two copies cannot pass each other.
            await connection.execute(
                "INSERT INTO market.name (name, owner) VALUES ($1, $2) ON CONFLICT DO NOTHING",
                *(name, owner),
            )
            holder = await connection.fetchval(
                "SELECT owner FROM market.name WHERE name = $1 FOR UPDATE", name
            )
            if holder != owner:
                raise NameTaken(name=name)
            added = await connection.fetchval(
                "INSERT INTO market.chute (chute, name, manifest) VALUES ($1, $2, $3) "
                "ON CONFLICT DO NOTHING RETURNING true",
                *(chute.chute, name, _json(to_plain(chute.signed))),
            )
        return bool(added)

    async def bounties(self) -> dict[str, int]:
        """Points of every bounty that nobody has claimed, by chute."""
        async with self._database.connection() as connection:
            rows = await connection.fetch("SELECT chute, points FROM market.bounty ORDER BY chute")
        return {row["chute"]: row["points"] for row in rows}

    async def newest(self) -> EpochWords | None:
        """The newest epoch that was saved."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(
                "SELECT epoch, words FROM market.epoch ORDER BY epoch DESC LIMIT 1"
            )
        return None if row is None else _epoch(row["epoch"], row["words"])

    async def save_epoch(self, words: EpochWords, *, bounties: Mapping[str, int]) -> None:
        """Keep an epoch's words and replace the bounties, at once. What was saved first stands."""
        said = _json([to_plain(word) for word in words.words])
        async with self._database.transaction() as connection:
            added = await connection.fetchval(
                "INSERT INTO market.epoch (epoch, words) VALUES ($1, $2) "
                "ON CONFLICT DO NOTHING RETURNING true",
                *(words.epoch, said),
            )
            if not added:
                return
            await connection.execute("DELETE FROM market.bounty")
            await connection.executemany(
                "INSERT INTO market.bounty (chute, points) VALUES ($1, $2)",
                sorted(bounties.items()),
            )

    async def pending(self) -> tuple[EpochWords, ...]:
        """Saved epochs that are not published, oldest first, at most PENDING_MAX."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                "SELECT epoch, words FROM market.epoch WHERE NOT is_published "
                "ORDER BY epoch LIMIT $1",
                PENDING_MAX,
            )
        return tuple(_epoch(row["epoch"], row["words"]) for row in rows)

    async def mark_published(self, epoch: int) -> None:
        """The bus has all words of this epoch."""
        async with self._database.transaction() as connection:
            await connection.execute(
                "UPDATE market.epoch SET is_published = true WHERE epoch = $1", epoch
            )


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _chute(chute: str, text: str) -> Chute:
    signed = from_plain(Signed, msgspec.json.decode(text))
    return Chute(chute=chute, manifest=from_plain(Manifest, signed.body), signed=signed)


def _epoch(epoch: int, text: str) -> EpochWords:
    words = tuple(from_plain(Word, one) for one in msgspec.json.decode(text))
    return EpochWords(epoch=epoch, words=words)
