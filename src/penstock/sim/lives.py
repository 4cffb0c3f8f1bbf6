"""What one process has in hand, and what becomes of it when the process is killed.

Killing a task runs its `finally` blocks, which a killed process never does. So every life holds the
world through the ports here: once it is over, whatever it still tries reaches nobody.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from random import Random

from penstock.kit.ports import Answer, BusDown, Delivery, Files, Progress, StoreDown
from penstock.ledger.state import Batch, EntryKey, EpochState, Logged, View, Wanted
from penstock.market.ports import Chute, EpochWords
from penstock.sim.bus import MemoryBus
from penstock.sim.stores_ledger import MemoryLedgerStore
from penstock.sim.stores_market import MemoryMarketStore
from penstock.sim.stores_miner import MemoryOutbox
from penstock.spec.books import Balance
from penstock.spec.entries import EntryKind


@dataclass(slots=True, eq=False)
class Life:
    """One process, from its start to its end. `stop` asks it to end in order."""

    host: str
    number: int
    is_over: bool = False
    was_killed: bool = False
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    ready: asyncio.Event = field(default_factory=asyncio.Event)


class LifeBus:
    """The Bus port for one life."""

    def __init__(self, bus: MemoryBus, life: Life) -> None:
        self._bus = bus
        self._life = life

    async def publish(self, subject: str, data: bytes, *, event_id: str) -> None:
        """Raises BusDown."""
        self._check()
        await self._bus.publish(subject, data, event_id=event_id)

    def consume(self, subject: str, *, group: str) -> AsyncIterator[Delivery]:
        """Events of the durable group."""
        return self._bus.consume(subject, group=group)

    async def progress(self, subject: str, *, group: str) -> Progress:
        """Raises BusDown."""
        self._check()
        return await self._bus.progress(subject, group=group)

    async def put(self, key: str, value: bytes) -> None:
        """Raises BusDown."""
        self._check()
        await self._bus.put(key, value)

    def watch(self, prefix: str) -> AsyncIterator[tuple[str, bytes]]:
        """The board below a prefix."""
        return self._bus.watch(prefix)

    async def ask(self, subject: str, data: bytes, *, deadline_ms: int) -> bytes:
        """Raises BusDown."""
        self._check()
        return await self._bus.ask(subject, data, deadline_ms=deadline_ms)

    def answer(self, subject: str, handler: Answer) -> AbstractAsyncContextManager[None]:
        """Serve a subject."""
        return self._bus.answer(subject, handler)

    def _check(self) -> None:
        if self._life.is_over:
            raise BusDown(f"{self._life.host} is dead")


@dataclass(slots=True, eq=False)
class Database:
    """The one database server of an operator: how fast it is, and whether it is there."""

    rng: Random
    is_down: bool = False
    delay_us_max: int = 3_000

    async def reach(self, life: Life) -> None:
        """A question on its way, where a kill or an outage may strike. Raises StoreDown."""
        await asyncio.sleep(self.rng.randrange(1, self.delay_us_max) / 1_000_000)
        if life.is_over:
            raise StoreDown(f"{life.host} is dead")
        if self.is_down:
            raise StoreDown("the database is away")


class LifeStore:
    """The ledger's Store for one life. An outage may come between a commit and its answer."""

    def __init__(self, store: MemoryLedgerStore, database: Database, life: Life) -> None:
        self._store = store
        self._database = database
        self._life = life

    async def _reach(self) -> MemoryLedgerStore:
        await self._database.reach(self._life)
        return self._store

    async def view(self, wanted: Wanted) -> View:
        """Raises StoreDown."""
        return await (await self._reach()).view(wanted)

    async def apply(self, batch: Batch) -> None:
        """Raises StoreDown, before or after the commit, and what the store raises."""
        await (await self._reach()).apply(batch)
        await self._reach()

    async def entry(self, key: EntryKey) -> Logged | None:
        """Raises StoreDown."""
        return await (await self._reach()).entry(key)

    async def entries(self, first_seq: int, *, count: int) -> list[Logged]:
        """Raises StoreDown."""
        return await (await self._reach()).entries(first_seq, count=count)

    async def entries_under(self, kind: EntryKind, *, prefix: str, seq_max: int) -> list[Logged]:
        """Raises StoreDown."""
        return await (await self._reach()).entries_under(kind, prefix=prefix, seq_max=seq_max)

    async def nodes(self, wanted: Sequence[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        """Raises StoreDown."""
        return await (await self._reach()).nodes(wanted)

    async def balance(self, account: str) -> Balance:
        """Raises StoreDown."""
        return await (await self._reach()).balance(account)

    async def unfinished(self, *, count: int) -> list[EpochState]:
        """Raises StoreDown."""
        return await (await self._reach()).unfinished(count=count)

    async def newest(self) -> tuple[int, int]:
        """Raises StoreDown."""
        return await (await self._reach()).newest()

    async def epoch(self, number: int) -> EpochState | None:
        """Raises StoreDown."""
        return await (await self._reach()).epoch(number)


class LifeMarketStore:
    """The market's store for one life, in the same database."""

    def __init__(self, store: MemoryMarketStore, database: Database, life: Life) -> None:
        self._store = store
        self._database = database
        self._life = life

    async def _reach(self) -> MemoryMarketStore:
        await self._database.reach(self._life)
        return self._store

    async def chutes(self) -> tuple[Chute, ...]:
        """Raises StoreDown."""
        return await (await self._reach()).chutes()

    async def add_chute(self, chute: Chute) -> bool:
        """Raises StoreDown, NameTaken."""
        return await (await self._reach()).add_chute(chute)

    async def bounties(self) -> dict[str, int]:
        """Raises StoreDown."""
        return await (await self._reach()).bounties()

    async def newest(self) -> EpochWords | None:
        """Raises StoreDown."""
        return await (await self._reach()).newest()

    async def save_epoch(self, words: EpochWords, *, bounties: Mapping[str, int]) -> None:
        """Raises StoreDown."""
        await (await self._reach()).save_epoch(words, bounties=bounties)

    async def pending(self) -> tuple[EpochWords, ...]:
        """Raises StoreDown."""
        return await (await self._reach()).pending()

    async def mark_published(self, epoch: int) -> None:
        """Raises StoreDown."""
        await (await self._reach()).mark_published(epoch)


class LifeOutbox:
    """A miner's journal for one life."""

    def __init__(self, outbox: MemoryOutbox, life: Life) -> None:
        self._outbox = outbox
        self._life = life

    def load(self) -> list[bytes]:
        """All complete lines."""
        return self._outbox.load()

    def append(self, line: bytes) -> None:
        """Raises DiskFull."""
        if not self._life.is_over:
            self._outbox.append(line)

    async def sync(self) -> None:
        """Make what is there survive a power cut."""
        if not self._life.is_over:
            await self._outbox.sync()

    def replace(self, lines: list[bytes]) -> None:
        """Raises DiskFull."""
        if not self._life.is_over:
            self._outbox.replace(lines)


class LifeFiles:
    """The Files port for one life."""

    def __init__(self, files: Files, life: Life) -> None:
        self._files = files
        self._life = life

    def write(self, name: str, data: bytes) -> None:
        """Raises DiskFull."""
        if not self._life.is_over:
            self._files.write(name, data)

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError."""
        return self._files.read(name)

    def names(self, prefix: str) -> list[str]:
        """Names that start with `prefix`."""
        return self._files.names(prefix)
