"""Processes of the bench: pinned to a core, logged to a file, seen to listen, ended with the run."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.figures import ROOT
from bench.ground import is_open

STOP_DEADLINE_S = 15
CHECK_EVERY_S = 0.05
TAIL_CHARS = 1200


class NotStarted(Exception):
    """A process ended, or did not come up in time; says what its log says."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Where things run: the gateway under test alone on one core, all else on the other."""

    ends: frozenset[int]
    gateway: frozenset[int]

    @property
    def are_apart(self) -> bool:
        """False on a machine with one core: the figures then hold the ends' cache misses too."""
        return not self.ends & self.gateway


def cores() -> Cores:
    """The first two cores that we may use; the same one twice if there is no other."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores(ends=frozenset(usable[:1]), gateway=frozenset(usable[1:2] or usable[:1]))


@dataclass(frozen=True, slots=True)
class Program:
    """How to start one. `env` is added to a minimal environment."""

    argv: Sequence[str]
    log: Path
    core: frozenset[int]
    env: Mapping[str, str]
    cwd: Path = ROOT


@contextmanager
def pinned(core: frozenset[int]) -> Iterator[None]:
    """What is started in here runs on this core, with every thread it makes."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, core)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def running(program: Program) -> Iterator[subprocess.Popen[bytes]]:
    """The process while the context is open; its whole group is ended behind it."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(program.log.parent), **program.env}
    program.log.parent.mkdir(parents=True, exist_ok=True)
    with program.log.open("ab") as log, pinned(program.core):
        child = subprocess.Popen(
            list(program.argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=program.cwd,
            env=environment,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        _end(child)


def wait_open(child: subprocess.Popen[bytes], port: int, *, log: Path, deadline_s: float) -> None:
    """Until the process listens. Raises NotStarted."""
    wait_until(lambda: is_open(port), child, log=log, deadline_s=deadline_s)


def wait_until(
    is_so: Callable[[], bool], child: subprocess.Popen[bytes], *, log: Path, deadline_s: float
) -> None:
    """Until the function is true while the process lives. Raises NotStarted with its last words."""
    end_at = time.monotonic() + deadline_s
    while not is_so():
        if child.poll() is not None:
            raise NotStarted(f"it ended with status {child.returncode}: {tail(log)}")
        if time.monotonic() > end_at:
            raise NotStarted(f"it was not ready within {deadline_s:.0f} s: {tail(log)}")
        time.sleep(CHECK_EVERY_S)


def tail(log: Path) -> str:
    """The last lines of a log, on one."""
    text = log.read_text(errors="replace")[-TAIL_CHARS:] if log.exists() else ""
    return " / ".join(line.strip() for line in text.splitlines() if line.strip())


def _end(child: subprocess.Popen[bytes]) -> None:
    _signal_group(child.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):  # it had its time
        child.wait(STOP_DEADLINE_S)
    _signal_group(child.pid, signal.SIGKILL)
    child.wait(STOP_DEADLINE_S)


def _signal_group(pid: int, number: signal.Signals) -> None:
    """The group is the child's own session, so nobody else's process is in it."""
    with suppress(ProcessLookupError):  # all of it is gone already
        os.killpg(pid, number)
