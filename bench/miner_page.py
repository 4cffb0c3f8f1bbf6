"""docs/performance_miner.md: written whole by `make bench-miner`, from the figures of that run."""

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.figures import ROOT, Figure, spelled

PAGE = ROOT / "docs" / "performance_miner.md"


@dataclass(frozen=True, slots=True)
class Goal:
    """A promise: the metric is at most this."""

    metric: str
    most: float
    unit: str
    what: str


GOALS = (
    Goal("front_cpu_ms_per_request", 0.15, "ms", "CPU of a 1 KB request and its whole answer"),
    Goal("front_cpu_us_per_chunk", 4, "us", "CPU of a chunk, streams as fast as they come"),
    Goal("front_added_ttft_ms", 2, "ms", "added to the time to first byte of the bare engine"),
    Goal("tunnel_cpu_ratio", 1.3, "", "CPU behind NAT over CPU in the open"),
    Goal("agent_idle_mb", 80, "MB", "memory of the agent at rest (RSS)"),
    Goal("agent_idle_cpu_percent", 0.5, "%", "CPU of the agent at rest"),
    Goal("cold_start_s", 3, "s", "the default engine from nothing to its first token"),
)

HEAD = """# What a miner costs

Written by `make bench-miner`; do not edit. What each figure counts is in the head of `bench/miner.py`:
the miner runs as in production, and orders, digests, receipts, its journal, seals and claims are all in
its CPU. {machine}

"""

WHY = """
## Where a request's CPU goes
By `perf record` on the miner while whole answers are asked for: two thirds in Python's own code, a sixth in
the kernel (two connections, a line of the journal), a twentieth in hashes and MACs. No part of the Python
stands out: a request makes about 750 calls, and the larger shares are the order's checks (a fifth), the end
with receipt, journal and counters (a fifth), the request for the engine (an eighth) and the call to the
engine (an eighth). To come near the goal the front would have to go from step to step by callbacks, as the
gateway does.

A chunk costs little because events that differ in their text alone are not read (`miner/stencil.py`): by
itself that part takes 1.6 us a chunk instead of 10.8. The rest of a chunk's figure is its share of the
request, four signed checkpoints a stream and the sockets. A paced chunk comes alone, and pays for a read and
a write.
"""


def write_page(figures: list[Figure], *, page: Path = PAGE) -> Path:
    """The page of a run."""
    machine = (
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {platform.machine()}, "  # tidy: ambient -- a date
        f"{os.cpu_count()} cores, Python {platform.python_version()}, "
        f"load average {os.getloadavg()[0]:.1f}."
    )
    page.write_text(HEAD.format(machine=machine) + goals_table(figures) + rest_table(figures) + WHY)
    return page


def goals_table(figures: list[Figure]) -> str:
    """A row a goal: measured, bound, met or missed. What was not measured says so."""
    values = {one.metric: one.value for one in figures}
    lines = ["| metric | measured | at most | | what |", "|---|---:|---:|---|---|"]
    for goal in GOALS:
        value = values.get(goal.metric)
        said = "not measured" if value is None else f"{spelled(value)} {goal.unit}".strip()
        verdict = "" if value is None else "met" if value <= goal.most else "**missed**"
        most = f"{spelled(goal.most)} {goal.unit}".strip()
        lines.append(f"| `{goal.metric}` | {said} | {most} | {verdict} | {goal.what} |")
    return "\n".join(lines) + "\n"


def rest_table(figures: list[Figure]) -> str:
    """What else the run told."""
    promised = {goal.metric for goal in GOALS}
    rest = [one for one in figures if one.metric not in promised]
    if not rest:
        return ""
    lines = ["", "| beside them | metric | value |", "|---|---|---:|"]
    for one in rest:
        value = f"{spelled(one.value)} {one.unit}".strip()
        lines.append(f"| {one.target} | `{one.metric}` | {value} |")
    return "\n".join(lines) + "\n"
