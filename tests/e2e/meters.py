"""What a running station says of itself: its counters and its memory."""

from pathlib import Path

import httpx2 as httpx


def counted(url: str, series: str) -> int:
    """A counter of `GET /metrics`, such as `gateway_requests_total{outcome="complete"}`; 0 if absent."""
    with httpx.Client(timeout=30) as client:
        page = client.get(f"{url}/metrics").text
    for line in page.splitlines():
        name, _, value = line.rpartition(" ")
        if name == series:
            return int(float(value))
    return 0


def memory_max_bytes(pid: int) -> int:
    """The most memory a process ever held (VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel tells the peak of every process")
