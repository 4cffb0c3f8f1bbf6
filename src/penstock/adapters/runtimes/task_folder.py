"""One task's folder as the agent reads it: who holds it, what runs, how it ended. See holder.py.

Every file may be missing, torn or written by somebody else: what cannot be read counts as not known, and
never as not running, because only the lock says that.
"""

import asyncio
import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Any

from penstock.kit.runtime import Ending, Running

STATE_BYTES_MAX = 1 << 16
REST_MS = 20
LOOK_EVERY_MS = 5_000
"""The end of a task is an event; this is for a holder that died before it opened its fifos."""


class TaskFolder:
    """`path` need not exist."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name

    @property
    def scratch(self) -> Path:
        return self.path / "tmp"

    def is_held(self) -> bool:
        """Whether a holder lives. Raises OSError when the folder cannot be read."""
        try:
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def take(self, running: Running, marker: str) -> int:
        """Make the folder anew, but for the last log, and lock it; the descriptor is for the holder.

        Raises OSError, BlockingIOError when somebody holds it.
        """
        self.path.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for name in ("alive", "control", "exit.json", "task.json"):
                (self.path / name).unlink(missing_ok=True)
            if (self.path / "log").exists():
                (self.path / "log").replace(self.path / "log.1")
            self.write(running, marker)
            remove_tree(self.scratch)
            self.scratch.mkdir(mode=0o700)
        except BaseException:
            os.close(lock)
            raise
        return lock

    def write(self, running: Running, marker: str) -> None:
        temporary = self.path / ".task.json.new"
        temporary.write_text(json.dumps(task_fields(running, marker)))
        temporary.replace(self.path / "task.json")

    def running(self) -> Running:
        """What its holder runs; content "" (no task has it) when that cannot be read."""
        said = self._read("task.json")
        content, address, started = (said.get(key) for key in ("content", "address", "started_ms"))
        if not (isinstance(content, str) and isinstance(address, str) and type(started) is int):
            return Running(name=self.name, content="", address="", started_ms=0)
        return Running(name=self.name, content=content, address=address, started_ms=started)

    @property
    def marker(self) -> str:
        """What stands in the environment of all its processes, "" when that is not known."""
        marker = self._read("task.json").get("marker")
        return marker if isinstance(marker, str) else ""

    @property
    def holder_pid(self) -> int:
        pid = self._read("task.json").get("holder_pid")
        return pid if type(pid) is int and pid > 1 else 0

    def ending(self, *, bytes_max: int) -> Ending:
        """How it ended; to be asked when nobody holds it."""
        said = self._read("exit.json")
        status, reason = said.get("status"), said.get("reason")
        tail = self.tail("log", bytes_max=bytes_max)
        if not isinstance(reason, str):
            return Ending(None, "nobody knows how it ended: its holder was killed.", tail)
        return Ending(status if type(status) is int else None, reason[:1000], tail)

    def tail(self, *names: str, bytes_max: int) -> str:
        """The end of the log. names: newest first; `log.1` is older, maybe of the last run."""
        parts: list[bytes] = []
        wanted = bytes_max
        for name in names:
            try:
                with (self.path / name).open("rb") as file:
                    size = file.seek(0, os.SEEK_END)
                    file.seek(max(0, size - wanted))
                    parts.insert(0, file.read(wanted))
            except FileNotFoundError:
                break
            wanted -= len(parts[0])
            if wanted <= 0:
                break
        return b"".join(parts).decode(errors="replace")

    async def ended(self) -> None:
        """Wait until nobody holds it."""
        loop = asyncio.get_running_loop()
        while self.is_held():
            try:
                fifo = os.open(self.path / "alive", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                await asyncio.sleep(REST_MS / 1000)
                continue
            end = asyncio.Event()
            loop.add_reader(fifo, end.set)
            try:
                async with asyncio.timeout(LOOK_EVERY_MS / 1000):
                    await end.wait()
            except TimeoutError:
                continue  # It never opened its end, or it lives: the lock says which.
            finally:
                loop.remove_reader(fifo)
                os.close(fifo)
            # The kernel closes the fifo and frees the lock one after the other.
            for _ in range(LOOK_EVERY_MS // REST_MS):
                if not self.is_held():
                    return
                await asyncio.sleep(REST_MS / 1000)

    def say(self, word: bytes) -> bool:
        """Give the holder a command. False when it does not listen (yet, or any more)."""
        try:
            control = os.open(self.path / "control", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENXIO, errno.ENOENT):
                return False
            raise
        try:
            os.write(control, word)
        except BlockingIOError:
            return True  # It was told so often that the fifo is full.
        finally:
            os.close(control)
        return True

    def _read(self, name: str) -> dict[str, Any]:
        try:
            with (self.path / name).open("rb") as file:
                said = json.loads(file.read(STATE_BYTES_MAX))
        except (OSError, ValueError, RecursionError):
            return {}
        return said if isinstance(said, dict) else {}


def task_fields(running: Running, marker: str) -> dict[str, Any]:
    return {
        "name": running.name,
        "content": running.content,
        "address": running.address,
        "started_ms": running.started_ms,
        "marker": marker,
    }


def remove_tree(folder: Path) -> None:
    """Also what is in folders that the task closed to itself. Raises OSError."""
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink(missing_ok=True)
        return
    folder.chmod(0o700)
    for entry in list(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            remove_tree(entry)
        else:
            entry.unlink(missing_ok=True)
    folder.rmdir()
