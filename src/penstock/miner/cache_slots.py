"""Whose prompt is in which slot of an engine with slots, so that no payer sees another's prefix.

llama.cpp keeps in each slot the prompt that it worked on last, and is quicker at a request that begins
alike. How quick an answer begins would tell a payer what others asked. So the miner chooses the slot
of each request itself, and lets what is cached there be used only by the payer who left it.

A request of several choices spreads over slots that llama.cpp chooses: it waits until no request that
counts on its slot is still on its way there, and while it runs and after it nobody counts on any slot.
"""

import asyncio
from dataclasses import dataclass, field

NOBODY = ""
"""The owner of a slot of which it is not known whose prompt is in it."""


@dataclass(eq=False, slots=True)
class Seat:
    """One request's slot. `may_reuse`: what is cached there is its own payer's."""

    slot: int
    payer: str
    may_reuse: bool
    is_spread: bool
    is_begun: bool = False
    is_doubtful: bool = False
    awaited: tuple["Seat", ...] = ()

    def placed(self, body: bytes) -> bytes:
        """A request's body, a JSON object without these fields, with its place in the engine."""
        assert body.endswith(b"}"), "an object"
        reuse = b"true" if self.may_reuse else b"false"
        comma = b"," if body[:-1].strip() != b"{" else b""
        return b'%b%b"id_slot":%d,"cache_prompt":%b}' % (body[:-1], comma, self.slot, reuse)


@dataclass(slots=True)
class CacheSlots:
    """The slots of one engine. `slots_max`: how many it has; the miner takes no more requests."""

    slots_max: int
    _owners: dict[int, str] = field(default_factory=dict)
    """By slot, the one that was used last at the end."""
    _taken: dict[int, list[Seat]] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, payer: str, *, choices: int = 1, forgoes: bool = False) -> Seat:
        """A slot for a request: where its payer was last, or else where nothing was for longest.

        forgoes: the client wants nothing from the cache.
        """
        is_spread = choices > 1
        seats = [seat for taken in self._taken.values() for seat in taken]
        slot, is_own = self._choose(payer)
        is_shared = is_spread or any(seat.is_spread for seat in seats) or slot in self._taken
        seat = Seat(
            slot=slot,
            payer=payer,
            may_reuse=is_own and not is_shared and not forgoes,
            is_spread=is_spread,
            is_doubtful=is_shared,
        )
        if is_spread:
            seat.awaited = tuple(one for one in seats if one.may_reuse and not one.is_begun)
            for one in seats:
                one.is_doubtful = True
            self._owners.clear()
        self._owners.pop(slot, None)
        self._taken.setdefault(slot, []).append(seat)
        return seat

    def begun(self, seat: Seat) -> None:
        """The engine answers: it has found what it could in the cache."""
        seat.is_begun = True
        self._announce()

    def give(self, seat: Seat, *, is_written: bool) -> None:
        """The request has ended. is_written: its own prompt was worked on, so it is in the slot now."""
        seat.is_begun = True
        self._taken[seat.slot].remove(seat)
        if not self._taken[seat.slot]:
            del self._taken[seat.slot]
        if seat.is_spread:
            self._owners.clear()
        elif is_written and not seat.is_doubtful:
            self._owners[seat.slot] = seat.payer
        self._announce()

    async def until_safe(self, seat: Seat) -> None:
        """Until the request may be sent; the caller sets the deadline."""
        while not all(one.is_begun for one in seat.awaited):
            await self._changed.wait()

    def _choose(self, payer: str) -> tuple[int, bool]:
        """(a slot, is the payer's own prompt in it)."""
        own = [slot for slot, owner in self._owners.items() if owner == payer]
        if own and payer != NOBODY:
            return own[-1], True
        free = [slot for slot in range(self.slots_max) if slot not in self._taken]
        unowned = [slot for slot in free if slot not in self._owners]
        if unowned:
            return unowned[0], False
        if self._owners:
            return next(iter(self._owners)), False
        return min(self._taken, key=lambda slot: len(self._taken[slot]), default=0), False

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
