"""The runtime `process`: engines as processes of this machine, each in a sandbox under a holder.

HOME holds `lock` (one agent at a time), `beat` (touched by `beat`: a change says that an agent cares)
and a folder per task (see holder.py). An agent that was killed leaves its tasks running; the next one
finds them here, because a task is known by its lock and its content, never by a process number.
"""

import asyncio
import base64
import errno
import fcntl
import json
import os
import signal
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.adapters.runtimes import cgroup, holder, offspring
from penstock.adapters.runtimes.errors import HomeTaken
from penstock.adapters.runtimes.sandbox import (
    SOURCE,
    Bounds,
    Ground,
    Protection,
    build_cage,
    look,
    protections,
)
from penstock.adapters.runtimes.task_folder import REST_MS, TaskFolder, remove_tree, task_fields
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

LOG_BYTES_MAX = 16 << 20
TAIL_BYTES_MAX = 4096
KILL_DEADLINE_MS = 5_000
ENDED_MAX = 64
MARK = "PENSTOCK_TASK"
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class ProcessConfig:
    """path: where programs of our own (bubblewrap) are looked for, as in PATH.

    ended_max: how many folders of ended tasks, with their logs, are kept.
    """

    path: str
    bounds: Bounds = field(default_factory=Bounds)
    orphan_ms: int = ORPHAN_MS
    log_bytes_max: int = LOG_BYTES_MAX
    ended_max: int = ENDED_MAX


