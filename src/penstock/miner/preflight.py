"""The self-test's judgement: what was measured becomes findings, each with its remedy.

Pure: whoever measures (the command line) passes plain facts in. A failure has a code that scripts and
support can go by; a warning is something one can serve with.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from penstock.kit.hardware import Maker
from penstock.miner.hardware import Hardware

GIB = 1 << 30
DISK_BYTES_MIN = 2 * GIB
DISK_BYTES_GOOD = 20 * GIB
DISK_BYTES_PER_S_GOOD = 50 << 20
MEMORY_BYTES_MIN = GIB
MEMORY_BYTES_GOOD = 4 * GIB
BITS_PER_S_GOOD = 10_000_000
ROUND_TRIP_MS_GOOD = 200
COLD_START_MS_GOOD = 10_000
MILLISECOND_REMEDY = "timedatectl set-ntp true"


class Mark(Enum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. `code` names what is wrong, "" when nothing is; `remedy` is what to do about it."""

    check: str
    mark: Mark
    what: str
    code: str = ""
    remedy: str = ""


def is_fit(findings: Iterable[Finding]) -> bool:
    """May this machine serve?"""
    return all(one.mark is not Mark.FAIL for one in findings)


def judge_hardware(hardware: Hardware) -> Finding:
    """Cards with their drivers, or the processor."""
    if hardware.gpus:
        names = ", ".join(f"{gpu.model} ({gpu.memory_bytes // GIB} GiB)" for gpu in hardware.gpus)
        mute = [gpu for gpu in hardware.gpus if not gpu.driver and gpu.maker is Maker.NVIDIA]
        if mute:
            return Finding(
                "drivers",
                Mark.WARN,
                f"{names}; the driver does not tell its version",
                "driver_mute",
                "reinstall the graphics driver if engines fail to start",
            )
        drivers = sorted({gpu.driver for gpu in hardware.gpus if gpu.driver})
        return Finding("drivers", Mark.OK, f"{names}; driver {', '.join(drivers) or 'unnamed'}")
    if not hardware.cores:
        return Finding(
            "drivers",
            Mark.WARN,
            "neither card nor processor could be read",
            "hardware_unreadable",
            "serve with --chutes NAME: what fits cannot be told here",
        )
    return Finding(
        "drivers",
        Mark.OK,
        f"no graphics card; processor {hardware.model or 'unnamed'}, {hardware.cores} cores",
    )


def judge_disk(*, free_bytes: int, write_bytes_per_s: int, folder: str) -> Finding:
    """Room for weights, and how fast they are written."""
    what = f"{free_bytes / GIB:.1f} GiB free, writes {write_bytes_per_s / (1 << 20):.0f} MiB/s"
    if free_bytes < DISK_BYTES_MIN:
        remedy = f"free space on the disk of {folder}, or choose another: --home DIR"
        return Finding("disk", Mark.FAIL, what, "disk_full", remedy)
    if free_bytes < DISK_BYTES_GOOD:
        remedy = "larger models will not fit: choose a larger disk by --home DIR"
        return Finding("disk", Mark.WARN, what, "disk_small", remedy)
    if write_bytes_per_s < DISK_BYTES_PER_S_GOOD:
        return Finding("disk", Mark.WARN, what, "disk_slow", "weights load slowly: use an SSD")
    return Finding("disk", Mark.OK, what)


def judge_memory(memory_bytes: int) -> Finding:
    """What this process may use."""
    if not memory_bytes:
        return Finding(
            "memory", Mark.WARN, "cannot be read", "memory_unknown", "name chutes by --chutes"
        )
    what = f"{memory_bytes / GIB:.1f} GiB"
    if memory_bytes < MEMORY_BYTES_MIN:
        remedy = "give the machine (or the container) at least 1 GiB"
        return Finding("memory", Mark.FAIL, what, "memory_short", remedy)
    if memory_bytes < MEMORY_BYTES_GOOD:
        return Finding(
            "memory", Mark.WARN, what, "memory_small", "only small models fit; 4 GiB is better"
        )
    return Finding("memory", Mark.OK, what)


