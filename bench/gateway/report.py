"""What stands beside the figures: the machine, every sample, and whether ours was really all on."""

import datetime as dt
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
from bench.gateway.measure import Sample
from bench.gateway.ours import books, page
from bench.gateway.processes import Cores, tail
from bench.gateway.targets import Ground

UNSEALED_MAX = 4_096
"""A miner takes no more orders of a session while so many wait for their seal."""


def describe(
    samples: Sequence[Sample], *, versions: Mapping[str, str], cores: Cores
) -> dict[str, Any]:
    """Machine, date, versions and samples, as JSON."""
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": processor(Path("/proc/cpuinfo").read_text()),
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "load_1min": os.getloadavg()[0],
            "gateway_core": sorted(cores.gateway),
            "other_core": sorted(cores.ends),
        },
        "versions": dict(versions),
        "samples": [{**asdict(one), "seen": msgspec.to_builtins(one.seen)} for one in samples],
    }


def processor(cpuinfo: str) -> str:
    """The model name in /proc/cpuinfo; "" if it does not say."""
    for line in cpuinfo.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return ""


def checks(ground: Ground, samples: Sequence[Sample]) -> dict[str, Any]:
    """What load, mock, sidecar and ledger saw of our gateway, and the faults in it."""
    told = books(ground)
    counts = page(ground.upstream_port, "/bench/counts")
    refused = tail(ground.folder / "sidecar.log")
    found = faults(told, counts, refused=refused)
    found += [
        f"{one.workload}: {one.seen.errors} requests failed, {one.seen.lost} chunks were lost"
        for one in samples
        if one.target == "penstock" and (one.seen.errors or one.seen.lost)
    ]
    return {"books": told, "miner": counts, "faults": found}


def faults(told: Mapping[str, Any], counts: Mapping[str, Any], *, refused: str) -> list[str]:
    """Why a row of ours would not be worth printing; empty when all was on and held."""
    found = []
    if refused:
        found.append(f"the miner refused: {refused}")
    if counts["refused"]:
        found.append(f"the miner refused {counts['refused']} orders")
    if counts["unsealed_max"] > UNSEALED_MAX:
        found.append(f"{counts['unsealed_max']} orders waited for a seal (at most {UNSEALED_MAX})")
    if not told["records"]:
        found.append("no record came to the ledger")
    if told["bad"]:
        found.append(f"{told['bad']} of {told['judged']} records do not hold: {told['first_bad']}")
    if told["judged"] and not told["decided"]:
        found.append("no record holds a routing decision")
    if not counts["vouched"]:
        found.append("no order came under a session")
    return found