class ProcessRuntime:
    """Implements `kit.runtime.Runtime`. Make it with `open`; `close` leaves the tasks running."""

    def __init__(
        self, home: Path, config: ProcessConfig, *, ground: Ground, clock: Clock, entropy: Entropy
    ) -> None:
        self._home = home
        self._config = config
        self._ground = ground
        self._clock = clock
        self._entropy = entropy
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._lock = -1

    @classmethod
    async def open(
        cls, home: Path, config: ProcessConfig, *, clock: Clock, entropy: Entropy
    ) -> "ProcessRuntime":
        """Take `home` for this agent. Raises HomeTaken, OSError."""
        make_home(home)
        ground = await look(config.path)
        runtime = cls(home, config, ground=ground, clock=clock, entropy=entropy)
        runtime._lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(runtime._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            runtime.close()
            raise HomeTaken(home) from error
        await runtime.beat()
        return runtime

    def close(self) -> None:
        """Give `home` to the next agent; the tasks go on until they are orphans."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def kind(self) -> str:
        return "process"

    def protections(self) -> tuple[Protection, ...]:
        """What tasks are kept from here, by what, and what is missing: `penstock miner test` shows it."""
        return protections(self._ground)

    async def launch(self, task: Task, *, deadline_ms: int) -> Running:
        check_task(task)
        content = task_content(task)
        folder = self._folder(task.name)
        async with self._turns[task.name]:
            try:
                async with asyncio.timeout(deadline_ms / 1000):
                    if folder.is_held() and folder.running().content == content:
                        taken = await self._take_over(folder)
                        if taken is not None:
                            return taken
                    await self._end(folder, deadline_ms=task.stop_ms)
                    return await self._start(task, content, folder)
            except TimeoutError as error:
                await self._end(folder, deadline_ms=0)
                raise self._failed(folder, f"no address after {deadline_ms} ms.") from error
            except OSError as error:
                await self._end(folder, deadline_ms=0)
                raise self._failed(folder, why_not(error), remedy_for(error)) from error

    async def list(self) -> tuple[Running, ...]:
        folders = [TaskFolder(path) for path in sorted((self._home / "tasks").iterdir())]
        return tuple(folder.running() for folder in folders if folder.is_held())

    async def beat(self) -> None:
        """A file that is there is only touched, which also a full disk allows. Raises OSError."""
        beat = self._home / "beat"
        try:
            os.utime(beat)
        except FileNotFoundError:
            beat.touch(mode=0o600)

    async def wait(self, name: str) -> Ending:
        folder = self._folder(name)
        await folder.ended()
        self._sweep(folder)
        return folder.ending(bytes_max=TAIL_BYTES_MAX)

    async def logs(self, name: str, *, bytes_max: int) -> str:
        return self._folder(name).tail("log", "log.1", bytes_max=bytes_max)

    async def stop(self, name: str, *, deadline_ms: int) -> None:
        folder = self._folder(name)
        async with self._turns[name]:
            await self._end(folder, deadline_ms=deadline_ms)

    def _folder(self, name: str) -> TaskFolder:
        check_task(Task(name=name, argv=("?", "{port}"), env={}))
        return TaskFolder(self._home / "tasks" / name)

    async def _take_over(self, folder: TaskFolder) -> Running | None:
        """The task that another life of ours launched, once it has an address; None when it ends."""
        while folder.is_held():
            running = folder.running()
            if running.address:
                return running
            await asyncio.sleep(REST_MS / 1000)
        return None

    async def _start(self, task: Task, content: str, folder: TaskFolder) -> Running:
        """Start a holder and hear what it says. Raises TaskFailed, OSError."""
        self._forget_old(folder)
        running = Running(task.name, content, address="", started_ms=self._clock.now_ms())
        marker = f"{MARK}={self._entropy(16).hex()}"
        lock = folder.take(running, marker)
        is_told = False
        try:
            order = self._order(task, folder, task_fields(running, marker))
            answer = await self._hand_over(order, lock)
            is_told = not answer["error"]
        finally:
            os.close(lock)
            if not is_told:
                await self._end(folder, deadline_ms=0)
        if answer["error"]:
            raise self._failed(folder, f"{answer['error']}.")
        return Running(task.name, content, str(answer["address"]), running.started_ms)

    async def _hand_over(self, order: holder.Order, lock: int) -> dict[str, Any]:
        """Start the holder, which leaves us at once; its one line."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", holder.__file__, str(SOURCE)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(lock,),
            start_new_session=True,
            cwd="/",
            env={},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(order).encode())
        process.stdin.close()
        await process.wait()
        line = await process.stdout.readline()
        return json.loads(line) if line else {"address": "", "error": "its holder was killed"}

    def _order(self, task: Task, folder: TaskFolder, fields: dict[str, Any]) -> holder.Order:
        config, needs = self._config, task.needs
        cage = build_cage(task, self._ground, config.bounds, scratch=folder.scratch)
        name, _, secret = str(fields["marker"]).partition("=")
        cage.cell["env"][name] = secret
        group = ""
        if self._ground.cgroup is not None:
            group = str(self._ground.cgroup / f"penstock-{task.name}-{secret[:8]}")
            cgroup.make(
                Path(group),
                memory_bytes=needs.memory_bytes,
                cpu_milli=needs.cpu_milli,
                processes_max=config.bounds.processes_max,
            )
        return holder.Order(
            task=fields,
            folder=str(folder.path),
            stdin=base64.b64encode(task.stdin).decode(),
            cell=cage.cell,
            wrap=cage.wrap,
            cgroup=group,
            relay=cage.relay,
            announces=task.announces,
            stop_ms=task.stop_ms,
            orphan_ms=config.orphan_ms,
            beat=str(self._home / "beat"),
            scratch=str(folder.scratch),
            scratch_bytes_max=config.bounds.scratch_bytes_max,
            processes_max=config.bounds.processes_max,
            log_bytes_max=config.log_bytes_max,
        )

    async def _end(self, folder: TaskFolder, *, deadline_ms: int) -> None:
        """With grace, then without, then the holder itself; afterwards nobody holds the folder."""
        for word, wait_ms in ((b"t", deadline_ms), (b"k", KILL_DEADLINE_MS)):
            if wait_ms and folder.is_held() and await self._ends(folder, word, wait_ms):
                break
        pid = folder.holder_pid
        if folder.is_held() and offspring.has_open(pid, folder.path / "lock"):
            # It hangs. Only the holder has the lock open, so this number is not somebody else's.
            offspring.send(pid, signal.SIGKILL)
            await self._ends(folder, b"k", KILL_DEADLINE_MS)
        self._sweep(folder)

    async def _ends(self, folder: TaskFolder, word: bytes, wait_ms: int) -> bool:
        try:
            async with asyncio.timeout(wait_ms / 1000):
                while not folder.say(word) and folder.is_held():  # noqa: ASYNC110 - another process, no event
                    await asyncio.sleep(REST_MS / 1000)
                await folder.ended()
        except TimeoutError:
            return False
        return True

    def _sweep(self, folder: TaskFolder) -> None:
        """Processes that a killed holder left behind."""
        if not (folder.path / "exit.json").exists() and folder.marker and not folder.is_held():
            offspring.end_marked(folder.marker)

    def _forget_old(self, kept: TaskFolder) -> None:
        """Remove the oldest folders of ended tasks beyond the bound."""
        folders = [TaskFolder(path) for path in (self._home / "tasks").iterdir()]
        ended = [one for one in folders if one.path != kept.path and not one.is_held()]
        ended.sort(key=lambda one: one.path.stat().st_mtime_ns)
        for old in ended[: max(0, len(ended) - self._config.ended_max)]:
            remove_tree(old.path)

    def _failed(self, folder: TaskFolder, reason: str, remedy: str = "") -> TaskFailed:
        return TaskFailed(
            name=folder.name,
            reason=reason,
            log_tail=folder.tail("log", bytes_max=TAIL_BYTES_MAX),
            remedy=remedy or f"Read its log: less {folder.path / 'log'}",
        )


def make_home(home: Path) -> None:
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    (home / "tasks").mkdir(mode=0o700, exist_ok=True)


def why_not(error: OSError) -> str:
    if error.errno in FULL:
        return f"the disk takes no more ({error.strerror})."
    return f"{error.strerror or error}."


def remedy_for(error: OSError) -> str:
    return "Free some space, then start again." if error.errno in FULL else ""
