"""What a running station says of itself: its counters and its memory."""

from pathlib import Path

import httpx2 as httpx


def counted(url: str, series: str) -> int:
    """A counter of `GET /metrics`, such as `gateway_requests_total{outcome="complete"}`: the sum of
    all its series that have these labels, whatever others they have; 0 if there is none.
    """
    name, _, wanted = series.rstrip("}").partition("{")
    labels = {one for one in wanted.split(",") if one}
    with httpx.Client(timeout=30) as client:
        page = client.get(f"{url}/metrics").text
    total = 0
    for line in page.splitlines():
        told, _, value = line.rpartition(" ")
        told_name, _, told_labels = told.rstrip("}").partition("{")
        if told_name == name and labels <= set(told_labels.split(",")):
            total += int(float(value))
    return total


def memory_max_bytes(pid: int) -> int:
    """The most memory a process ever held (VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel tells the peak of every process")
