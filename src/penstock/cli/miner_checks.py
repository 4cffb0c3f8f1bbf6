"""The self-test's measurements on this machine; what they mean is judged in `miner/preflight.py`."""

import asyncio
import os
import shutil
import socket
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from penstock.adapters.engines.catalogue import EngineKind, EngineWorld, build_engine
from penstock.adapters.hardware import machine
from penstock.adapters.runtimes import sandbox
from penstock.cli.errors import Stop
from penstock.cli.miner_market import Found, find_market
from penstock.cli.plan import PASSED_ON
from penstock.cli.world import ENTROPY, stopwatch
from penstock.kit.engine import EngineFailed, EngineLimits
from penstock.kit.environment import inherited
from penstock.kit.errors import WireError
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.sockets import Sockets
from penstock.miner import preflight
from penstock.miner.hardware import Hardware, detect
from penstock.miner.preflight import Finding

DISK_SAMPLE_BYTES = 16 << 20
DISK_CHUNK_BYTES = 1 << 20
LINE_SAMPLE_BYTES_MAX = 8 << 20
LINE_SAMPLE_S_MAX = 2.0
LINE_CALLS_MAX = 256
LINE_DEADLINE_MS = 10_000
ENGINE_DEADLINE_MS = 60_000
ENGINE_STOP_MS = 5_000
ENGINE_SOURCE = "builtin:tiny-chat"

Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Ground:
    """What is tested: the home's folder, and how the miner would be reached."""

    folder: Path
    gateway_url: str
    host: str = "127.0.0.1"
    port: int = 0
    endpoint: str = ""


@dataclass(frozen=True, slots=True)
class Examined:
    """What came of it; no market when it could not be found."""

    findings: tuple[Finding, ...]
    hardware: Hardware
    found: Found | None


async def examine(ground: Ground, told: Told) -> Examined:
    """All checks, one after the other, so that none disturbs another's measure. Never raises."""
    told("reading the hardware")
    hardware = await asyncio.to_thread(this_hardware)
    findings = [preflight.judge_hardware(hardware), preflight.judge_memory(hardware.memory_bytes)]
    told("writing to the disk")
    findings.append(await asyncio.to_thread(check_disk, ground.folder))
    told("asking the gateway")
    found, market = await check_market(ground.gateway_url)
    findings.append(market)
    findings += await check_line(found, told)
    findings.append(check_port(ground.host, ground.port))
    if found is not None:
        findings.append(
            preflight.judge_reach(
                endpoint=ground.endpoint, has_tunnels=found.has_tunnels, is_local=found.is_local
            )
        )
    else:
        findings.append(preflight.skipped("reach", "the gateway is not known"))
    told("starting the default engine")
    findings.append(await check_engine(ground.folder))
    told("trying the sandbox")
    findings.append(await check_sandbox())
    return Examined(tuple(findings), hardware, found)


def this_hardware() -> Hardware:
    """This machine, as offers say it."""
    return detect(*machine.this_machine().facts())


def check_disk(folder: Path) -> Finding:
    """Write a sample durably and remove it."""
    try:
        free_bytes = shutil.disk_usage(folder).free
        speed = 0 if free_bytes < 2 * DISK_SAMPLE_BYTES else _write_speed(folder)
    except OSError as error:
        return Finding(
            "disk",
            preflight.Mark.FAIL,
            f"{folder} cannot be written: {error.strerror or error}",
            "disk_unusable",
            "choose another folder: --home DIR",
        )
    return preflight.judge_disk(free_bytes=free_bytes, write_bytes_per_s=speed, folder=str(folder))


