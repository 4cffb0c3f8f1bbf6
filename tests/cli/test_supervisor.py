"""The supervisor on real processes: order, restarts, failures, and that nothing is left."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from penstock.adapters.child_process import Command
from penstock.cli.supervisor import FirstStartFailed, Process, Supervisor
from penstock.kit.clock import SystemClock
from penstock.kit.tasks import Backoff, Scope

SLEEPER = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(600)"
QUICK = Backoff(delay_ms_min=10, delay_ms_max=50, steady_ms=10_000)


def process(folder: Path, name: str, *, level: int = 0, code: str = SLEEPER) -> Process:
    mark = folder / f"{name}.ready"

    async def is_ready() -> bool:
        return mark.exists()

    async def prepare() -> None:
        mark.unlink(missing_ok=True)

    command = Command(
        argv=(sys.executable, "-c", code, str(mark)),
        env={"PATH": os.defpath},
        cwd=folder,
        log=folder / f"{name}.log",
        program=name,
    )
    return Process(name, level, lambda: command, is_ready, prepare)


def supervisor(processes: list[Process], changes: list[str] | None = None) -> Supervisor:
    seen = changes if changes is not None else []

    def on_change() -> None:
        seen.append(" ".join(f"{one.name}:{one.state}" for one in processes))

    return Supervisor(processes, on_change, SystemClock(), QUICK)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def running(one: Supervisor, act: Callable[[], Awaitable[None]]) -> None:
    async with Scope() as scope:
        try:
            await one.start(scope)
            await act()
        finally:
            await one.stop()
            scope.cancel()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_levels_start_in_order_and_everything_ends(tmp_path: Path) -> None:
    first = process(tmp_path, "first")
    second = process(tmp_path, "second", level=1)
    changes: list[str] = []
    pids: list[int] = []

    async def act() -> None:
        for one in (first, second):
            assert one.pid is not None
            pids.append(one.pid)
            assert one.row()["state"] == "ready"

    await running(supervisor([second, first], changes), act)
    begun = next(line for line in changes if "second:starting" in line)
    assert "first:ready" in begun
    assert not any(is_alive(pid) for pid in pids)
    assert changes[-1] == "second:stopped first:stopped"


async def test_a_killed_process_comes_back_with_another_pid(tmp_path: Path) -> None:
    one = process(tmp_path, "one")

    async def act() -> None:
        old = one.pid
        assert old is not None
        os.kill(old, signal.SIGKILL)
        await until(lambda: one.restarts == 1 and one.state == "ready")
        assert one.pid not in {old, None}

    await running(supervisor([one]), act)


async def test_a_process_that_ends_at_once_fails_the_start_with_its_log(tmp_path: Path) -> None:
    bad = process(tmp_path, "bad", code="import sys; sys.exit('no such luck')")
    with pytest.raises(ExceptionGroup) as caught:
        await running(supervisor([bad]), lambda: asyncio.sleep(0))
    error = caught.value
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, FirstStartFailed)
    assert error.name == "bad"
    assert "no such luck" in error.reason
    assert bad.state in {"failed", "stopped"}


async def test_a_process_that_keeps_dying_is_tried_again_and_again(tmp_path: Path) -> None:
    dies = process(tmp_path, "dies", code=SLEEPER.replace("600", "0.05"))

    async def act() -> None:
        await until(lambda: dies.restarts >= 3)

    await running(supervisor([dies]), act)
    assert dies.pid is None
