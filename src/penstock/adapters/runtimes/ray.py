"""The runtime `ray`: engines of one or several nodes as groups in a Ray cluster.

A group is a placement group with one bundle on each node and one actor (rank) in each bundle, held by a
named actor that outlives the agent (ray_group.py); a rank runs its program under the process runtime of
its node (ray_rank.py). This side speaks with the cluster through a child process (ray_driver.py), which
is started again when it was lost.
"""

import asyncio
import contextlib
import os
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import msgspec

from penstock.adapters.runtimes.errors import NoCluster
from penstock.adapters.runtimes.home_id import home_id
from penstock.adapters.runtimes.ray_driver import Answer, Call, Deed, DriverSettings
from penstock.adapters.runtimes.task_wire import WIRE_BYTES_MAX, spell_task
from penstock.kit.environment import inherited
from penstock.kit.ports import Clock, Entropy
from penstock.kit.runtime import (
    ORPHAN_MS,
    Ending,
    Running,
    Task,
    TaskFailed,
    check_task,
    task_content,
)
from penstock.kit.tasks import Errands

START_DEADLINE_MS = 60_000
ANSWER_DEADLINE_MS = 30_000
KILL_DEADLINE_MS = 20_000
RETRY_MS = 1_000
INHERITED = ("PATH", "HOME", "LANG", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""What the driver may know: Ray's own token of the cluster among it, no secret of ours."""


@dataclass(frozen=True, slots=True)
class RayConfig:
    """address: as in `ray.init`, of a cluster that this machine is a node of.

    python: the interpreter that has Ray and penstock, "" for this one.
    """

    address: str
    python: str = ""
    orphan_ms: int = ORPHAN_MS


class RayRuntime:
    """Implements `kit.runtime.Runtime`. Make it with `open`; `close` leaves the groups running."""

    def __init__(self, home: Path, config: RayConfig, *, name: str, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        settings = DriverSettings(config.address, name, config.orphan_ms)
        self._driver = DriverLink(config.python or sys.executable, home / "ray.log", settings)
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @classmethod
    async def open(
        cls, home: Path, config: RayConfig, *, clock: Clock, entropy: Entropy
    ) -> "RayRuntime":
        """Join the cluster. Raises NoCluster, OSError, ValueError."""
        runtime = cls(home, config, name=home_id(home, entropy), clock=clock)
        await runtime.beat()
        return runtime

    def close(self) -> None:
        """Leave the cluster; the groups go on until they are orphans."""
        self._driver.close()

    async def closed(self) -> None:
        """Leave, and wait until the child process is gone and its pipes are let go."""
        await self._driver.closed()

    @property
    def kind(self) -> str:
        return "ray"

    async def launch(self, task: Task, *, deadline_ms: int) -> Running:
        check_task(task)
        call = Call(
            id=0,
            do="launch",
            name=task.name,
            spelled=spell_task(task).decode(),
            content=task_content(task),
            started_ms=self._clock.now_ms(),
            number=task.stop_ms,
        )
        async with self._turns[task.name]:
            try:
                answer = await self._driver.ask(call, deadline_ms=deadline_ms)
            except TimeoutError as error:
                tail = await self._give_up(task.name)
                raise TaskFailed(
                    name=task.name,
                    reason=f"no address after {deadline_ms} ms.",
                    log_tail=tail,
                    remedy="See whether the cluster has room for it:  ray status",
                ) from error
            except NoCluster as error:
                raise TaskFailed(name=task.name, reason=str(error)) from error
            except asyncio.CancelledError:
                await self._give_up(task.name)
                raise
        return answer.told.one(task.name)

    async def list(self) -> tuple[Running, ...]:
        """Raises NoCluster."""
        return (await self._ask("list")).told.running

    async def beat(self) -> None:
        """Raises NoCluster."""
        await self._ask("beat")

    async def wait(self, name: str) -> Ending:
        """A cluster that does not answer is not the end of a task: we ask until it tells."""
        while True:
            try:
                answer = await self._driver.ask(Call(id=0, do="wait", name=name))
            except NoCluster:
                await asyncio.sleep(RETRY_MS / 1000)
                continue
            assert answer.told.ending is not None
            return answer.told.ending

    async def logs(self, name: str, *, bytes_max: int) -> str:
        """Raises NoCluster."""
        return (await self._ask("logs", name, number=bytes_max)).text

    async def stop(self, name: str, *, deadline_ms: int) -> None:
        """Raises NoCluster: the group goes on then, until it is an orphan."""
        async with self._turns[name]:
            call = Call(id=0, do="stop", name=name, number=deadline_ms)
            await self._answer(call, deadline_ms=deadline_ms + KILL_DEADLINE_MS)

    async def _give_up(self, name: str) -> str:
        """End what we started, as far as the cluster answers; its last words."""
        try:
            await self._ask("stop", name)
            return (await self._ask("logs", name, number=4096)).text
        except NoCluster:
            return ""

    async def _ask(self, do: Deed, name: str = "", *, number: int = 0) -> Answer:
        call = Call(id=0, do=do, name=name, number=number)
        return await self._answer(call, deadline_ms=ANSWER_DEADLINE_MS)

    async def _answer(self, call: Call, *, deadline_ms: int) -> Answer:
        """Raises NoCluster, also for silence."""
        try:
            return await self._driver.ask(call, deadline_ms=deadline_ms)
        except TimeoutError as error:
            why = f"no answer in {deadline_ms} ms"
            raise NoCluster("ray", self._config.address, why) from error


class DriverLink:
    """The child process and the calls that wait for its answers. Starts it when it is not there."""

    def __init__(self, python: str, log: Path, settings: DriverSettings) -> None:
        self._python = python
        self._log = log
        self._settings = settings
        self._errands = Errands()
        self._starting = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._calls = 0

    async def ask(self, call: Call, *, deadline_ms: int | None = None) -> Answer:
        """Raises NoCluster, TimeoutError."""
        async with asyncio.timeout(None if deadline_ms is None else deadline_ms / 1000):
            process = await self._there()
            self._calls += 1
            number = self._calls
            waiting = asyncio.get_running_loop().create_future()
            self._waiting[number] = waiting
            try:
                assert process.stdin is not None
                process.stdin.write(
                    msgspec.json.encode(msgspec.structs.replace(call, id=number)) + b"\n"
                )
                answer: Answer = await waiting
            finally:
                del self._waiting[number]
        if answer.lost:
            raise self._no_cluster(answer.lost)
        return answer

    def close(self) -> None:
        """End the driver: it holds nothing that another could not find again."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def closed(self) -> None:
        if self._process is not None:
            await ended(self._process)
        await self._errands.close(deadline_ms=RETRY_MS)

    async def _there(self) -> asyncio.subprocess.Process:
        async with self._starting:
            if self._process is not None and self._process.returncode is None:
                return self._process
            with self._log.open("wb") as log:
                process = await asyncio.create_subprocess_exec(
                    *(self._python, "-m", "penstock.adapters.runtimes.ray_driver"),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log,
                    limit=WIRE_BYTES_MAX,
                    start_new_session=True,
                    cwd="/",
                    env={**inherited(INHERITED), "RAY_USAGE_STATS_ENABLED": "0"},
                )
            assert process.stdin is not None
            process.stdin.write(msgspec.json.encode(self._settings) + b"\n")
            try:
                async with asyncio.timeout(START_DEADLINE_MS / 1000):
                    await self._greet(process)
            except TimeoutError as error:
                await ended(process)
                raise self._no_cluster(f"no greeting in {START_DEADLINE_MS} ms") from error
            except (NoCluster, asyncio.CancelledError):
                await ended(process)
                raise
            self._process = process
            self._errands.start("ray-driver", self._read(process))
            return process

    async def _greet(self, process: asyncio.subprocess.Process) -> None:
        """Its first line says whether it has joined."""
        assert process.stdout is not None
        line = await process.stdout.readline()
        lost = msgspec.json.decode(line, type=Answer).lost if line else self._last_words()
        if lost or not line:
            raise self._no_cluster(lost)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        """Hand out answers until it ends; then nobody waits any longer."""
        assert process.stdout is not None
        while line := await process.stdout.readline():
            answer = msgspec.json.decode(line, type=Answer)
            waiting = self._waiting.get(answer.id)
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)
        await process.wait()
        why = f"the connection broke ({self._last_words()})"
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result(Answer(0, lost=why))

    def _last_words(self) -> str:
        with self._log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 500))
            lines = log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def _no_cluster(self, why: str) -> NoCluster:
        return NoCluster("ray", self._settings.address, why)


async def ended(process: asyncio.subprocess.Process) -> None:
    """Kill it, if it lives, and let go of its pipes."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
    assert process.stdin is not None
    process.stdin.close()
