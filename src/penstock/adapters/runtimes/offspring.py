"""Every process below one, from /proc, and what a holder does to them. Standard library only.

The kernel keeps the lists of children; where it was built without them, the parents in /proc/*/stat
are read instead. A process found here is below us at that moment and cannot be somebody else's: only we
collect it, and until then its number is not given to another.
"""

import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path

KEEPS_LISTS = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")


def below(root: int, *, skip_levels: int = 0) -> list[int]:
    """The descendants of `root`, those of the first `skip_levels` generations left out."""
    found = []
    generation = [root]
    level = 0
    while generation:
        generation = [child for pid in generation for child in children(pid)]
        level += 1
        if level > skip_levels:
            found += generation
    return found


def count(root: int, stop_at: int) -> int:
    """How many descendants, not counted much beyond `stop_at`."""
    total = 0
    generation = [root]
    while generation and total <= stop_at:
        generation = [child for pid in generation for child in children(pid)]
        total += len(generation)
    return total


def children(pid: int) -> list[int]:
    """Of all its threads. One that has ended has none."""
    found: list[int] = []
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += [int(word) for word in (thread / "children").read_text().split()]
    except FileNotFoundError:
        return found if KEEPS_LISTS.exists() else by_parent(pid)
    except (ProcessLookupError, NotADirectoryError):
        return found
    return found


def by_parent(parent: int) -> list[int]:
    """The slow way: who says that this is its parent."""
    return [pid for pid, of in parents() if of == parent]


def parents() -> Iterator[tuple[int, int]]:
    """(process, its parent) of every process there is."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            stat = (folder / "stat").read_text(errors="replace")
        except OSError:
            continue  # It ended while we looked.
        # The program's name comes in brackets and may hold anything, also brackets.
        yield int(folder.name), int(stat.rpartition(")")[2].split()[1])


def has_open(pid: int, path: Path) -> bool:
    """Whether that process has this very file open."""
    try:
        wanted = path.stat()
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            found = descriptor.stat()
            if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                return True
    except OSError:
        return False  # It ended, or it is somebody else's.
    return False


def send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return  # It ended, or it runs as somebody whom only the kernel may end.


def folder_bytes(folder: str, files_max: int) -> int:
    """What the files below take on the disk, not counted beyond `files_max` files."""
    total = seen = 0
    pending = [folder]
    while pending and seen < files_max:
        try:
            entries = list(os.scandir(pending.pop()))
        except OSError:
            continue  # Removed, or closed to us, while we looked.
        for entry in entries:
            seen += 1
            try:
                total += entry.stat(follow_symlinks=False).st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
            except OSError:
                continue  # Removed while we looked.
    return total


def end_marked(marker: str) -> int:
    """Kill every process whose environment holds `marker`; how many there were.

    For what a holder left behind that was itself killed. Only processes of our own user show theirs.
    """
    wanted = marker.encode()
    ended = 0
    for pid, _ in parents():
        try:
            marked = wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue  # It ended, or it is somebody else's.
        if marked and pid != os.getpid():
            send(pid, signal.SIGKILL)
            ended += 1
    return ended


def prctl(option: int, value: int) -> None:
    """Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}: {os.strerror(number)}")
