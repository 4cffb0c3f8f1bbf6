"""The supervisor: starts the processes of a market, restarts those that die, ends all it started.

A process is `starting` until its check says yes, then `ready`; when it ends by itself it is
`restarting` after a short, growing wait. The order of starts is the order of levels: a level
begins when the one before it is ready.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from penstock.adapters.child_process import ChildProcess, Command
from penstock.adapters.errors import (
    ChildExited,
    FolderInUse,
    FolderUnsafe,
    NotReady,
    ProgramFailed,
    ProgramMissing,
)
from penstock.kit.log import events
from penstock.kit.ports import Clock
from penstock.kit.tasks import Backoff, Scope

READY_DEADLINE_MS = 60_000
STOP_DEADLINE_MS = 20_000
START_ERRORS = (
    ChildExited,
    NotReady,
    ProgramMissing,
    ProgramFailed,
    FolderUnsafe,
    FolderInUse,
    OSError,
)
"""What a start may fail with; each says in words what to do."""

_log = events("supervisor")


@dataclass
class Process:
    """One supervised process. `prepare` runs before each start; `is_ready` is asked until it is.

    Processes start by rising `level` and end by falling `stop_order`.
    """

    name: str
    level: int
    command: Callable[[], Command]
    is_ready: Callable[[], Awaitable[bool]]
    prepare: Callable[[], Awaitable[None]] | None = None
    stop_order: int = 0
    state: str = "waiting"
    restarts: int = 0
    child: ChildProcess | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def pid(self) -> int | None:
        return None if self.child is None or self.child.status is not None else self.child.pid

    def row(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "pid": self.pid,
            "state": self.state,
            "restarts": self.restarts,
        }


class FirstStartFailed(Exception):
    """A process did not become ready the first time: the market cannot come up."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason


@dataclass
class Supervisor:
    """Runs `processes` until `stop` is set; tells every change through `on_change`."""

    processes: list[Process]
    on_change: Callable[[], None]
    clock: Clock
    backoff: Backoff = field(
        default_factory=lambda: Backoff(delay_ms_min=200, delay_ms_max=5_000, steady_ms=30_000)
    )
    stop_deadline_ms: int = STOP_DEADLINE_MS
    stopping: bool = False

    async def start(self, scope: Scope) -> None:
        """Start level after level; returns when all are ready. Raises FirstStartFailed."""
        for level in sorted({process.level for process in self.processes}):
            members = [process for process in self.processes if process.level == level]
            async with asyncio.TaskGroup() as group:
                for process in members:
                    group.create_task(self._first_start(process))
            for process in members:
                scope.start(f"watch {process.name}", self._watch(process))

    async def stop(self) -> None:
        """End everything by falling stop order; a process that does not end in time is killed."""
        self.stopping = True
        for order in sorted({process.stop_order for process in self.processes}, reverse=True):
            members = [process for process in self.processes if process.stop_order == order]
            async with asyncio.TaskGroup() as group:
                for process in members:
                    group.create_task(self._end(process))

    def _set(self, process: Process, state: str) -> None:
        process.state = state
        if state == "ready":
            process.ready.set()
        else:
            process.ready.clear()
        self.on_change()

    async def _first_start(self, process: Process) -> None:
        try:
            await self._start(process)
        except START_ERRORS as error:
            self._set(process, "failed")
            raise FirstStartFailed(process.name, str(error)) from error

    async def _start(self, process: Process) -> None:
        self._set(process, "starting")
        if process.prepare is not None:
            await process.prepare()
        if self.stopping:
            return
        process.child = await ChildProcess.start(process.command())
        self.on_change()
        await process.child.wait_ready(process.is_ready, deadline_ms=READY_DEADLINE_MS)
        self._set(process, "ready")

    async def _watch(self, process: Process) -> None:
        """Wait for the end of the process and start it again, for ever."""
        crashes = 0
        while process.child is not None:
            began_us = self.clock.mono_us()
            status = await process.child.wait()
            # Whatever the process started in its group must not outlive it.
            await process.child.kill()
            if self.stopping:
                return
            steady = self.clock.mono_us() - began_us >= self.backoff.steady_ms * 1000
            crashes = 1 if steady else crashes + 1
            process.restarts += 1
            _log.warning("process.ended", name=process.name, status=status, crashes=crashes)
            self._set(process, "restarting")
            await asyncio.sleep(self.backoff.delay_ms(crashes) / 1000)
            if self.stopping:
                return
            await self._restart(process)

    async def _restart(self, process: Process) -> None:
        try:
            await self._start(process)
        except START_ERRORS as error:
            _log.error("process.start_failed", name=process.name, reason=str(error))
            if process.child is not None:
                await process.child.kill()
            self._set(process, "restarting")

    async def _end(self, process: Process) -> None:
        if process.child is not None and process.child.status is None:
            self._set(process, "stopping")
            await process.child.terminate(deadline_ms=self.stop_deadline_ms)
        self._set(process, "stopped")
