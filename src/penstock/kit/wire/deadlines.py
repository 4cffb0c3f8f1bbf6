"""Deadlines of many connections on one timer, to a tenth of a second.

A timer of its own for each of ten thousand idle connections would cost more memory than the rest
of the connection. Here those that end in the same tenth of a second share a slot, and one timer
waits for the first slot. A deadline that moves later costs nothing until its old slot comes up.
"""

import asyncio
from typing import Protocol

_SLOTS_PER_S = 10


class Timed(Protocol):
    """Something with a deadline."""

    deadline_slot: int  # kept by `Deadlines`; -1 while it is in none

    def look(self) -> None:
        """The slot has come: the deadline may have passed, or moved, or gone."""
        ...


class Deadlines:
    """Calls `look` of whatever is watched, at its time or up to a tenth of a second later."""

    def __init__(self) -> None:
        self._slots: dict[int, dict[Timed, None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_slot = 0
        self._loop: asyncio.AbstractEventLoop | None = None  # a server is made before its loop runs

    @property
    def slots(self) -> int:
        """How many tenths of a second something is watched for."""
        return len(self._slots)

    def now(self) -> float:
        """The loop's time."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        return loop.time()

    def watch(self, one: Timed, at: float) -> None:
        """Look at `one` at the time `at` (by `now`), or before."""
        slot = int(at * _SLOTS_PER_S) + 1
        present = one.deadline_slot
        if present >= 0:
            if present <= slot:
                return
            self.drop(one)
        one.deadline_slot = slot
        members = self._slots.get(slot)
        if members is None:
            self._slots[slot] = {one: None}
            if self._timer is None or slot < self._timer_slot:
                self._set(slot)
        else:
            members[one] = None

    def drop(self, one: Timed) -> None:
        """Forget `one`."""
        slot = one.deadline_slot
        if slot < 0:
            return
        one.deadline_slot = -1
        members = self._slots.get(slot)
        if members is not None:
            members.pop(one, None)
            if not members:
                del self._slots[slot]
        if not self._slots and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, slot: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_slot = slot
        assert self._loop is not None, "who watches has asked for the time"
        self._timer = self._loop.call_at(slot / _SLOTS_PER_S, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self.now()
        due = [slot for slot in self._slots if slot / _SLOTS_PER_S <= now]
        for slot in sorted(due or [self._timer_slot]):  # a loop's clock may round down
            for one in self._slots.pop(slot, {}):
                if one.deadline_slot == slot:  # else one that was looked at before dropped it
                    one.deadline_slot = -1
                    one.look()
        if self._slots:
            first = min(self._slots)
            # A look may have set the timer, for something that is due later than the rest.
            if self._timer is None or first < self._timer_slot:
                self._set(first)
