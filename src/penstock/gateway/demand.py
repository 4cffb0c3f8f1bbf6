"""What callers ask of each chute: counters that only grow, put on the board for the market to read."""

import asyncio
from dataclasses import dataclass

import msgspec

from penstock.kit.ports import Board, BusDown

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Asked:
    """One chute since this gateway started. `refused` requests found no room; both are in
    `requests`. `busy_us` is the time of all answers.
    """

    requests: int = 0
    refused: int = 0
    busy_us: int = 0


class Demand:
    """All counters of this gateway, and the loop that shows them. Bounded by the directory."""

    def __init__(self, *, board: Board, name: str) -> None:
        self._board = board
        self._name = name
        self._asked: dict[str, Asked] = {}
        self._changed: dict[str, None] = {}

    def requested(self, chute: str) -> None:
        """A request for this chute was let in."""
        self._of(chute).requests += 1

    def refused(self, chute: str) -> None:
        """No instance had room for it."""
        self._of(chute).refused += 1

    def asked(self, chute: str) -> int:
        """How many requests there were for this chute so far."""
        known = self._asked.get(chute)
        return 0 if known is None else known.requests

    def busy(self, chute: str, us: int) -> None:
        """An instance of this chute was at work for so long."""
        self._of(chute).busy_us += us

    async def show(self, *, beat_ms: int) -> None:
        """For ever: put what has changed on the board, about once a beat."""
        while True:
            await asyncio.sleep(beat_ms / 1000)
            await self.put_changes()

    async def put_changes(self) -> None:
        """One round. Counters only grow, so what the bus did not take goes with the next."""
        for chute in list(self._changed):
            asked = self._asked[chute]
            del self._changed[chute]
            value = _encode(
                {
                    "chute": chute,
                    "requests": asked.requests,
                    "refused": asked.refused,
                    "busy_us": asked.busy_us,
                }
            )
            key = f"demand.{self._name}.{chute.removeprefix('sha256:')}"
            try:
                await self._board.put(key, value)
            except BusDown:
                self._changed[chute] = None
                return

    def _of(self, chute: str) -> Asked:
        self._changed[chute] = None
        asked = self._asked.get(chute)
        if asked is None:
            asked = self._asked[chute] = Asked()
        return asked
