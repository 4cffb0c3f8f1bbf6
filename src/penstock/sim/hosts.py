"""A machine of the simulation: it runs one station, is killed, and starts again."""

import asyncio
from collections.abc import Awaitable, Callable

from penstock.kit.tasks import Errands
from penstock.sim.lives import Life
from penstock.sim.net import MemoryNetwork

Main = Callable[[Life], Awaitable[None]]
"""What the machine runs: ready when it has set `life.ready`, over when it returns."""

READY_S = 120
"""Servers of one operator wait for each other; this is longer than any outage we play."""
DEAD_S = 30
STOP_S = 60


class Host:
    """A named machine. `main` must end soon after it is cancelled, whatever it was doing."""

    def __init__(self, name: str, main: Main, *, network: MemoryNetwork, errands: Errands) -> None:
        self.name = name
        self.life = Life(host=name, number=0, is_over=True)
        self._main = main
        self._network = network
        self._errands = errands
        self._task: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        """Running, ready or not."""
        return not self.life.is_over

    def start(self) -> Life:
        """Power on; returns at once."""
        assert not self.is_up, "a machine that runs is not started"
        self._network.restart(self.name)
        self.life = Life(host=self.name, number=self.life.number + 1)
        self._task = self._errands.start(self.name, self._run(self.life))
        return self.life

    async def wait_ready(self) -> None:
        """Until the present life serves. Raises TimeoutError."""
        async with asyncio.timeout(READY_S):
            await self.life.ready.wait()

    async def kill(self) -> None:
        """Pull the plug: from this instant nothing that it does reaches the world."""
        assert self._task is not None, "only what runs can be killed"
        self.life.is_over = self.life.was_killed = True
        self._network.kill(self.name)
        self._task.cancel()
        await asyncio.wait([self._task], timeout=DEAD_S)
        assert self._task.done(), f"{self.name} runs on after its death"

    async def stop(self) -> bool:
        """Ask it to end in order; whether it did in time."""
        assert self._task is not None, "only what runs can be stopped"
        self.life.stop.set()
        await asyncio.wait([self._task], timeout=STOP_S)
        self.life.is_over = True
        return self._task.done()

    async def _run(self, life: Life) -> None:
        await self._main(life)
        # A station that ends by itself is as dead as a killed one.
        assert life.stop.is_set(), f"{self.name} ended though nobody asked it to"
