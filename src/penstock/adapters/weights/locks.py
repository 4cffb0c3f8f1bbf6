"""Locks between processes (and tasks) that share one cache: the kernel drops them with their holder.

A lock is a file under `flock`; it holds the number of the process that has it, for people to read.
"""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

LOOK_EVERY_MS = 100


class Locks:
    """Named locks in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @asynccontextmanager
    async def held(self, name: str, *, still: Callable[[], None]) -> AsyncIterator[None]:
        """Hold the lock; while another has it `still()` is called now and then, and may raise."""
        while (handle := self._take(name)) is None:
            still()
            await asyncio.sleep(LOOK_EVERY_MS / 1000)
        try:
            yield
        finally:
            os.close(handle)

    @contextmanager
    def at_once(self, name: str) -> Iterator[None]:
        """Hold the lock, waiting for it: only for what takes milliseconds, and never across an await."""
        handle = self._open(name)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def is_held(self, name: str) -> bool:
        """Does anybody have it now?"""
        handle = self._open(name)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(handle)

    def holder(self, name: str) -> str:
        """The number of the process that has it or had it last."""
        try:
            return (self._folder / name).read_text()[:16].strip()
        except OSError:
            return ""

    def _take(self, name: str) -> int | None:
        handle = self._open(name)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        return handle

    def _open(self, name: str) -> int:
        return os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
