"""One running copy of a chute on this machine: its engine, its state, and how much room is left."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from penstock.kit.engine import Engine
from penstock.spec.messages import ROOM_MAX, Manifest
from penstock.spec.pricing import is_within
from penstock.spec.units import Price

PRICES_MAX = 64


class State(Enum):
    """Where an instance is in its life."""

    STARTING = "starting"
    READY = "ready"
    DOWN = "down"
    """Its engine ended; it is started again after a wait."""
    DRAINING = "draining"


@dataclass(slots=True)
class Instance:
    """An instance. `auto`: placed by this miner itself, not by name.

    `foreign` is what others make a shared engine do; `why` tells the operator why it is not ready.
    """

    name: str
    chute: str
    manifest: Manifest
    auto: bool
    state: State = State.STARTING
    engine: Engine | None = None
    running: int = 0
    foreign: int = 0
    seq: int = 0
    why: str = ""
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    _idle: asyncio.Event = field(default_factory=asyncio.Event)
    _prices: deque[tuple[Price, int]] = field(default_factory=deque)

    @property
    def room(self) -> int:
        """How many more requests it takes now; 0 unless it is ready."""
        if self.state is not State.READY:
            return 0
        free = self.manifest.limits.parallel_max - self.running - self.foreign
        return min(max(free, 0), ROOM_MAX)

    def take(self) -> None:
        """A request comes in."""
        self.running += 1
        self._idle.clear()

    def give(self) -> None:
        """A request has ended."""
        assert self.running > 0, "a request ends once"
        self.running -= 1
        if not self.running:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Until no request runs; the caller sets the deadline."""
        if self.running:
            await self._idle.wait()

    def drain(self) -> None:
        """Take no more requests, for good."""
        self.state = State.DRAINING
        self.draining.set()

    def offered(self, price: Price, *, until_ms: int) -> None:
        """Remember a price for as long as the offer that names it may be used."""
        if self._prices and self._prices[-1][0] == price:
            self._prices.pop()
        elif len(self._prices) == PRICES_MAX:
            self._prices.popleft()
        self._prices.append((price, until_ms))

    def has_offered(self, price: Price, *, now_ms: int) -> bool:
        """Does the order pay at least what some offer asked that is or just was in force?"""
        return any(now_ms <= until and is_within(asked, price) for asked, until in self._prices)
