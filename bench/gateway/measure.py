"""The run: all targets side by side, one workload after another, repetitions by turns.

CPU is counted from before the first request until the gateway rests again, so nothing it put off
(seals, records) is left out. Memory is taken the first time the paced streams are open, in a process
that has done little before, against what it needed at rest.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.gateway import workloads
from bench.gateway.meters import cpu_of, pss_kib, wait_quiet
from bench.gateway.processes import Cores
from bench.gateway.targets import Target
from bench.gateway.workloads import Seen, Workload

QUIET_DEADLINE_S = 12
INTO_STEADY_S = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    repeats: int
    seconds: float
    streams: int = 500

    def workloads(self) -> tuple[Workload, ...]:
        """Paced first: its memory is that of a young process."""
        return (
            workloads.paced(self.seconds, streams=self.streams),
            workloads.chat(self.seconds),
            workloads.fast(self.seconds),
        )

    def warm_ups(self) -> tuple[Workload, ...]:
        """Enough to have every connection, session and code path once."""
        return (
            Workload("chat", connections=8, chunks=0, interval_us=0, seconds=1),
            Workload("fast", connections=4, chunks=32, interval_us=0, seconds=1),
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """One workload against one target, once. `stream_kib` is the memory that the streams added."""

    target: str
    workload: str
    repeat: int
    seen: Seen
    cpu_ms: float
    stream_kib: int | None = None


@dataclass(slots=True)
class Bench:
    """What every measurement needs. `upstream_pid` is whose CPU counts for `direct`."""

    folder: Path
    cores: Cores
    upstream_pid: int
    step: Callable[[str], None]
    samples: list[Sample] = field(default_factory=list)

    def warm_up(self, targets: Sequence[Target], plan: Plan) -> None:
        """Unmeasured; a target that fails here would fail everywhere. Raises RuntimeError."""
        for target in targets:
            self.step(f"warm-up {target.name}")
            for workload in plan.warm_ups():
                seen = self._load(workload, target)
                if not seen.requests:
                    raise RuntimeError(f"{target.name} answers nothing: {seen.first_error}")

    def measure(self, targets: Sequence[Target], plan: Plan) -> None:
        """Everything, by turns."""
        for repeat in range(plan.repeats):
            for workload in plan.workloads():
                for target in targets:
                    self.step(f"{workload.name} {target.name}")
                    self.samples.append(self._sample(workload, target, repeat))

    def _sample(self, workload: Workload, target: Target, repeat: int) -> Sample:
        pids = target.pids or (self.upstream_pid,)
        wait_quiet(lambda: cpu_of(pids), deadline_s=QUIET_DEADLINE_S)
        open_kib: list[int] = []
        is_fresh = workload.is_paced and not repeat

        def weigh() -> None:
            time.sleep(INTO_STEADY_S)
            open_kib.append(pss_kib(target.pids))

        rest_kib, before_ms = pss_kib(target.pids), cpu_of(pids)
        seen = self._load(workload, target, on_steady=weigh if is_fresh else lambda: None)
        wait_quiet(lambda: cpu_of(pids), deadline_s=QUIET_DEADLINE_S)
        return Sample(
            target=target.name,
            workload=workload.name,
            repeat=repeat,
            seen=seen,
            cpu_ms=cpu_of(pids) - before_ms,
            stream_kib=open_kib[0] - rest_kib if open_kib and target.pids else None,
        )

    def _load(
        self, workload: Workload, target: Target, *, on_steady: Callable[[], None] = lambda: None
    ) -> Seen:
        return workloads.run(
            workload, target, folder=self.folder, cores=self.cores, on_steady=on_steady
        )


def steps(targets: int, plan: Plan) -> int:
    """How often `step` is called."""
    return targets * (1 + plan.repeats * len(plan.workloads()))
