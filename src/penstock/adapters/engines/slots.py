"""An engine's own queue: so many requests at once, and a bounded number that waits for its turn."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from penstock.kit.wire.problem import Refusal, problem


class Slots:
    """First come, first served."""

    def __init__(self, *, slots_max: int, queue_max: int) -> None:
        self.running = 0
        self.waiting = 0
        self._queue_max = queue_max
        self._free = asyncio.Semaphore(slots_max)

    async def take(self) -> None:
        """Raises Refusal (429) when the queue is full."""
        if self._free.locked() and self.waiting >= self._queue_max:
            message = "All slots and the queue are taken. Try again soon."
            raise Refusal(problem(429, "engine_full", message))
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self.running += 1

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """A slot for as long as the context is open. Raises Refusal (429)."""
        await self.take()
        try:
            yield
        finally:
            self.give()

    def give(self) -> None:
        self.running -= 1
        self._free.release()
