"""Looks after the tasks that engines run as: says that the agent is alive, and ends what is nobody's.

Tasks outlive agents, so a crash between two steps may leave one that no instance of the journal stands
for. It is ended here, when the journal has been read.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from penstock.kit.log import events
from penstock.kit.runtime import BEAT_EVERY_MS, Runtime, RuntimeDown, TaskFailed

STOP_MS = 10_000
LIST_MS = 30_000

_log = events("miner")


@dataclass(slots=True)
class Caretaker:
    """Of one runtime. `is_known` says whether a task's name is that of an instance here."""

    runtime: Runtime
    is_known: Callable[[str], bool]
    why: str = ""
    """What is wrong with the runtime, "" when nothing is."""

    async def run(self) -> None:
        """Every 20 s, for ever."""
        while True:
            try:
                async with asyncio.timeout(LIST_MS / 1000):
                    await self.look()
            except (RuntimeDown, TaskFailed, TimeoutError) as error:
                self.why = f"the runtime {self.runtime.kind} does not answer: {error}"
            else:
                self.why = ""
            await asyncio.sleep(BEAT_EVERY_MS / 1000)

    async def look(self) -> None:
        """Beat once, and end strays. Raises TaskFailed, RuntimeDown."""
        await self.runtime.beat()
        for task in await self.runtime.list():
            if not self.is_known(task.name):
                _log.warning("task.stray", task=task.name)
                await self.runtime.stop(task.name, deadline_ms=STOP_MS)
