"""What a miner costs beside its engine: `python -m bench.miner [--quick]`.

The engine is a C program that costs little, the miner runs as in production (miner_stand.py). Bare engine
and front are asked in turns, so that a machine that grows slower slows both. Counted is the CPU of the
miner's process, from /proc, from before the first request until its outbox is empty: orders, digests,
receipts, the journal, seals and claims are all in it.

| metric | what |
|---|---|
| front_cpu_ms_per_request | CPU of a 1 KB request and its whole answer, 16 at once |
| front_cpu_us_per_chunk | CPU of a chunk of streams of 256 chunks as fast as they come, requests included |
| front_added_ttft_ms | median time to the first byte of a stream, one at a time: front less bare engine |
| agent_idle_mb, agent_idle_cpu_percent | memory (RSS) and CPU of the process at rest, beats included |
| cold_start_s | from nothing to the first token of the default engine |
| tunnel_cpu_ratio | CPU behind NAT over CPU in the open (bench/tunnel.py) |
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import uvloop
from bench.cpu import cpu_ms, resident_kib
from bench.figures import Figure, table, write
from bench.gateway.processes import Cores, cores
from bench.gateway.progress import Progress
from bench.gateway.upstream import upstream
from bench.gateway_costs import yardstick_ns
from bench.load import LAST_CHUNK, Lane
from bench.miner_page import write_page
from bench.miner_stand import Ask, Caller, calling, connect

from bench import start, tunnel

REST_S, REST_S_QUICK = 20.0, 2.0
EMPTY_DEADLINE_S = 90
LOOK_S = 0.25
FRONT, ENGINE = "front", "bare engine"


@dataclass(frozen=True, slots=True)
class Case:
    """`chunks` 0: whole answers; `interval_us` 0: as fast as they come. So many `requests` a round."""

    name: str
    chunks: int
    interval_us: int
    at_once: int
    requests: int


WHOLE = Case("1 KB request", 0, 0, at_once=16, requests=1_200)
FAST = Case("stream of 256 chunks", 256, 0, at_once=8, requests=160)
PACED = Case("paced stream, 50 chunks/s", 100, 20_000, at_once=40, requests=40)
FIRST = Case("time to first byte", 1, 0, at_once=1, requests=60)
CASES = (WHOLE, FAST, PACED)
QUICK_SHARE = 8
ROUNDS, ROUNDS_QUICK = 3, 1


@dataclass(slots=True)
class Seen:
    """What a case has cost so far. `first_ms` by target."""

    cpu_ms: list[float] = field(default_factory=list)
    chunks: list[float] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)
    first_ms: dict[str, list[float]] = field(default_factory=dict)


@dataclass(slots=True)
class Bench:
    """One run."""

    caller: Caller
    pid: int
    quick: bool
    progress: Progress
    rest_s: float = REST_S

    async def measure(self) -> list[Figure]:
        """All of the front's figures."""
        self.progress.step("the agent at rest")
        figures = await self._rest()
        self.progress.step("warm-up")
        for case in (*CASES, FIRST):
            await self._round(case, Seen(), requests=case.at_once)
        for case in CASES:
            seen = Seen()
            for number in range(self._rounds):
                self.progress.step(f"{case.name}, round {number + 1}")
                await self._round(case, seen, requests=self._requests(case))
            figures += figures_of(case, seen)
        self.progress.step(FIRST.name)
        seen = Seen()
        await self._first(seen, self._requests(FIRST) * self._rounds)
        return figures + first_figures(seen)

    async def _rest(self) -> list[Figure]:
        """Memory and CPU when nobody asks; the first beats are over."""
        await asyncio.sleep(self.rest_s / 4)
        before_ms, began = cpu_ms(self.pid), time.monotonic()
        await asyncio.sleep(self.rest_s)
        share = (cpu_ms(self.pid) - before_ms) / 10 / (time.monotonic() - began)
        return [
            Figure("agent at rest", "agent_idle_mb", "MB", resident_kib(self.pid) / 1024),
            Figure("agent at rest", "agent_idle_cpu_percent", "%", share),
        ]

    async def _round(self, case: Case, seen: Seen, *, requests: int) -> None:
        asks = self._asks(case, requests)
        await self._empty()
        before_ms, chunks, reads = cpu_ms(self.pid), 0, 0
        port, waiting = self.caller.front_port, list(reversed(asks))

        async def lane() -> None:
            nonlocal chunks, reads
            wire = await connect(port)
            while waiting:
                body = await answer(wire, waiting.pop())
                chunks += body.count(b"@")
                reads += wire.reads

        async with asyncio.TaskGroup() as group:
            for _ in range(case.at_once):
                group.create_task(lane())
        if chunks != case.chunks * requests:
            raise RuntimeError(f"{case.name}: {chunks} chunks of {case.chunks * requests}")
        await self.caller.seal(asks)
        await self._empty()
        seen.cpu_ms.append((cpu_ms(self.pid) - before_ms) / requests)
        seen.chunks.append(chunks / requests)
        seen.reads.append(reads / requests)

    async def _first(self, seen: Seen, requests: int) -> None:
        """One at a time, front and bare engine in turns."""
        lanes = {
            FRONT: await connect(self.caller.front_port),
            ENGINE: await connect(self.caller.engine_port),
        }
        asked: list[Ask] = []
        for _ in range(requests):
            for target, lane in lanes.items():
                one = self._ask(FIRST, is_bare=target is ENGINE)
                asked.append(one)
                began = time.perf_counter()
                await answer(lane, one)
                seen.first_ms.setdefault(target, []).append((lane.first_at - began) * 1000)
        await self.caller.seal(asked)

    async def _empty(self) -> None:
        """Until the miner has nothing left to claim."""
        end_at = time.monotonic() + EMPTY_DEADLINE_S
        while (told := (await self.caller.health())["outbox"])["claims"]:
            if time.monotonic() > end_at:
                raise RuntimeError(f"the outbox is not empty: {told}")
            await asyncio.sleep(LOOK_S)

    def _asks(self, case: Case, requests: int) -> list[Ask]:
        return [self._ask(case, is_bare=False) for _ in range(requests)]

    def _ask(self, case: Case, *, is_bare: bool) -> Ask:
        return self.caller.ask(chunks=case.chunks, interval_us=case.interval_us, is_bare=is_bare)

    @property
    def _rounds(self) -> int:
        return ROUNDS_QUICK if self.quick else ROUNDS

    def _requests(self, case: Case) -> int:
        return max(case.requests // QUICK_SHARE, case.at_once) if self.quick else case.requests


async def answer(lane: Lane, one: Ask) -> bytes:
    """The body of a whole answer or stream. Raises RuntimeError for anything else."""
    body = await lane.ask(one.data)
    if lane.length < 0 and not body.endswith(LAST_CHUNK):
        raise RuntimeError(f"a stream without an end: {body[-200:]!r}")
    return body


def figures_of(case: Case, seen: Seen) -> list[Figure]:
    """The CPU of a case, and how many chunks came in one read."""
    cost_ms = median(seen.cpu_ms)
    if not case.chunks:
        return [Figure(case.name, "front_cpu_ms_per_request", "ms", cost_ms)]
    name = "front_cpu_us_per_chunk" if case is FAST else "front_cpu_us_per_paced_chunk"
    return [
        Figure(case.name, name, "us", cost_ms * 1000 / case.chunks),
        Figure(case.name, "chunks a read", "", median(seen.chunks) / median(seen.reads)),
    ]


def first_figures(seen: Seen) -> list[Figure]:
    """Times to the first byte, and what the front adds."""
    front_ms, bare_ms = (median(seen.first_ms[target]) for target in (FRONT, ENGINE))
    return [
        Figure(FIRST.name, "front_ttft_ms", "ms", front_ms),
        Figure(FIRST.name, "engine_ttft_ms", "ms", bare_ms),
        Figure(FIRST.name, "front_added_ttft_ms", "ms", front_ms - bare_ms),
    ]


async def front(
    folder: Path, apart: Cores, engine_port: int, *, quick: bool, progress: Progress
) -> list[Figure]:
    """Start everything and measure the front."""
    async with calling(folder, apart, engine_port=engine_port) as (caller, pid):
        rest_s = REST_S_QUICK if quick else REST_S
        return await Bench(caller, pid, quick, progress, rest_s=rest_s).measure()


def measure(*, quick: bool, with_tunnel: bool, progress: Progress) -> list[Figure]:
    """All figures of a miner."""
    apart = cores()
    with (
        tempfile.TemporaryDirectory(prefix="penstock-bench-") as name,
        upstream(Path(name), apart, is_miner=False) as (engine_port, _),
    ):
        run = front(Path(name), apart, engine_port, quick=quick, progress=progress)
        figures = uvloop.run(run)
    figures.append(Figure("this machine", "yardstick", "us", yardstick_us()))
    progress.step("cold start")
    figures += cold_start(rounds=1 if quick else ROUNDS)
    if with_tunnel:
        progress.step("tunnel")
        ratios = tunnel.measure(quick=True)
        figures += [one for one in ratios if one.metric == "tunnel_cpu_ratio"][-1:]
    return figures


def yardstick_us() -> float:
    """A fixed piece of Python: 105 us where docs/performance.md was measured. What else the machine does
    makes it slower, and the figures of CPU with it.
    """
    return median(yardstick_ns() for _ in range(50)) / 1000


def cold_start(*, rounds: int) -> list[Figure]:
    """The default engine from nothing to its first token; the best round, as files are cached then."""
    times = [
        one.value for _ in range(rounds) for one in start.bare() if one.metric == "first token"
    ]
    return [Figure("default engine", "cold_start_s", "s", min(times))]


def steps(*, quick: bool, with_tunnel: bool) -> int:
    """How often the progress is told."""
    rounds = ROUNDS_QUICK if quick else ROUNDS
    return 4 + rounds * len(CASES) + with_tunnel


def main(arguments: Sequence[str]) -> int:
    """Measure, print a table, write bench/out/miner.json and docs/performance_miner.md."""
    parser = argparse.ArgumentParser(prog="bench.miner", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short rows: shows only that it runs")
    parser.add_argument("--no-tunnel", action="store_true", help="leave bench/tunnel.py out")
    wish = parser.parse_args(arguments)
    progress = Progress(steps(quick=wish.quick, with_tunnel=not wish.no_tunnel))
    figures = measure(quick=wish.quick, with_tunnel=not wish.no_tunnel, progress=progress)
    progress.finish()
    print(table(figures))
    print(write("miner", figures))
    if not wish.quick:
        print(write_page(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
