"""The results of a batch on disk: one entry for all that came while the last entry was written.

A line counts as run only when its result is here, so that no gateway that takes over runs it again.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from penstock.gateway.batches import KEPT_MS, Batch, Counts, Usage
from penstock.gateway.batches_lines import Outcome, read_outcomes, spell_outcome
from penstock.kit.ports import BusDown, DiskFull, Journals
from penstock.kit.tasks import Backoff

ENTRY_BYTES_MAX = 1 << 20
"""Of several results together; one by itself may be longer."""
RETRY = Backoff(delay_ms_min=100, delay_ms_max=10_000)


class Journal:
    """What one batch has so far."""

    def __init__(self, store: Journals, batch: Batch) -> None:
        self._store = store
        self._name = f"batch/{batch.id}"
        self._waiting: list[bytes] = []
        self._lock = asyncio.Lock()
        self.lines: dict[int, bool] = {}
        """Lines that have ended, and whether they ended well."""
        self.usage = Usage()
        self.held_bytes = 0
        self.is_loaded = False

    @property
    def counts(self) -> tuple[int, int]:
        """(good, bad)."""
        good = sum(self.lines.values())
        return good, len(self.lines) - good

    def counted(self, total: int) -> Counts:
        good, bad = self.counts
        return Counts(completed=good, failed=bad, total=total)

    async def load(self) -> None:
        """Take in what former runners have left. Raises BusDown."""
        async with aclosing(self.outcomes()) as outcomes:
            async for outcome in outcomes:
                self._count(outcome)
        self.is_loaded = True

    async def outcomes(self) -> AsyncGenerator[Outcome, None]:
        """Each line's outcome once: the first that was stored counts. Raises BusDown."""
        seen: set[int] = set()
        entries: AsyncIterator[bytes] = self._store.replay(self._name)
        async for entry in entries:
            for outcome in read_outcomes(entry):
                if outcome.line not in seen:
                    seen.add(outcome.line)
                    yield outcome

    async def add(self, outcome: Outcome) -> None:
        """Return once it is on disk; while the store is away or full, try again and again."""
        spelled = spell_outcome(outcome)
        self._waiting.append(spelled)
        async with self._lock:
            while any(one is spelled for one in self._waiting):
                await self._write()
        self._count(outcome)

    async def forget(self) -> None:
        """The files are made. Raises BusDown."""
        await self._store.forget(self._name)

    async def _write(self) -> None:
        """One entry of what waits."""
        count = size = 0
        for one in self._waiting:
            if count and size + len(one) > ENTRY_BYTES_MAX:
                break
            count, size = count + 1, size + len(one) + 1
        entry = b"\n".join(self._waiting[:count])
        failures = 0
        while True:
            try:
                await self._store.append(self._name, entry, keep_ms=KEPT_MS)
                break
            except (BusDown, DiskFull):
                failures += 1
                await asyncio.sleep(RETRY.delay_ms(failures) / 1000)
        del self._waiting[:count]

    def _count(self, outcome: Outcome) -> None:
        if outcome.line not in self.lines:
            self.lines[outcome.line] = outcome.is_good
            self.usage = self.usage.plus(outcome.usage)
            self.held_bytes += len(outcome.result)
