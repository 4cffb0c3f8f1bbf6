"""Processes of a killed server that still work in its data folder.

After kill -9 of the first process, its workers notice and leave on their own, but not at once, and
PostgreSQL refuses to start while one is left. They are known by their working folder, which needs
no process names and cannot confuse a reused process number with the server.
"""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

from penstock.adapters.errors import FolderInUse

CHECK_EVERY_MS = 50
PROC = Path("/proc")


async def end_leftovers(folder: Path, *, deadline_ms: int) -> None:
    """Wait until nobody works in `folder`. Raises FolderInUse.

    Orphans (the first process is gone) get half of the deadline to leave and are then killed. A
    server whose first process lives is never touched: it may be somebody's.
    """
    orphans_end_ms = deadline_ms // 2
    for waited_ms in range(0, deadline_ms, CHECK_EVERY_MS):
        pids = pids_working_in(folder)
        if not pids:
            return
        if waited_ms >= orphans_end_ms and first_pid(folder) not in pids:
            for pid in pids:
                kill_quietly(pid)
        await asyncio.sleep(CHECK_EVERY_MS / 1000)
    raise FolderInUse(folder=folder, pids=pids_working_in(folder))


def pids_working_in(folder: Path) -> tuple[int, ...]:
    """Processes of this user (all, for root) whose working folder is `folder`; Linux only."""
    if not sys.platform.startswith("linux"):
        return ()
    wanted = folder.stat()
    found = []
    for entry in PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            status = (entry / "cwd").stat()
        except OSError:
            continue  # It ended while we looked, or belongs to somebody else.
        if (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino):
            found.append(int(entry.name))
    return tuple(sorted(found))


def first_pid(folder: Path) -> int | None:
    """The process number that PostgreSQL wrote into its lock file."""
    try:
        words = (folder / "postmaster.pid").read_text().split()
    except FileNotFoundError:
        return None
    return int(words[0]) if words and words[0].isdigit() else None


def kill_quietly(pid: int) -> None:
    """It may have left by itself meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
