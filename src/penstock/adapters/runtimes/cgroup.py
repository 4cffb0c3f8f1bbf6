"""Control groups, version 2: bounds that no number of processes escapes, and a kill that misses none.

They need a folder that was delegated to us and whose controllers are on (systemd: `Delegate=yes` and
`DelegateSubgroup=agent`). Standard library only: the holder uses the second half. An empty folder name
stands for no control group, and everything is a no-op then.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
CPU_PERIOD_US = 100_000
CONTROLLERS = ("memory", "pids", "cpu")
SUBGROUP = "agent"


def delegated(root: Path = ROOT, own: Path = OWN) -> Path | None:
    """The folder below which this process may make groups with bounds; None when there is none.

    That is the parent of our own group when systemd put us into a subgroup called `agent`.
    """
    if sys.platform != "linux":
        return None
    try:
        lines = own.read_text().splitlines()
        path = next(line[3:] for line in lines if line.startswith("0::"))
        folder = (root / path.lstrip("/")).parent
        usable = set((folder / "cgroup.controllers").read_text().split())
    except (OSError, StopIteration):
        return None
    is_ours = path.rpartition("/")[2] == SUBGROUP and os.access(folder, os.W_OK)
    return folder if is_ours and usable >= set(CONTROLLERS) else None


def make(folder: Path, *, memory_bytes: int, cpu_milli: int, processes_max: int) -> None:
    """An empty group with these bounds; 0 means none. Raises OSError when one cannot be had."""
    enabled = folder.parent / "cgroup.subtree_control"
    missing = set(CONTROLLERS) - set(enabled.read_text().split())
    if missing:
        enabled.write_text(" ".join(f"+{name}" for name in sorted(missing)))
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    (folder / "pids.max").write_text(str(processes_max))
    if memory_bytes:
        (folder / "memory.max").write_text(str(memory_bytes))
        (folder / "memory.oom.group").write_text("1")
    if cpu_milli:
        (folder / "cpu.max").write_text(f"{cpu_milli * CPU_PERIOD_US // 1000} {CPU_PERIOD_US}")


@contextlib.contextmanager
def inside(folder: str) -> Iterator[None]:
    """What is started meanwhile begins its life in the group; we ourselves come back out of it.

    Raises OSError when the group cannot be entered.
    """
    if not folder:
        yield
        return
    home = _own_procs(Path(folder))
    Path(folder, "cgroup.procs").write_text("0")
    try:
        yield
    finally:
        home.write_text("0")


def _own_procs(near: Path) -> Path:
    """The cgroup.procs of the group that we are in, in the tree that holds `near`."""
    path = next(line[3:] for line in OWN.read_text().splitlines() if line.startswith("0::"))
    root = near
    while (root.parent / "cgroup.procs").exists():
        root = root.parent
    return root / path.lstrip("/") / "cgroup.procs"


def kill(folder: str) -> None:
    """All in it at once, forks in flight included."""
    if folder:
        # An older kernel has no such file: then the caller kills one by one.
        with contextlib.suppress(OSError):
            Path(folder, "cgroup.kill").write_text("1")


def remove(folder: str) -> None:
    """Somebody in it may not be able to die yet; then it stays, empty of meaning."""
    if folder:
        with contextlib.suppress(OSError):
            Path(folder).rmdir()
