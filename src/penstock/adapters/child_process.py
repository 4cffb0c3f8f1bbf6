"""One child process: started without a shell, logged to a file, ready, stopped, never orphaned.

The child leads its own session, so that a terminal's Ctrl-C reaches only the parent and the parent
can kill the whole group. The tether (see tether.py) makes it die with the parent.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from penstock.adapters import tether
from penstock.adapters.errors import ChildExited, NotReady, ProgramMissing

LOG_BYTES_MAX = 16 * 1024 * 1024
LOG_TAIL_BYTES_MAX = 4096
CHECK_EVERY_MS = 25
CHECK_DEADLINE_MS = 2_000
KILL_DEADLINE_MS = 10_000


@dataclass(frozen=True, slots=True)
class Command:
    """How to run a program. Start it again with the same Command to restart it.

    `env` is the whole environment of the child. `uid` and `gid` are dropped to after the working
    folder was entered, so `cwd` may lie where that user cannot go. `orphan_signal` is what the
    kernel sends to the child when the parent dies. `stdin` is written to the child, whose stdin
    then stays open as long as we live; without it the child reads nothing.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    log: Path
    uid: int | None = None
    gid: int | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    orphan_signal: signal.Signals = signal.SIGKILL
    log_bytes_max: int = LOG_BYTES_MAX
    program: str = field(default="")
    stdin: bytes | None = None

    @property
    def name(self) -> str:
        return self.program or Path(self.argv[0]).name


class ChildProcess:
    """A started child. Make it with `start`; end it with `terminate`."""

    def __init__(
        self, command: Command, process: asyncio.subprocess.Process, *, log_offset: int
    ) -> None:
        self.command = command
        self._process = process
        self._log_offset = log_offset

    @classmethod
    async def start(cls, command: Command) -> "ChildProcess":
        """Start it. Raises ProgramMissing when there is no such program, OSError from the fork."""
        program = shutil.which(command.argv[0], path=command.env.get("PATH", ""))
        if program is None:
            raise ProgramMissing(program=command.argv[0], package=command.name)
        rotate_log(command.log, bytes_max=command.log_bytes_max)
        uid = -1 if command.uid is None else command.uid
        gid = uid if command.gid is None else command.gid
        with command.log.open("ab") as log:
            # Asked before the start: the child writes through the same open file.
            log_offset = log.seek(0, os.SEEK_END)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", tether.__file__),
                *(str(os.getpid()), str(int(command.orphan_signal)), str(uid), str(gid), "--"),
                *(program, *command.argv[1:]),
                stdin=asyncio.subprocess.DEVNULL
                if command.stdin is None
                else asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=command.cwd,
                env=dict(command.env),
                start_new_session=True,
            )
            if process.stdin is not None and command.stdin is not None:
                process.stdin.write(command.stdin)
            return cls(command, process, log_offset=log_offset)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status (negative: the signal that ended it), None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for ever for the end; returns the exit status."""
        return await self._process.wait()

    async def wait_ready(self, check: Callable[[], Awaitable[bool]], *, deadline_ms: int) -> None:
        """Ask `check` until it says yes. Raises ChildExited or NotReady."""
        try:
            async with asyncio.timeout(deadline_ms / 1000):
                while self.status is None:
                    if await check():
                        return
                    await asyncio.sleep(CHECK_EVERY_MS / 1000)
        except TimeoutError as error:
            raise NotReady(self.command.name, deadline_ms, self.command.log) from error
        assert self.status is not None
        raise ChildExited(self.command.name, self.status, self.command.log, self.log_tail())

    async def wait_port(self, host: str, port: int, *, deadline_ms: int) -> None:
        """Ready when the port accepts a connection."""

        async def check() -> bool:
            return await is_port_open(host, port)

        await self.wait_ready(check, deadline_ms=deadline_ms)

    async def wait_line(self, text: str, *, deadline_ms: int) -> None:
        """Ready when this run's log contains `text`."""
        wanted = text.encode()

        async def check() -> bool:
            return wanted in self._log_of_this_run()

        await self.wait_ready(check, deadline_ms=deadline_ms)

    async def terminate(self, *, deadline_ms: int) -> int:
        """Ask it to stop; after the deadline kill the whole group. Returns the exit status."""
        if self.status is None:
            self.send(self.command.stop_signal)
            # When the deadline passes, the group kill below is the answer.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(deadline_ms / 1000):
                    await self._process.wait()
        return await self.kill()

    async def kill(self) -> int:
        """Kill the whole group at once and collect the exit status."""
        # Perhaps nobody is left (macOS says EPERM for a group of zombies).
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        async with asyncio.timeout(KILL_DEADLINE_MS / 1000):
            return await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Signal the child itself; one that has already ended is left alone."""
        if self.status is None:
            # It may have ended a moment ago; wait() will say so.
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def log_tail(self) -> str:
        """The end of this run's log, however long it has grown."""
        with self.command.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_offset, size - LOG_TAIL_BYTES_MAX))
            return log.read(LOG_TAIL_BYTES_MAX).decode(errors="replace")

    def _log_of_this_run(self) -> bytes:
        with self.command.log.open("rb") as log:
            log.seek(self._log_offset)
            return log.read(self.command.log_bytes_max)


async def is_port_open(host: str, port: int) -> bool:
    """Does something accept TCP connections there right now?"""
    try:
        async with asyncio.timeout(CHECK_DEADLINE_MS / 1000):
            _reader, writer = await asyncio.open_connection(host, port)
            writer.close()
            await writer.wait_closed()
    except (OSError, TimeoutError):
        return False
    return True


def rotate_log(log: Path, *, bytes_max: int) -> None:
    """Keep at most one older log: a log that grew beyond its bound becomes `<name>.1`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > bytes_max:
        log.replace(log.with_name(log.name + ".1"))
