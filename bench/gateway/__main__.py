"""`python -m bench.gateway`: our gateway beside nginx, haproxy, sglang-router and LiteLLM, in one run.

Prints a table, the goals with met or missed, and writes `bench/out/gateway.json` (figures) and
`gateway.run.json` (versions, machine, date, every sample). A peer that cannot be had is reported as
skipped, with what to do about it; nothing is made up for it.
"""

import argparse
import json
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.figures import OUT, write
from bench.gateway import ours, results
from bench.gateway.measure import Bench, Plan, Sample, steps
from bench.gateway.native import program
from bench.gateway.page import machine_line, put
from bench.gateway.peers import STARTS
from bench.gateway.processes import NotStarted, cores
from bench.gateway.progress import Progress
from bench.gateway.report import checks, describe
from bench.gateway.targets import Ground, Missing, Start, Target
from bench.gateway.upstream import upstream

ALL: dict[str, Start] = {**STARTS, "penstock": ours.penstock}
WHOLE = Plan(repeats=3, seconds=4)
QUICK = Plan(repeats=1, seconds=1)
# LiteLLM alone needs half a minute to start and to drain 64 streams.
QUICK_TARGETS = tuple(name for name in ALL if name != "litellm")


@dataclass(slots=True)
class Outcome:
    """What came of a run."""

    samples: list[Sample] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    checks: dict[str, Any] = field(default_factory=dict)


def main(arguments: list[str]) -> int:
    """The command; returns its exit status: 1 when our own gateway failed the bench's checks."""
    parser = argparse.ArgumentParser(prog="bench.gateway", description=__doc__)
    parser.add_argument("--targets", help=f"of: {' '.join(ALL)} (default: all)", nargs="+")
    parser.add_argument("--repeats", type=int, help=f"repetitions, by turns ({WHOLE.repeats})")
    parser.add_argument("--seconds", type=float, help=f"of each load ({WHOLE.seconds:.0f})")
    parser.add_argument("--quick", action="store_true", help="about a minute, without LiteLLM")
    parser.add_argument("--profile", action="store_true", help="where our gateway's CPU goes")
    parser.add_argument("--plot", type=Path, help="draw the last run into this folder")
    parser.add_argument("--page", type=Path, help="write what was measured into this page too")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the JSON files")
    wish = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is ended
    if wish.plot is not None:
        from bench.gateway.plot import draw

        draw(wish.out / "gateway.run.json", wish.plot)
        return 0
    names = list(wish.targets or (QUICK_TARGETS if wish.quick else ALL))
    unknown = sorted(set(names) - set(ALL))
    if unknown:
        parser.error(f"there is no target {unknown[0]!r}; there are {', '.join(ALL)}")
    default = QUICK if wish.quick else WHOLE
    plan = Plan(repeats=wish.repeats or default.repeats, seconds=wish.seconds or default.seconds)
    if wish.profile:
        from bench.gateway.profiling import profile

        return profile(plan.seconds, folder=wish.out, page=wish.page)
    return _report(run(names, plan), wish.out, page=wish.page)


def run(names: list[str], plan: Plan) -> Outcome:
    """Start everything, measure, end everything."""
    outcome, where = Outcome(), cores()
    for one in ("mock", "load"):
        program(one)
    with tempfile.TemporaryDirectory(prefix="bench-gateway-") as place, ExitStack() as stack:
        folder = Path(place)
        progress = Progress(total=len(names) + steps(len(names), plan))
        is_miner = "penstock" in names
        port, pid = stack.enter_context(upstream(folder, where, is_miner=is_miner))
        ground = Ground(folder, port, where, say=progress.note)
        targets: list[Target] = []
        for name in names:
            progress.step(f"start {name}")
            try:
                targets.append(stack.enter_context(ALL[name](ground)))
            except (Missing, NotStarted) as error:
                outcome.skipped[name] = str(error)
                progress.note(f"{name} is skipped: {error}")
        outcome.versions = {one.name: one.version for one in targets}
        progress.total = progress.done + steps(len(targets), plan)
        bench = Bench(folder, where, pid, progress.step, outcome.samples)
        bench.warm_up(targets, plan)
        bench.measure(targets, plan)
        if "penstock" in outcome.versions:
            outcome.checks = checks(ground, outcome.samples)
        progress.finish()
    return outcome


def _report(outcome: Outcome, folder: Path, *, page: Path | None) -> int:
    found = results.values(outcome.samples)
    path = write("gateway", results.figures(found), folder=folder)
    whole = describe(outcome.samples, versions=outcome.versions, cores=cores())
    whole |= {"skipped": outcome.skipped, "checks": outcome.checks}
    (folder / "gateway.run.json").write_text(json.dumps(whole, indent=1) + "\n")
    parts = [results.table(found), machine_line(whole)]
    goals = results.goals(found)
    if goals:
        parts.append(results.goals_table(goals))
    text = "\n\n".join(parts)
    print(f"\n## gateway ({path})\n\n{text}")
    if page is not None:
        put(page, "measured", text)
    for line in _remarks(outcome):
        print(f"\n{line}")
    return 1 if outcome.checks.get("faults") or "penstock" in outcome.skipped else 0


def _remarks(outcome: Outcome) -> list[str]:
    """What a reader of the table must know."""
    told = [f"fault: {fault}" for fault in outcome.checks.get("faults", [])]
    if not cores().are_apart:
        told.append("One core for everything: the ends disturb what is measured.")
    return told + [
        f"{one.workload} {one.target}: {one.seen.first_error}"
        for one in outcome.samples
        if one.seen.first_error
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
