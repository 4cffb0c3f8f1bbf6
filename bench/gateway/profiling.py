"""Where our gateway's CPU goes: `python -m bench.gateway --profile`.

py-spy looks at the gateway's stack some hundred times a second while it is loaded, so the gateway
runs as it always does. What a function has for itself holds what C and the kernel do for it: a
`write` is mostly the socket, `run` of the event loop is mostly `epoll_wait` and `recv`.
"""

import json
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.cpu import cpu_ms, system_ms
from bench.figures import OUT
from bench.gateway import ours, workloads
from bench.gateway.meters import wait_quiet
from bench.gateway.page import put
from bench.gateway.peers import pypi
from bench.gateway.processes import cores, pinned
from bench.gateway.targets import Ground, Target
from bench.gateway.upstream import upstream
from bench.gateway.workloads import Workload

PY_SPY = "py-spy==0.4.3"
SAMPLES_PER_S = 250
ROWS = 12
WHOLE_SHARE_MAX = 0.9
"""The way into the event loop holds everything and says nothing."""
QUIET_DEADLINE_S = 10
ATTACH_DEADLINE_S = 30


@dataclass(frozen=True, slots=True)
class Profile:
    """One workload: CPU per request (or chunk), the kernel's part; shares of it by file (self time),
    by function (self time), and by function with all that it calls.
    """

    workload: str
    unit: str
    cpu_us: float
    system_us: float
    files: dict[str, float]
    functions: dict[str, float]
    wholes: dict[str, float]


def profile(seconds: float, *, folder: Path = OUT, page: Path | None = None) -> int:
    """Load, look, print, write `gateway.profile.json`. Raises Missing where py-spy cannot be had."""
    profiles = []
    with tempfile.TemporaryDirectory(prefix="bench-gateway-") as place, ExitStack() as stack:
        where = cores()
        port, _ = stack.enter_context(upstream(Path(place), where, is_miner=True))
        ground = Ground(Path(place), port, where, say=print)
        spy = pypi("py-spy", PY_SPY, ground).parent / "py-spy"
        target = stack.enter_context(ours.penstock(ground))
        _load(workloads.chat(1), target, ground)
        for one in (workloads.chat(seconds), workloads.fast(seconds), workloads.paced(seconds)):
            profiles.append(_observe(one, target, ground=ground, spy=spy))
            print(f"\n{table(profiles[-1])}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "gateway.profile.json"
    path.write_text(json.dumps([asdict(one) for one in profiles], indent=1) + "\n")
    if page is not None:
        put(page, "profile", "\n\n".join(table(one) for one in profiles))
    return 0


def _observe(workload: Workload, target: Target, *, ground: Ground, spy: Path) -> Profile:
    """CPU without the observer first, then where it goes."""
    pid = target.pids[0]
    wait_quiet(lambda: cpu_ms(pid), deadline_s=QUIET_DEADLINE_S)
    before_ms, system_before_ms = cpu_ms(pid), system_ms(pid)
    count = _load(workload, target, ground)
    wait_quiet(lambda: cpu_ms(pid), deadline_s=QUIET_DEADLINE_S)
    spent_us = (cpu_ms(pid) - before_ms) * 1000
    system_us = (system_ms(pid) - system_before_ms) * 1000
    stacks = ground.folder / f"stacks.{workload.name}"
    argv = [str(spy), "record", "--pid", str(pid), "--format", "raw", "--output", str(stacks)]
    argv += [
        "--rate",
        str(SAMPLES_PER_S),
        "--duration",
        str(round(workload.seconds)),
        "--nonblocking",
    ]
    with pinned(ground.cores.ends):
        watching = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _load(workload, target, ground)
    watching.wait(ATTACH_DEADLINE_S + workload.seconds)
    files, functions, wholes = shares(stacks.read_text().splitlines())
    return Profile(
        workload=workload.name,
        unit="chunk" if workload.chunks else "request",
        cpu_us=spent_us / max(1, count),
        system_us=system_us / max(1, count),
        files=files,
        functions=functions,
        wholes=wholes,
    )


def _load(workload: Workload, target: Target, ground: Ground) -> int:
    """Requests, or chunks of streams."""
    seen = workloads.run(workload, target, folder=ground.folder, cores=ground.cores)
    return seen.chunks if workload.chunks else seen.requests


def shares(lines: Iterable[str]) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Self time by file and by function, and time by function with what it calls, largest first.

    From `frame;frame;... COUNT` lines. A frame is `function (file:line)`; the line is left out. Only
    our own functions are in the last.
    """
    by_file, by_function, with_calls = Counter[str](), Counter[str](), Counter[str]()
    for line in lines:
        stack, _, digits = line.rpartition(" ")
        if not stack or not digits.isdigit():
            continue
        frames = [_frame(one) for one in stack.split(";")]
        count = int(digits)
        by_file[frames[-1][1]] += count
        by_function["{} ({})".format(*frames[-1])] += count
        ours = {f"{function} ({file})" for function, file in frames if _is_ours(file)}
        with_calls.update(dict.fromkeys(ours, count))
    whole = max(1, by_file.total())
    for name in [name for name, count in with_calls.items() if count > WHOLE_SHARE_MAX * whole]:
        if len(with_calls) > ROWS:
            del with_calls[name]
    files, functions, wholes = (
        {name: count / whole for name, count in counter.most_common()}
        for counter in (by_file, by_function, with_calls)
    )
    return files, functions, wholes


def _frame(text: str) -> tuple[str, str]:
    """(function, file), our files from the package on."""
    function, _, place = text.partition(" (")
    file = place.rstrip(")").partition(":")[0]
    return function, file.rpartition("penstock/")[2] or file


def _is_ours(file: str) -> bool:
    return file.split("/", maxsplit=1)[0] in {"gateway", "kit", "spec", "adapters"}


def table(of: Profile) -> str:
    """Three Markdown tables, in shares and in CPU."""
    head = (
        f"### {of.workload}: {of.cpu_us:.1f} us a {of.unit}, of it {of.system_us:.1f} in the kernel"
    )
    parts = [head]
    for title, found in (
        ("file, by itself", of.files),
        ("function, by itself", of.functions),
        ("function, with what it calls", of.wholes),
    ):
        lines = [f"| {title} | share | us |", "|---|---|---|"]
        for name, share in list(found.items())[:ROWS]:
            lines.append(f"| {name} | {share:.1%} | {share * of.cpu_us:.2f} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)
