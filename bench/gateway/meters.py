"""What a gateway uses: CPU and memory of its whole process tree, from /proc.

`utime + stime` of /proc/PID/stat is the scheduler's exact sum, told in ticks of 10 ms. Memory is PSS:
pages that processes share are split among them.
"""

import time
from collections.abc import Callable, Iterable

from bench.cpu import PROC, children, cpu_ms

QUIET_SHARE = 0.04
"""Of a core: what an idle gateway may use (health checks, offers, leases)."""
QUIET_S = 0.4


def tree(pid: int) -> list[int]:
    """The process and all that live below it."""
    return [pid, *(one for child in children(pid) for one in tree(child))]


def cpu_of(pids: Iterable[int]) -> float:
    """CPU milliseconds that these process trees have used, those that ended in them included."""
    return sum(cpu_ms(pid, with_children=True) for pid in pids)


def pss_kib(pids: Iterable[int]) -> int:
    """Memory of these process trees."""
    return sum(_pss_kib(one) for pid in pids for one in tree(pid))


def read_pss(text: str) -> int:
    """KiB in the `Pss:` line of a smaps_rollup; 0 without one."""
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def wait_quiet(
    cpu: Callable[[], float], *, deadline_s: float, sleep: Callable[[float], None] = time.sleep
) -> bool:
    """Until the CPU count rests, so that work put off is counted too; False after the deadline."""
    waited_s, before = 0.0, cpu()
    while waited_s < deadline_s:
        sleep(QUIET_S)
        waited_s += QUIET_S
        now = cpu()
        # One tick more or less says nothing.
        if now - before <= max(QUIET_SHARE * QUIET_S * 1000, 10):
            return True
        before = now
    return False


def _pss_kib(pid: int) -> int:
    try:
        return read_pss((PROC / str(pid) / "smaps_rollup").read_text())
    except OSError:
        return 0