def _write_speed(folder: Path) -> int:
    block = ENTROPY(DISK_CHUNK_BYTES)
    started = stopwatch()
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(DISK_SAMPLE_BYTES // DISK_CHUNK_BYTES):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return int(DISK_SAMPLE_BYTES / max(stopwatch() - started, 1e-6))


async def check_market(gateway_url: str) -> tuple[Found | None, Finding]:
    """Is there a market behind this gateway, with a charter that holds?"""
    try:
        found = await find_market(gateway_url)
    except Stop as error:
        why = error.happened + (f": {error.why}" if error.why else "")
        return None, preflight.judge_market(why_not=why, name="")
    name = f"{found.params.network} at {found.market_url}"
    return found, preflight.judge_market(why_not="", name=name)


async def check_line(found: Found | None, told: Told) -> list[Finding]:
    """Clock and bandwidth, by the gateway."""
    if found is None:
        why = "the gateway is not known"
        return [preflight.skipped("clock", why), preflight.skipped("bandwidth", why)]
    clock = preflight.judge_clock(found.skew_ms, skew_ms_max=found.params.clock_skew_max_ms)
    told("measuring the line")
    try:
        bits_per_s, round_trip_ms = await line_speed(found.gateway_url)
    except WireError as error:
        return [clock, preflight.skipped("bandwidth", str(error))]
    return [
        clock,
        preflight.judge_bandwidth(bits_per_s=bits_per_s, round_trip_ms=round_trip_ms),
    ]


async def line_speed(gateway_url: str) -> tuple[int, int]:
    """(bits a second from the gateway, milliseconds there and back): its own description, asked for
    again and again on one connection, within bytes and seconds. Raises WireError.
    """
    client = HttpClient(Sockets())
    try:
        await client.call("GET", f"{gateway_url}/livez", deadline_ms=LINE_DEADLINE_MS)
        asked = stopwatch()
        await client.call("GET", f"{gateway_url}/livez", deadline_ms=LINE_DEADLINE_MS)
        round_trip_s = stopwatch() - asked
        started, taken = stopwatch(), 0
        for _ in range(LINE_CALLS_MAX):
            reply = await client.call(
                "GET", f"{gateway_url}/openapi.json", deadline_ms=LINE_DEADLINE_MS
            )
            taken += len(reply.body)
            is_over = stopwatch() - started > LINE_SAMPLE_S_MAX
            if taken >= LINE_SAMPLE_BYTES_MAX or is_over:
                break
    finally:
        await client.close()
    return int(taken * 8 / max(stopwatch() - started, 1e-6)), int(round_trip_s * 1_000)


def check_port(host: str, port: int) -> Finding:
    """Try to listen there."""
    why_not = ""
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        why_not = error.strerror or str(error)
    return preflight.judge_port(host=host, port=port, why_not=why_not)


async def check_engine(folder: Path) -> Finding:
    """Start the default engine for real, ask it, and stop it again."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="test-") as scratch:
        try:
            took_s = await _start_engine(Path(scratch))
        except EngineFailed as error:
            return preflight.judge_engine(took_ms=0, why_not=error.reason, remedy=error.remedy)
        except OSError as error:
            return preflight.judge_engine(
                took_ms=0, why_not=str(error), remedy="penstock miner test --bundle FILE"
            )
    return preflight.judge_engine(took_ms=int(took_s * 1_000), why_not="", remedy="")


async def _start_engine(scratch: Path) -> float:
    world = EngineWorld(network=Sockets(), entropy=ENTROPY, home=scratch, env=inherited(PASSED_ON))
    engine = build_engine(EngineKind.LLAMACPP, ENGINE_SOURCE, EngineLimits(1, 512), world=world)
    started = stopwatch()
    try:
        await engine.start(deadline_ms=ENGINE_DEADLINE_MS)
        return stopwatch() - started
    finally:
        await _quietly(engine.stop(deadline_ms=ENGINE_STOP_MS))


async def _quietly(stopping: Awaitable[None]) -> None:
    """What failed to start is stopped all the same; that failure was told."""
    try:
        await stopping
    except (EngineFailed, OSError):
        return


async def check_sandbox() -> Finding:
    """What engines are kept from on this machine."""
    ground = await sandbox.look(inherited(("PATH",)).get("PATH", ""))
    return preflight.judge_sandbox(
        (one.name, one.is_on, one.how) for one in sandbox.protections(ground)
    )
