"""The workloads, and one run of one of them against one target."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from bench.gateway import cast
from bench.gateway.native import program
from bench.gateway.processes import Cores, pinned
from bench.gateway.targets import Target

RAMP_MS = 1_000
SETTLE_MS = 300
"""load.c waits so long after the ramp before it counts."""
INTERVAL_US = 20_000
"""50 tokens a second."""
STREAM_CHUNKS = 256
GRACE_S = 25
"""How long requests under way may take to end: LiteLLM needs it for 64 streams of 256 chunks."""
PACED_GRACE_S = 3


class Seen(msgspec.Struct, frozen=True):
    """What the load counted; see load.c."""

    requests: int
    chunks: int
    reads: int
    errors: int
    lost: int
    cut: int
    reconnects: int
    wall_us: int
    steady_chunks: int
    steady_due: int
    whole_p50_us: int
    whole_p99_us: int
    first_p50_us: int
    delay_p50_us: int
    delay_p99_us: int
    first_error: str


@dataclass(frozen=True, slots=True)
class Workload:
    """`chunks` 0: whole answers. `interval_us` 0: as fast as they come. `seconds` of load."""

    name: str
    connections: int
    chunks: int
    interval_us: int
    seconds: float

    @property
    def is_paced(self) -> bool:
        return self.interval_us > 0

    def words(self) -> list[str]:
        """The load's arguments."""
        told = [f"connections={self.connections}", f"chunks={self.chunks}"]
        if self.is_paced:
            steady_ms = round(self.seconds * 1000)
            return [
                *told,
                f"steady_ms={steady_ms}",
                f"ramp_ms={RAMP_MS}",
                f"interval_us={self.interval_us}",
                f"grace_ms={PACED_GRACE_S * 1000}",
            ]
        return [*told, f"seconds={max(1, round(self.seconds))}", f"grace_ms={GRACE_S * 1000}"]


def chat(seconds: float) -> Workload:
    """1 KB requests and answers, 64 at once."""
    return Workload("chat", connections=64, chunks=0, interval_us=0, seconds=seconds)


def fast(seconds: float) -> Workload:
    """Streams of 256 chunks, 64 at once, as fast as they come."""
    return Workload("fast", connections=64, chunks=STREAM_CHUNKS, interval_us=0, seconds=seconds)


def paced(seconds: float, *, streams: int = 500) -> Workload:
    """So many streams at 50 tokens a second, all open for `seconds`."""
    whole_ms = RAMP_MS + SETTLE_MS + round(seconds * 1000)
    chunks = whole_ms * 1000 // INTERVAL_US + 1
    return Workload(
        "paced", connections=streams, chunks=chunks, interval_us=INTERVAL_US, seconds=seconds
    )


def run(
    workload: Workload,
    target: Target,
    *,
    folder: Path,
    cores: Cores,
    on_steady: Callable[[], None] = lambda: None,
) -> Seen:
    """Load the target. `on_steady` is called when all paced streams are open."""
    request = folder / f"{workload.name}.{target.name}"
    request.write_bytes(
        cast.request(
            target.port,
            api_key=target.api_key,
            chunks=workload.chunks,
            interval_us=workload.interval_us,
        )
    )
    argv = [str(program("load")), f"port={target.port}", f"request={request}", *workload.words()]
    said = b""
    with pinned(cores.ends):
        child = subprocess.Popen(argv, stdout=subprocess.PIPE)
    with child:
        assert child.stdout is not None, "a pipe was asked for"
        for line in child.stdout:
            if line == b"steady\n":
                on_steady()
            else:
                said = line
    if child.returncode:
        raise RuntimeError(f"the load ended with status {child.returncode}: {argv}")
    return msgspec.json.decode(said, type=Seen)
