"""The whole way of a request, with everything on, beside the bare engine and two plain relays.

| way | what is between the load and the engine |
|---|---|
| bare | nothing |
| pipe | a byte relay (pipe.py): the least that a Python process can do |
| nginx | nginx, where it is installed |
| market | gateway and miner: key, hold, routing, signed order, digest, checkpoints, receipt, \
countersignature, publishing, intake, books, log |

CPU of the market's rows is read when the ledger has logged every record, so nothing is left over.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.cpu import cpu_ms
from bench.figures import Figure
from bench.ground import Ground, free_port, nginx, process, question, wait_for

from bench import load

WARM_S = 0.4
SHORT_WORDS, LONG_WORDS = 8, 200
PACED_MS = 20
SLOTS = 64
IDLE_S = 3


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked: which engine, streamed or whole, how long an answer, by how many at once."""

    engine: str
    form: str
    words: int
    connections: int

    @property
    def name(self) -> str:
        return f"{self.engine} {self.form} {self.words} c{self.connections}"

    def body(self) -> str:
        return json.dumps(question(self.engine, words=self.words, stream=self.form == "stream"))


@dataclass(frozen=True, slots=True)
class Way:
    """A way to an engine: where to ask, and whose CPU it is."""

    name: str
    url: str
    pids: dict[str, int]
    ground: Ground | None = None


CASES = (
    *(Case("echo", "whole", SHORT_WORDS, count) for count in (1, 8, 32)),
    *(Case("echo", "stream", SHORT_WORDS, count) for count in (8,)),
    *(Case("echo", "stream", LONG_WORDS, count) for count in (8,)),
    *(Case("paced", "stream", LONG_WORDS, count) for count in (8, 32)),
    *(Case("tiny-chat", "whole", SHORT_WORDS, count) for count in (1, 2)),
    *(Case("tiny-chat", "stream", SHORT_WORDS, count) for count in (1, 2)),
)
QUICK = (Case("echo", "whole", SHORT_WORDS, 8), Case("echo", "stream", LONG_WORDS, 8))


def measure(*, quick: bool) -> list[Figure]:
    """All cases on all ways."""
    seconds = 0.5 if quick else 2.0
    figures: list[Figure] = []
    warm: set[tuple[str, str]] = set()
    with (
        tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder,
        stage(Path(folder), paced=not quick) as ways,
    ):
        ground = next(one.ground for one in ways["echo"] if one.ground is not None)
        if not quick:
            figures += idle(ground)
        for case in QUICK if quick else CASES:
            for way in ways[case.engine]:
                if (way.url, case.engine) not in warm:
                    warm.add((way.url, case.engine))
                    _load(case, way, seconds=WARM_S)
                figures += row(case, way, seconds=seconds)
    return figures


@contextmanager
def stage(folder: Path, *, paced: bool) -> Iterator[dict[str, list[Way]]]:
    """The engines, the relays and the market; the ways to each engine."""
    with ExitStack() as stack:
        ground = Ground(folder / "home", free_port())
        ground.up(miners=1)
        stack.callback(ground.down)
        stations = {name: pid for name, pid in ground.pids().items() if name != "market"}
        stations["miner"] = stations.pop("miner-1")
        ways: dict[str, list[Way]] = {}
        for name, token_ms in (("echo", 0), ("paced", PACED_MS))[: 2 if paced else 1]:
            port, relay = free_port(), free_port()
            engine = stack.enter_context(
                process("bench.engine", str(port), str(token_ms), str(SLOTS))
            )
            pipe = stack.enter_context(process("bench.pipe", str(relay), str(port)))
            ways[name] = [
                Way("bare", f"http://127.0.0.1:{port}", {"engine": engine}),
                Way("pipe", f"http://127.0.0.1:{relay}", {"engine": engine, "relay": pipe}),
            ]
            anchor = stack.enter_context(nginx(folder / f"nginx-{name}", port))
            if anchor is not None:
                pids = {"engine": engine, "relay": anchor[0]}
                ways[name].append(Way("nginx", f"http://127.0.0.1:{anchor[1]}", pids))
            ground.deploy(name, port, parallel_max=SLOTS)
            ways[name].append(Way("market", ground.url, {**stations, "engine": engine}, ground))
        worker = ground.worker_pid(stations["miner"])
        ways["tiny-chat"] = [
            Way("bare", ground.worker_url(), {"engine": worker}),
            Way("market", ground.url, {**stations, "engine": worker}, ground),
        ]
        yield ways


def idle(ground: Ground) -> list[Figure]:
    """What the market burns when nobody asks anything."""
    pids = ground.pids()
    before = {name: _cpu_ms(name, pid) for name, pid in pids.items()}
    time.sleep(IDLE_S)
    return [
        Figure(f"idle: {name}", "CPU", "ms/s", (_cpu_ms(name, pid) - before[name]) / IDLE_S)
        for name, pid in pids.items()
    ]


def row(case: Case, way: Way, *, seconds: float) -> list[Figure]:
    """One case on one way. Raises RuntimeError when no request was answered."""
    before = {name: _cpu_ms(name, pid) for name, pid in way.pids.items()}
    seen = _load(case, way, seconds=seconds)
    used = {name: _cpu_ms(name, pid) - before[name] for name, pid in way.pids.items()}
    target = f"{way.name}: {case.name}"
    figures = [
        Figure(target, "requests", "1/s", seen.requests / seen.wall_s),
        Figure(target, "first byte p50", "ms", seen.first_p50_ms),
        Figure(target, "whole p50", "ms", seen.whole_p50_ms),
        Figure(target, "whole p99", "ms", seen.whole_p99_ms),
    ]
    if seen.errors:
        figures.append(Figure(target, "failed", "requests", seen.errors))
    if case.form == "stream":
        figures.append(Figure(target, "chunks", "1/s", seen.events / seen.wall_s))
        figures.append(Figure(target, "chunks a read", "", seen.events / seen.reads))
        # Who relays: the gateway in the market, the relay beside it, and nobody before the engine.
        relay = used.get("gateway", used.get("relay"))
        if relay is not None:
            figures.append(Figure(target, "relay CPU/chunk", "us", relay * 1000 / seen.events))
    figures += [
        Figure(target, f"{name} CPU", "ms/request", ms / seen.requests)
        for name, ms in sorted(used.items())
    ]
    return figures


def _load(case: Case, way: Way, *, seconds: float) -> load.Seen:
    """Put load on a way; in a market, until the last record is logged."""
    taken = records(way.ground) if way.ground is not None else 0
    key = way.ground.api_key if way.ground is not None else ""
    wish = load.Wish(
        url=f"{way.url}/v1/chat/completions",
        api_key=key,
        body=case.body(),
        connections=case.connections,
        seconds=seconds,
    )
    seen = load.run(wish)
    if not seen.requests:
        raise RuntimeError(f"{way.name}: {case.name}: {seen.errors} failed: {seen.first_error}")
    ground = way.ground
    if ground is not None:
        wait_for(lambda: records(ground) >= taken + seen.requests, "all records are logged")
    return seen


def records(ground: Ground) -> int:
    """How many records the ledger has posted since it started."""
    total = 0
    for line in ground.page("ledger", "/metrics").splitlines():
        if line.startswith(
            ('ledger_arrivals_total{fate="posted"', 'ledger_arrivals_total{fate="op')
        ):
            total += int(float(line.rpartition(" ")[2]))
    return total


def _cpu_ms(name: str, pid: int) -> float:
    # PostgreSQL works in children; a miner's and the relay's are counted by themselves.
    return cpu_ms(pid, with_children=name == "postgres")
