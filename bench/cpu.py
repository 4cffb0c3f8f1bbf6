"""CPU time of processes, from the kernel's own count: utime + stime in /proc/PID/stat.

The count moves in ticks of 10 ms, so a row of a bench must burn much more than that. Children that
have ended are in their parent's `cutime`; those that live are found by their parent.
"""

import os
from pathlib import Path

PROC = Path("/proc")
TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")
# Places in /proc/PID/stat behind the name: see proc(5), fields 4 and 14 to 17.
PARENT, UTIME, CUTIME_END = 1, 11, 15


def cpu_ms(pid: int, *, with_children: bool = False) -> float:
    """CPU that the process has used since it started, with all below it if asked; 0 once gone."""
    whole = sum(_ticks(pid)[: 4 if with_children else 2]) * TICK_MS
    if with_children:
        whole += sum(cpu_ms(child, with_children=True) for child in children(pid))
    return whole


def system_ms(pid: int) -> float:
    """The part of the process's own CPU that the kernel used for it; 0 once gone."""
    return sum(_ticks(pid)[1:2]) * TICK_MS


def resident_kib(pid: int) -> int:
    """Memory that the process holds, shared pages included; 0 once gone."""
    try:
        text = (PROC / str(pid) / "status").read_text()
    except OSError:
        return 0
    lines = (line.split() for line in text.splitlines())
    return next((int(line[1]) for line in lines if line[0] == "VmRSS:"), 0)


def children(pid: int) -> list[int]:
    """The living children of a process."""
    return [one for one in _pids() if (fields := _fields(one)) and int(fields[PARENT]) == pid]


def command_line(pid: int) -> str:
    """The command of a process, "" once it is gone."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _pids() -> list[int]:
    return [int(one.name) for one in PROC.iterdir() if one.name.isdigit()]


def _fields(pid: int) -> list[str]:
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _ticks(pid: int) -> list[int]:
    return [int(field) for field in _fields(pid)[UTIME:CUTIME_END]]
