"""What a container lets us use: the tightest quota on the way from our control group to the root.

Both versions of control groups are read (some systems mount both). Inside a container the path in
`/proc/self/cgroup` may be the host's and lead nowhere; then the mount's root is ours.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from penstock.adapters.hardware.reading import Reader, number_or_none, text_or

ROOT = "/sys/fs/cgroup"
UNLIMITED_BYTES = 1 << 60
"""Version 1 says a number of this size where it means no limit."""
DEPTH_MAX = 32


@dataclass(frozen=True, slots=True)
class Quota:
    """None: no limit."""

    cores_milli: int | None = None
    memory_bytes: int | None = None


def read_quota(read: Reader) -> Quota:
    """The quotas of this process."""
    cores: list[int] = []
    memory: list[int] = []
    for line in text_or(read, "/proc/self/cgroup").splitlines()[:DEPTH_MAX]:
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:
            for mount in (ROOT, f"{ROOT}/unified"):
                for folder in _upwards(mount, path):
                    cores += _some(_cores_v2(text_or(read, f"{folder}/cpu.max")))
                    memory += _some(number_or_none(read, f"{folder}/memory.max"))
        if "cpu" in names.split(","):
            for mount in (f"{ROOT}/cpu", f"{ROOT}/{names}"):
                for folder in _upwards(mount, path):
                    cores += _some(_cores_v1(read, folder))
        if "memory" in names.split(","):
            for folder in _upwards(f"{ROOT}/memory", path):
                memory += _some(number_or_none(read, f"{folder}/memory.limit_in_bytes"))
    memory = [count for count in memory if 0 < count < UNLIMITED_BYTES]
    return Quota(min(cores, default=None), min(memory, default=None))


def _upwards(mount: str, path: str) -> Iterator[str]:
    """Our group's folder, then each above it, the mount at last."""
    parts = [part for part in path.split("/") if part not in {"", ".", ".."}][:DEPTH_MAX]
    for depth in range(len(parts), -1, -1):
        yield "/".join((mount, *parts[:depth]))


def _cores_v2(text: str) -> int | None:
    """`cpu.max`: quota and period in microseconds, or `max`."""
    quota, _, period = text.partition(" ")
    if not (quota.isdigit() and period.isdigit() and int(period) > 0):
        return None
    return max(1, int(quota) * 1000 // int(period))


def _cores_v1(read: Reader, folder: str) -> int | None:
    """`-1` is no quota."""
    quota = number_or_none(read, f"{folder}/cpu.cfs_quota_us")
    period = number_or_none(read, f"{folder}/cpu.cfs_period_us")
    if quota is None or period is None or quota <= 0 or period <= 0:
        return None
    return max(1, quota * 1000 // period)


def _some(value: int | None) -> list[int]:
    return [] if value is None else [value]