def judge_clock(skew_ms: int, *, skew_ms_max: int) -> Finding:
    """Against the gateway's. A miner follows the market's time by itself, so it is no failure."""
    what = f"{abs(skew_ms)} ms {'ahead of' if skew_ms > 0 else 'behind'} the gateway"
    if abs(skew_ms) > skew_ms_max:
        return Finding("clock", Mark.WARN, what, "clock_off", MILLISECOND_REMEDY)
    return Finding("clock", Mark.OK, what if skew_ms else "as the gateway's")


def judge_bandwidth(*, bits_per_s: int, round_trip_ms: int) -> Finding:
    """From the gateway to here, by a bounded sample."""
    what = (
        f"{bits_per_s / 1_000_000:.1f} Mbit/s from the gateway, {round_trip_ms} ms there and back"
    )
    if bits_per_s < BITS_PER_S_GOOD:
        remedy = "text is fine; weights, images and audio will be slow: use a faster line"
        return Finding("bandwidth", Mark.WARN, what, "line_slow", remedy)
    if round_trip_ms > ROUND_TRIP_MS_GOOD:
        remedy = "each answer starts later by this: serve a gateway that is nearer"
        return Finding("bandwidth", Mark.WARN, what, "line_long", remedy)
    return Finding("bandwidth", Mark.OK, what)


def judge_port(*, host: str, port: int, why_not: str) -> Finding:
    """Can the miner listen where it was told to? Port 0: anywhere."""
    place = f"{host}:{port}" if port else f"{host}, any port"
    if why_not:
        remedy = "choose another: --port N, or stop the program that has it"
        return Finding("port", Mark.FAIL, f"{place}: {why_not}", "port_taken", remedy)
    return Finding("port", Mark.OK, f"can listen at {place}")


def judge_reach(*, endpoint: str, has_tunnels: bool, is_local: bool) -> Finding:
    """How gateways will reach this miner. `endpoint`: the public one that was named, if any."""
    if endpoint:
        return Finding("reach", Mark.OK, f"gateways dial {endpoint}")
    if is_local:
        return Finding("reach", Mark.OK, "the gateway is on this machine and dials it directly")
    if has_tunnels:
        return Finding(
            "reach", Mark.OK, "by reverse connections that this miner opens: no port, NAT is fine"
        )
    return Finding(
        "reach",
        Mark.FAIL,
        "the gateway takes no reverse connections and no public address was named",
        "unreachable",
        "name where it can dial you: --endpoint http://HOST:PORT (and --host 0.0.0.0 --port PORT)",
    )


def judge_engine(*, took_ms: int, why_not: str, remedy: str) -> Finding:
    """The default engine was really started, asked and stopped."""
    if why_not:
        return Finding("engine", Mark.FAIL, why_not, "engine_failed", remedy)
    what = f"the default engine answers {took_ms / 1000:.1f} s after its start"
    if took_ms > COLD_START_MS_GOOD:
        return Finding(
            "engine", Mark.WARN, what, "engine_slow", "close other programs; check the disk"
        )
    return Finding("engine", Mark.OK, what)


def judge_sandbox(protections: Iterable[tuple[str, bool, str]]) -> Finding:
    """(what an engine cannot do, is it so here, by what) for each protection."""
    listed = list(protections)
    off = [name for name, is_on, _ in listed if not is_on]
    what = f"{len(listed) - len(off)} of {len(listed)} protections"
    if not off:
        return Finding("sandbox", Mark.OK, what)
    remedies = {how.removeprefix("off: ") for _, is_on, how in listed if not is_on}
    return Finding(
        "sandbox",
        Mark.WARN,
        f"{what}; engines could {', '.join(off)}",
        "sandbox_partial",
        "; ".join(sorted(remedies)),
    )


def judge_market(*, why_not: str, name: str) -> Finding:
    """Was the market found, and does its charter hold?"""
    if why_not:
        remedy = "check --gateway URL; ask the operator whether the gateway is up"
        return Finding("market", Mark.FAIL, why_not, "market_unreachable", remedy)
    return Finding("market", Mark.OK, name)


def skipped(check: str, why: str) -> Finding:
    """Something that could not be looked at."""
    return Finding(check, Mark.SKIPPED, why)
