"""What reverse connections cost beside dialling the miner: `python -m bench.tunnel [--quick]`.

Two markets side by side, each with a gateway, one miner and the same echo engine; in one the gateway
dials the miner, in the other the miner has dialled the gateway and speaks TLS with it. They are asked in
turns, so that a machine that grows slower slows both. Counted is the CPU of gateway and miner, from
/proc: everything that the way between the two can change. `tunnel_cpu_ratio` is the tunnel's CPU over
the other's.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.cpu import cpu_ms
from bench.figures import Figure, table, write
from bench.ground import Ground, free_port, process, question, wait_for
from bench.load import Seen, Wish, run
from bench.way import records

SLOTS = 64
PACED_MS = 20
ROUNDS = 5
SECONDS = 2.0
QUICK_SECONDS = 0.5
WARM_S = 0.5
WAYS = ("direct", "tunnel")


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked, of which engine, by how many at once."""

    name: str
    engine: str
    words: int
    is_streamed: bool
    connections: int

    def body(self) -> str:
        return json.dumps(question(self.engine, words=self.words, stream=self.is_streamed))


CASES = (
    Case("whole, 1 at once", "echo", 8, is_streamed=False, connections=1),
    Case("whole, 8 at once", "echo", 8, is_streamed=False, connections=8),
    Case("stream, 1 at once", "echo", 50, is_streamed=True, connections=1),
    Case("stream of 200, 8 at once", "echo", 200, is_streamed=True, connections=8),
    Case("paced stream of 100, 16 at once", "paced", 100, is_streamed=True, connections=16),
)
QUICK = CASES[1:4:2]


@dataclass(slots=True)
class Way:
    """One of the two markets. `pids` are its gateway and its miner."""

    name: str
    ground: Ground
    pids: dict[str, int]
    seen: dict[str, list[Seen]] = field(default_factory=dict)
    used_ms: dict[str, float] = field(default_factory=dict)

    def ask(self, case: Case, *, seconds: float, counts: bool = True) -> None:
        """One round of a case. Raises RuntimeError when nothing was answered."""
        before_ms, taken = self.cpu_ms(), records(self.ground)
        url = f"{self.ground.url}/v1/chat/completions"
        seen = run(Wish(url, self.ground.api_key, case.body(), case.connections, seconds))
        if not seen.requests or seen.errors:
            raise RuntimeError(f"{self.name}: {case.name}: {seen.errors}: {seen.first_error}")
        wait_for(lambda: records(self.ground) >= taken + seen.requests, "all records are logged")
        if counts:
            self.seen.setdefault(case.name, []).append(seen)
            used_ms = self.cpu_ms() - before_ms
            self.used_ms[case.name] = self.used_ms.get(case.name, 0.0) + used_ms

    def cpu_ms(self) -> float:
        """Of the gateway with its workers, and of the miner without its engines."""
        return cpu_ms(self.pids["gateway"], with_children=True) + cpu_ms(self.pids["miner"])

    def request_ms(self, case: Case) -> float:
        """CPU of one request."""
        return self.used_ms[case.name] / sum(one.requests for one in self.seen[case.name])


def measure(*, quick: bool) -> list[Figure]:
    """All cases, both ways, in turns."""
    figures = []
    seconds, rounds = (QUICK_SECONDS, 1) if quick else (SECONDS, ROUNDS)
    with (
        tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder,
        stage(Path(folder)) as ways,
    ):
        for case in QUICK if quick else CASES:
            for way in ways:
                way.ask(case, seconds=WARM_S, counts=False)
            for number in range(rounds):
                for way in ways if number % 2 else reversed(ways):
                    way.ask(case, seconds=seconds)
            figures += figures_of(case, *ways)
    ratios = [one.value for one in figures if one.metric == "tunnel_cpu_ratio"]
    figures.append(Figure("all cases (median)", "tunnel_cpu_ratio", "", median(ratios)))
    return figures


def figures_of(case: Case, direct: Way, tunnel: Way) -> list[Figure]:
    """One case: both ways, and what is between them."""
    figures = []
    for way in (direct, tunnel):
        seen = way.seen[case.name]
        figures += [
            Figure(case.name, f"{way.name} CPU", "ms/request", way.request_ms(case)),
            Figure(case.name, f"{way.name} TTFT p50", "ms", median(s.first_p50_ms for s in seen)),
        ]
        if case.is_streamed:
            events = sum(one.events for one in seen)
            figures.append(
                Figure(
                    case.name, f"{way.name} CPU", "us/chunk", 1000 * way.used_ms[case.name] / events
                )
            )
    added_ms = figures_value(figures, "tunnel TTFT p50") - figures_value(figures, "direct TTFT p50")
    ratio = tunnel.request_ms(case) / direct.request_ms(case)
    return [
        *figures,
        Figure(case.name, "added TTFT", "ms", added_ms),
        Figure(case.name, "tunnel_cpu_ratio", "", ratio),
    ]


def figures_value(figures: list[Figure], metric: str) -> float:
    """The figure of this metric."""
    return next(one.value for one in figures if one.metric == metric)


@contextmanager
def stage(folder: Path) -> Iterator[tuple[Way, Way]]:
    """Both markets, each with both engines."""
    with ExitStack() as stack:
        engines = {}
        for name, token_ms in (("echo", 0), ("paced", PACED_MS)):
            engines[name] = free_port()
            argv = (str(engines[name]), str(token_ms), str(SLOTS))
            stack.enter_context(process("bench.engine", *argv))
        ways = []
        for name in WAYS:
            ground = Ground(folder / name, free_port())
            ground.up(miners=1, settings=settings_of(name))
            stack.callback(ground.down)
            for engine, port in engines.items():
                ground.deploy(engine, port, parallel_max=SLOTS)
            pids = ground.pids()
            ways.append(Way(name, ground, {"gateway": pids["gateway"], "miner": pids["miner-1"]}))
        yield ways[0], ways[1]


def settings_of(name: str) -> dict[str, dict[str, Any]]:
    """What the two markets differ in."""
    miner: dict[str, Any] = {"chutes": ["tiny-chat", "echo", "paced"], "auto": False}
    if name == "direct":
        return {"miner-1": miner}
    return {
        "gateway": {"tunnel": {"port": free_port()}},
        "miner-1": {**miner, "tunnel": {"mode": "only"}},
    }


def main(arguments: list[str]) -> int:
    """Measure, print a table, write bench/out/tunnel.json."""
    parser = argparse.ArgumentParser(prog="bench.tunnel", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short rows: shows only that it runs")
    figures = measure(quick=parser.parse_args(arguments).quick)
    print(table(figures))
    print(write("tunnel", figures))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
