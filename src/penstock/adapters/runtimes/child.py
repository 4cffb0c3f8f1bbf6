"""The runtime `child`: engines as children of this process, which end with it, however it ends.

For tests, for trying things out, and for systems without what the runtime `process` needs. There is no
sandbox, and nothing is left for the next agent to take over.
"""

import asyncio
import itertools
import os
import socket
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from pathlib import Path

from penstock.adapters.child_process import ChildProcess, Command
from penstock.adapters.errors import ChildExited, NotReady, ProgramMissing
from penstock.adapters.runtimes.announcement import Announcement, announced
from penstock.kit.ports import Clock
from penstock.kit.runtime import Ending, Running, Task, TaskFailed, check_task, task_content

LOG_BYTES_MAX = 16 << 20
ENDED_MAX = 64
LOOPBACK = "127.0.0.1"
STOPPED = "it was stopped"

_serial = itertools.count(1)  # two runtimes of one process must not share a log file


@dataclass(slots=True)
class Life:
    """One task, also for a while after it ended."""

    running: Running
    child: ChildProcess
    stop_ms: int
    reason: str = ""

    @property
    def is_over(self) -> bool:
        return self.child.status is not None


class ChildRuntime:
    """Implements `kit.runtime.Runtime`, but for what outlives the agent. home: a folder for logs."""

    def __init__(self, home: Path, *, clock: Clock) -> None:
        self._logs = home / "logs"
        self._clock = clock
        self._lives: OrderedDict[str, Life] = OrderedDict()
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @property
    def kind(self) -> str:
        return "child"

    async def launch(self, task: Task, *, deadline_ms: int) -> Running:
        check_task(task)
        content = task_content(task)
        async with self._turns[task.name]:
            life = self._lives.get(task.name)
            if life is not None and not life.is_over:
                if life.running.content == content:
                    return life.running
                await self._end(life, deadline_ms=task.stop_ms)
            return await self._start(task, content, deadline_ms)

    async def list(self) -> tuple[Running, ...]:
        lives = (life.running for life in self._lives.values() if not life.is_over)
        return tuple(sorted(lives, key=lambda one: one.name))

    async def beat(self) -> None:
        """Children need none: they end with us."""

    async def wait(self, name: str) -> Ending:
        life = self._lives.get(name)
        if life is None:
            return Ending(None, "there is no such task.", "")
        status = await life.child.wait()
        reason = life.reason or f"it ended with status {status}"
        return Ending(status, reason, self._tail(life))

    async def logs(self, name: str, *, bytes_max: int) -> str:
        life = self._lives.get(name)
        if life is None or not bytes_max:
            return ""
        return self._tail(life).encode()[-bytes_max:].decode(errors="replace")

    async def stop(self, name: str, *, deadline_ms: int) -> None:
        life = self._lives.get(name)
        if life is not None and not life.is_over:
            async with self._turns[name]:
                await self._end(life, deadline_ms=min(deadline_ms, life.stop_ms))

    async def close(self) -> None:
        """End all of them, and forget their logs."""
        for name in list(self._lives):
            await self.stop(name, deadline_ms=0)
        for life in self._lives.values():
            life.child.command.log.unlink(missing_ok=True)
        self._lives.clear()

    async def _start(self, task: Task, content: str, deadline_ms: int) -> Running:
        port = 0 if task.announces else free_port()
        try:
            child = await ChildProcess.start(self._command(task, port))
        except (ProgramMissing, OSError) as error:
            raise TaskFailed(name=task.name, reason=f"{error}.") from error
        address = "" if task.announces else f"http://{LOOPBACK}:{port}"
        running = Running(task.name, content, address, self._clock.now_ms())
        life = Life(running, child, task.stop_ms)
        self._remember(life)
        is_told = False
        try:
            if task.announces:
                said = await self._announced(life, deadline_ms)
                address = f"http://{LOOPBACK}:{said.port}"
            is_told = True
        finally:
            if not is_told:
                await child.kill()
        life.running = Running(task.name, content, address, running.started_ms)
        return life.running

    async def _announced(self, life: Life, deadline_ms: int) -> Announcement:
        """What it says of its port. Raises TaskFailed."""
        name, why = life.running.name, ""

        async def has_spoken() -> bool:
            return announced(life.child.log_tail().encode()) is not None

        try:
            await life.child.wait_ready(has_spoken, deadline_ms=deadline_ms)
        except NotReady:
            why = f"no address after {deadline_ms} ms"
        except ChildExited as error:
            why = f"it ended with status {error.status}"
        said = announced(life.child.log_tail().encode())
        if said is None or said.error:
            why = said.error if said is not None else why
            raise TaskFailed(name=name, reason=f"{why}.", log_tail=self._tail(life))
        return said

    def _command(self, task: Task, port: int) -> Command:
        return Command(
            argv=tuple(word.replace("{port}", str(port)) for word in task.argv),
            env=task.env,
            cwd=Path("/"),
            log=self._logs / f"{task.name}-{os.getpid()}-{next(_serial)}.log",
            log_bytes_max=LOG_BYTES_MAX,
            stdin=task.stdin or None,
        )

    def _remember(self, life: Life) -> None:
        """And forget the oldest of those that ended beyond the bound."""
        before = self._lives.pop(life.running.name, None)
        self._lives[life.running.name] = life
        ended = [one for one in self._lives.values() if one.is_over]
        for old in (*((before,) if before else ()), *ended[: max(len(ended) - ENDED_MAX, 0)]):
            old.child.command.log.unlink(missing_ok=True)
            if old is not before:
                del self._lives[old.running.name]

    async def _end(self, life: Life, *, deadline_ms: int) -> None:
        life.reason = life.reason or STOPPED
        await life.child.terminate(deadline_ms=deadline_ms)

    def _tail(self, life: Life) -> str:
        try:
            return life.child.log_tail()
        except FileNotFoundError:
            return ""


def free_port() -> int:
    """One that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
