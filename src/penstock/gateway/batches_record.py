"""The records of all batches, in cells: made, read, listed, changed, and claimed by one runner."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from penstock.gateway.batches import KEPT_MS, Batch, read_batch, spell_batch
from penstock.gateway.files import is_id
from penstock.kit.ports import Cell, Clock, Conflict, Stores

CHANGES_MAX = 8
"""How often a change is tried anew when others were faster."""


class Due(msgspec.Struct, frozen=True):
    """Beside each open batch, so that all gateways find it."""

    shelf: str
    created_ms: int


@dataclass(frozen=True, slots=True)
class Known:
    """A record as it was read."""

    batch: Batch
    revision: int


class Records:
    """All records, as far as `shelf` lets one see them. Everything raises BusDown."""

    def __init__(self, store: Stores, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def make(self, batch: Batch) -> None:
        """A new batch: first what makes it found, so that none is ever forgotten. Raises DiskFull."""
        due = msgspec.json.encode(Due(batch.shelf, self._clock.now_ms()))
        await self._store.swap(_due_key(batch.id), due, revision=0, keep_ms=KEPT_MS)
        await self._store.swap(_key(batch), spell_batch(batch), revision=0, keep_ms=KEPT_MS)

    async def find(self, shelf: str, batch_id: str) -> Known | None:
        if not is_id(batch_id):
            return None
        cell = await self._store.read(f"batches.{shelf}.{batch_id}")
        return None if cell is None else _known(cell)

    async def of(self, shelf: str) -> list[Batch]:
        """Newest first."""
        found = [_known(cell).batch for cell in await self._store.under(f"batches.{shelf}")]
        return sorted(found, key=lambda batch: (batch.created_at, batch.id), reverse=True)

    async def due(self) -> list[tuple[str, Due]]:
        """(batch id, where) of all open batches, oldest first."""
        cells = await self._store.under("open")
        due = [
            (cell.key.removeprefix("open."), msgspec.json.decode(cell.value, type=Due))
            for cell in cells
        ]
        return sorted(due, key=lambda one: one[1].created_ms)

    async def put(self, known: Known, batch: Batch) -> Known:
        """Raises Conflict, DiskFull."""
        revision = await self._store.swap(
            _key(batch), spell_batch(batch), revision=known.revision, keep_ms=KEPT_MS
        )
        return Known(batch, revision)

    async def change(
        self, shelf: str, batch_id: str, make: Callable[[Batch], Batch]
    ) -> Known | None:
        """Change what is there, whoever else changes it too; None if there is nothing. Raises what
        `make` raises, and DiskFull.
        """
        for _ in range(CHANGES_MAX):
            known = await self.find(shelf, batch_id)
            if known is None:
                return None
            batch = make(known.batch)
            if batch is known.batch:
                return known
            try:
                return await self.put(known, batch)
            except Conflict:
                continue
        raise Conflict(batch_id)

    async def close(self, batch_id: str) -> None:
        """The batch has ended, or was never made."""
        cell = await self._store.read(_due_key(batch_id))
        if cell is not None:
            try:
                await self._store.swap(cell.key, b"", revision=cell.revision, keep_ms=0)
            except Conflict:
                return  # closed by another


def _known(cell: Cell) -> Known:
    return Known(read_batch(cell.value), cell.revision)


def _key(batch: Batch) -> str:
    return f"batches.{batch.shelf}.{batch.id}"


def _due_key(batch_id: str) -> str:
    return f"open.{batch_id}"
