"""The miner's outbox as one append-only file of lines, safe against kill -9 and power cuts.

A line is written by one `write`, so the kernel has it when the process is killed; `sync` waits for
the disk in a thread, for many lines at once. A torn last line is what a power cut leaves: it is cut
off when the file is opened, so that the next line does not grow onto it.
"""

import asyncio
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from penstock.adapters.files import FULL, sync_folder, write_durably
from penstock.kit.ports import DiskFull


@dataclass(eq=False)
class OutboxInUse(Exception):
    """Another process owns the file."""

    path: Path

    def __str__(self) -> str:
        return (
            f"{self.path} is in use by another miner. Stop that one, or give this one another "
            "`home` in its configuration."
        )


class OutboxFile:
    """Implements `miner.store.OutboxStore` at `path`; `close` gives it up."""

    def __init__(self, path: Path) -> None:
        """Raises OutboxInUse, OSError."""
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise OutboxInUse(path) from error
        self._file = self._open()

    def load(self) -> list[bytes]:
        """All complete lines; what follows the last line end is cut off."""
        data = self._path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.ftruncate(self._file, whole)
        return data[:whole].split(b"\n")[:-1]

    def append(self, line: bytes) -> None:
        """Add one line. Raises DiskFull, after taking back what had been written of it."""
        assert b"\n" not in line, "one line at a time"
        before = os.fstat(self._file).st_size
        data = line + b"\n"
        try:
            written = os.write(self._file, data)
            if written < len(data):
                # A disk with room for a part takes the part; the rest then says why.
                os.write(self._file, data[written:])
        except OSError as error:
            os.ftruncate(self._file, before)
            raise _full(error, self._path) from error

    async def sync(self) -> None:
        """Wait for the disk, in a thread, so that streams go on. Raises DiskFull."""
        # The thread has a descriptor of its own: `replace` may close ours meanwhile.
        handle = os.dup(self._file)
        try:
            await asyncio.to_thread(os.fsync, handle)
        except OSError as error:
            raise _full(error, self._path) from error
        finally:
            os.close(handle)

    def replace(self, lines: list[bytes]) -> None:
        """Write a new file beside the old one and rename it over. Raises DiskFull."""
        fresh = self._path.with_name(self._path.name + ".new")
        try:
            write_durably(fresh, b"".join(line + b"\n" for line in lines), mode=0o600)
            fresh.replace(self._path)
            sync_folder(self._path.parent)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise _full(error, self._path) from error
        os.close(self._file)
        self._file = self._open()

    def close(self) -> None:
        """Give the file up; another process may take it."""
        os.close(self._file)
        os.close(self._lock)

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)


def _full(error: OSError, path: Path) -> Exception:
    """DiskFull if that is what it was, else the error itself."""
    return DiskFull(str(path)) if error.errno in FULL else error
