"""A runtime without processes: tasks are coroutines on one loop, which outlive the agent that launched them.

`FakeMachine` is what stays when an agent dies; `FakeRuntime` is one agent's view of it. Time is the
loop's, so that orphans cost nothing in the simulator. Passes the contract tests of every real runtime.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from penstock.kit.ports import Clock
from penstock.kit.runtime import (
    ORPHAN_MS,
    Ending,
    Running,
    Task,
    TaskFailed,
    check_task,
    task_content,
)
from penstock.kit.tasks import Errands, Scope

LOG_CHARS_MAX = 1 << 16
TAIL_CHARS_MAX = 4096
KILLED = -9
LOOK_EVERY_MS = 1_000


RUNS = Ending(None, "it runs", "")


@dataclass(slots=True)
class Stage:
    """What a program has: its task, where it serves, a log, and the wish that it ends.

    Set `address` (or `error`, to say that it will not serve) and then `has_spoken`.
    """

    task: Task
    address: str = ""
    error: str = ""
    has_spoken: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    log: str = ""

    def say(self, line: str) -> None:
        self.log = f"{self.log}{line}\n"[-LOG_CHARS_MAX:]

    def announce(self, address: str = "", *, error: str = "") -> None:
        self.address, self.error = address, error
        self.has_spoken.set()


Program = Callable[[Stage], Awaitable[int]]
"""Runs until it returns its exit status."""


@dataclass(slots=True)
class Life:
    """One task on the machine, also for a while after it ended."""

    running: Running
    stage: Stage
    killed: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    ending: Ending = RUNS
    reason: str = ""


class FakeMachine:
    """programs: by the first word of a task's argv. port: where addresses count from."""

    def __init__(
        self, programs: Mapping[str, Program], *, clock: Clock, orphan_ms: int = ORPHAN_MS
    ) -> None:
        self.programs = programs
        self.clock = clock
        self.orphan_ms = orphan_ms
        self.beat_ms = clock.mono_us() // 1000
        self.lives: dict[str, Life] = {}
        self._errands = Errands()
        self._ports = 40_000

    def free_address(self) -> str:
        self._ports += 1
        return f"http://127.0.0.1:{self._ports}"

    def start(self, task: Task, program: Program) -> Life:
        running = Running(task.name, task_content(task), "", self.clock.now_ms())
        life = self.lives[task.name] = Life(running, Stage(task))
        if not task.announces:
            life.stage.announce(self.free_address())
        self._errands.start(task.name, self._live(life, program))
        return life

    async def close(self) -> None:
        await self._errands.close(deadline_ms=1_000)

    async def _live(self, life: Life, program: Program) -> None:
        status = KILLED
        async with Scope() as scope:
            work = scope.start("program", _status(program, life.stage))
            killed = scope.start("killed", _flag(life.killed))
            while not work.done() and not killed.done():
                await asyncio.wait(
                    (work, killed),
                    timeout=LOOK_EVERY_MS / 1000,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if self.clock.mono_us() // 1000 - self.beat_ms > self.orphan_ms:
                    life.reason = life.reason or "no agent has asked for it any more"
                    life.killed.set()
            if work.done():
                status = work.result()
            scope.cancel()
        reason = life.reason or f"it ended with status {status}"
        life.ending = Ending(status, reason, life.stage.log[-TAIL_CHARS_MAX:])
        life.stage.has_spoken.set()
        life.ended.set()


async def _status(program: Program, stage: Stage) -> int:
    return await program(stage)


async def _flag(event: asyncio.Event) -> None:
    await event.wait()


class FakeRuntime:
    """Implements `kit.runtime.Runtime`."""

    def __init__(self, machine: FakeMachine) -> None:
        self._machine = machine
        self._turns: dict[str, asyncio.Lock] = {}
        machine.beat_ms = machine.clock.mono_us() // 1000

    @property
    def kind(self) -> str:
        return "fake"

    async def launch(self, task: Task, *, deadline_ms: int) -> Running:
        check_task(task)
        async with self._turns.setdefault(task.name, asyncio.Lock()):
            life = self._live(task.name)
            if life is not None and life.running.content != task_content(task):
                await self._end(life, deadline_ms=task.stop_ms)
                life = None
            if life is None:
                program = self._machine.programs.get(task.argv[0])
                if program is None:
                    raise TaskFailed(name=task.name, reason=f"no program {task.argv[0]!r}.")
                life = self._machine.start(task, program)
            return await self._serving(life, deadline_ms)

    async def list(self) -> tuple[Running, ...]:
        lives = (life for life in self._machine.lives.values() if not life.ended.is_set())
        return tuple(sorted((life.running for life in lives), key=lambda one: one.name))

    async def beat(self) -> None:
        self._machine.beat_ms = self._machine.clock.mono_us() // 1000

    async def wait(self, name: str) -> Ending:
        life = self._machine.lives.get(name)
        if life is None:
            return Ending(None, "there is no such task.", "")
        await life.ended.wait()
        return life.ending

    async def logs(self, name: str, *, bytes_max: int) -> str:
        life = self._machine.lives.get(name)
        return "" if life is None else life.stage.log[-bytes_max:]

    async def stop(self, name: str, *, deadline_ms: int) -> None:
        life = self._live(name)
        if life is not None:
            await self._end(life, deadline_ms=deadline_ms)

    def _live(self, name: str) -> Life | None:
        life = self._machine.lives.get(name)
        return None if life is None or life.ended.is_set() else life

    async def _serving(self, life: Life, deadline_ms: int) -> Running:
        is_serving = False
        reason = ""
        try:
            async with asyncio.timeout(deadline_ms / 1000):
                await life.stage.has_spoken.wait()
            is_serving = bool(life.stage.address)
            reason = life.stage.error or life.ending.reason
        except TimeoutError:
            reason = f"no address after {deadline_ms} ms"
        finally:
            if not is_serving:
                life.killed.set()
        if not is_serving:
            await life.ended.wait()
            raise TaskFailed(name=life.running.name, reason=f"{reason}.", log_tail=life.stage.log)
        told = life.running
        life.running = Running(told.name, told.content, life.stage.address, told.started_ms)
        return life.running

    async def _end(self, life: Life, *, deadline_ms: int) -> None:
        life.reason = life.reason or "it was stopped"
        life.stage.stopping.set()
        try:
            async with asyncio.timeout(min(deadline_ms, life.stage.task.stop_ms) / 1000):
                await life.ended.wait()
        except TimeoutError:
            life.killed.set()
            await life.ended.wait()
