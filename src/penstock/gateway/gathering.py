"""Streams that are faster than anybody reads rest for a moment between two reads.

A read, a write and what stands around them cost the same for one event as for fifty. So a stream that
brings more than an event a millisecond is read again at the next tick, all such streams at the same
one. What arrives meanwhile waits in the kernel, and goes on in one piece. A stream of tokens at human
speed, or at fifty times that, is never held back.
"""

import asyncio
from typing import Protocol

US_PER_EVENT = 1_000
"""Faster than one event in so long is fast."""


class Gathered(Protocol):
    """Something that can be read again."""

    def read_on(self) -> None:
        """The rest is over."""
        ...


class Gathering:
    """All that rest now, and the tick that ends it: at most `gather_ms` after it was begun. 0: nobody
    ever rests.
    """

    __slots__ = ("_resting", "_timer", "gather_ms")

    def __init__(self, gather_ms: int) -> None:
        self.gather_ms = gather_ms
        self._resting: list[Gathered] = []
        self._timer: asyncio.TimerHandle | None = None

    def is_fast(self, events: int, elapsed_us: int) -> bool:
        """Is a stream that brought so many events in this time to rest?"""
        return elapsed_us < events * US_PER_EVENT and self.gather_ms > 0

    def rest(self, one: Gathered) -> None:
        """Call its `read_on` at the next tick."""
        self._resting.append(one)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self.gather_ms / 1000, self._tick)

    def _tick(self) -> None:
        self._timer = None
        resting, self._resting = self._resting, []
        for one in resting:
            one.read_on()
