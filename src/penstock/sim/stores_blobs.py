"""MemoryStore: the Stores port in memory, with the semantics of the real one and faults on demand."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field

from penstock.kit.bus_names import check_message, check_prefix, check_subject, is_below
from penstock.kit.ports import BlobMissing, BusDown, Cell, Clock, Conflict, DiskFull

CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class _Kept:
    """Something with an end."""

    data: bytes
    revision: int
    until_ms: int


@dataclass(slots=True)
class MemoryStore:
    """`down` refuses every call; `bytes_max` bounds what blobs and journals hold together."""

    clock: Clock
    bytes_max: int = 1 << 30
    down: bool = False
    _cells: dict[str, _Kept] = field(default_factory=dict)
    _blobs: dict[str, _Kept] = field(default_factory=dict)
    _journals: dict[str, list[_Kept]] = field(default_factory=dict)
    _revision: int = 0

    @property
    def held_bytes(self) -> int:
        """What blobs and journals hold."""
        kept = [*self._blobs.values(), *(one for all_ in self._journals.values() for one in all_)]
        return sum(len(one.data) for one in kept if self._is_live(one))

    @property
    def names(self) -> list[str]:
        """Blobs and journals that are there (an at-rest check)."""
        live = [name for name, one in self._blobs.items() if self._is_live(one)]
        return sorted(live + list(self._journals))

    async def read(self, key: str) -> Cell | None:
        """The present value, or None. Raises BusDown."""
        check_subject(key)
        await self._reach()
        return self._cell(key)

    async def swap(self, key: str, value: bytes, *, revision: int, keep_ms: int) -> int:
        """Compare and set; an empty value removes. Raises Conflict, DiskFull, BusDown."""
        check_subject(key)
        check_message(value)
        await self._reach()
        present = self._cell(key)
        if revision != (0 if present is None else present.revision):
            raise Conflict(key)
        if value:
            self._cells[key] = self._kept(value, keep_ms)
            return self._revision
        self._cells.pop(key, None)
        self._revision += 1
        return self._revision

    async def under(self, prefix: str) -> list[Cell]:
        """All cells below `prefix`. Raises BusDown."""
        level = check_prefix(prefix)
        await self._reach()
        cells = [self._cell(key) for key in sorted(self._cells) if is_below(level, key)]
        return [cell for cell in cells if cell is not None]

    async def store(self, name: str, parts: AsyncIterator[bytes], *, keep_ms: int) -> int:
        """All parts, or nothing. Raises DiskFull, BusDown, and what `parts` raises."""
        await self._reach()
        whole = bytearray()
        async for part in parts:
            await self._reach()
            whole += part
            self._check_room(len(whole))
        self._blobs[name] = self._kept(bytes(whole), keep_ms)
        return len(whole)

    async def fetch(self, name: str) -> AsyncGenerator[bytes, None]:
        """The bytes in pieces. Raises BlobMissing, BusDown."""
        await self._reach()
        kept = self._blobs.get(name)
        if kept is None or not self._is_live(kept):
            raise BlobMissing(name)
        for at in range(0, len(kept.data), CHUNK_BYTES):
            await self._reach()
            if self._blobs.get(name) is not kept:
                raise BlobMissing(name)
            yield kept.data[at : at + CHUNK_BYTES]

    async def drop(self, name: str) -> None:
        """Remove the blob if it is there. Raises BusDown."""
        await self._reach()
        self._blobs.pop(name, None)

    async def append(self, name: str, entry: bytes, *, keep_ms: int) -> None:
        """Return once the entry is kept. Raises DiskFull, BusDown."""
        assert entry, "an entry is not empty"
        await self._reach()
        self._check_room(len(entry))
        self._journals.setdefault(name, []).append(self._kept(bytes(entry), keep_ms))

    async def replay(self, name: str) -> AsyncGenerator[bytes, None]:
        """The entries in their order. Raises BusDown."""
        place = 0
        while True:
            await self._reach()
            entries = self._journals.get(name, [])
            if place >= len(entries):
                return
            if self._is_live(entries[place]):
                yield entries[place].data
            place += 1

    async def forget(self, name: str) -> None:
        """Remove the journal if it is there. Raises BusDown."""
        await self._reach()
        self._journals.pop(name, None)

    async def _reach(self) -> None:
        """Every call takes a moment, in which others go on."""
        await asyncio.sleep(0.001)
        if self.down:
            raise BusDown("the store is down")

    def _kept(self, data: bytes, keep_ms: int) -> _Kept:
        self._revision += 1
        return _Kept(bytes(data), self._revision, self.clock.now_ms() + keep_ms)

    def _is_live(self, kept: _Kept) -> bool:
        return self.clock.now_ms() < kept.until_ms

    def _cell(self, key: str) -> Cell | None:
        kept = self._cells.get(key)
        if kept is None or not self._is_live(kept):
            return None
        return Cell(key, kept.data, kept.revision)

    def _check_room(self, more_bytes: int) -> None:
        if self.held_bytes + more_bytes > self.bytes_max:
            raise DiskFull("the store is full")
