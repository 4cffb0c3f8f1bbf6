"""One running copy of a chute on this machine: its engine, its state, and how much room is left."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from penstock.kit.engine import Engine, EngineStats
from penstock.miner.budget import Share
from penstock.miner.cache_slots import CacheSlots
from penstock.spec.life import State
from penstock.spec.messages import ROOM_MAX, Manifest
from penstock.spec.pricing import is_within
from penstock.spec.units import Price

__all__ = ["Instance", "Launch", "State", "Wish"]

PRICES_MAX = 64
CACHE_FULL_PPM = 900_000
LOST_MAX = 4
"""After so many orders in a row that its engine lost, an instance takes one at a time."""


class Wish(Enum):
    """What its miner wants of an instance."""

    SERVE = "serve"
    SLEEP = "sleep"
    """Its memory is needed: no new requests, running ones end, then its engine sleeps."""
    LEAVE = "leave"
    """No new requests, running ones end, then its engine stops: for good."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What an engine is built for. Its task bears the instance's name, so that a later life of the
    agent finds it running. `cards` are uuids, none for an engine on the processor.
    """

    instance: str
    manifest: Manifest
    cards: tuple[str, ...]
    card_ppm: int
    """How much of each card's memory is its own."""
    memory_bytes: int
    """Of the machine's, for an engine on the processor; 0 where that is not bounded."""


@dataclass(slots=True)
class Instance:
    """An instance. `auto`: placed by this miner itself, not by name.

    `foreign` is what others make a shared engine do; `why` tells the operator why it is not serving,
    `refused` why the market does not take its offer.
    """

    name: str
    chute: str
    manifest: Manifest
    auto: bool
    share: Share = field(default_factory=lambda: Share((), 0))
    card_ppm: int = 0
    hardware: str = ""
    device: str = ""
    """What its offers say of the slots that it really uses."""
    state: State = State.PLACED
    engine: Engine | None = None
    stats: EngineStats | None = None
    """What its engine said at the last look."""
    running: int = 0
    foreign: int = 0
    seq: int = 0
    why: str = ""
    refused: str = ""
    failures: int = 0
    """In a row."""
    lost: int = 0
    """Orders in a row that its engine lost."""
    lost_why: str = ""
    is_closing: bool = False
    """The agent ends. That is no end of the instance: the next life goes on with it."""
    wish: Wish = Wish.SERVE
    called: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the wish has changed."""
    _idle: asyncio.Event = field(default_factory=asyncio.Event)
    _seats: CacheSlots | None = None
    _prices: deque[tuple[Price, int]] = field(default_factory=deque)

    @property
    def is_open(self) -> bool:
        """May it be offered?"""
        return self.state is State.SERVING and self.wish is Wish.SERVE and not self.is_closing

    @property
    def room(self) -> int:
        """How many more requests it takes now; 0 unless it is open."""
        if not self.is_open:
            return 0
        if self.is_choked:
            return 0
        free = self.manifest.limits.parallel_max - self.running - self.foreign
        if self.lost >= LOST_MAX:
            free = min(free, 1 - self.running)
        return min(max(free, 0), ROOM_MAX)

    @property
    def is_choked(self) -> bool:
        """Requests wait in the engine because its cache is full: more of them would only wait too."""
        stats = self.stats
        return stats is not None and stats.waiting > 0 and stats.kv_used_ppm >= CACHE_FULL_PPM

    @property
    def trouble(self) -> str:
        """What is wrong with an engine that runs; "" while it answers."""
        return f"its engine lost {self.lost} orders in a row: {self.lost_why}" if self.lost else ""

    @property
    def launch(self) -> Launch:
        """What its engine is built for."""
        cards = self.share.cards
        memory_bytes = 0 if cards else self.share.bytes_each
        return Launch(self.name, self.manifest, cards, self.card_ppm, memory_bytes)

    @property
    def idle_first(self) -> tuple[int, str]:
        """Sorts instances by how little is lost when they go."""
        return self.running, self.name

    @property
    def seats(self) -> CacheSlots:
        """Whose prompts are in the slots of its engine, if that has slots."""
        if self._seats is None:
            self._seats = CacheSlots(self.manifest.limits.parallel_max)
        return self._seats

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

    def answered(self) -> None:
        """Its engine has done an order."""
        self.lost = 0

    def failed(self, why: str) -> None:
        """Its engine has lost an order."""
        self.lost += 1
        self.lost_why = why

    async def wait_idle(self) -> None:
        """Until no request runs; the caller sets the deadline."""
        if self.running:
            await self._idle.wait()

    def call(self, wish: Wish) -> None:
        """Tell it what is wanted of it. Who is to leave is not called back."""
        if self.wish is not Wish.LEAVE and self.wish is not wish:
            self.wish = wish
            self.called.set()

    def looked(self, stats: EngineStats) -> None:
        """What the engine says of itself. What we did not send counts against our room."""
        self.stats = stats
        self.foreign = max(stats.running + stats.waiting - self.running, 0)

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
