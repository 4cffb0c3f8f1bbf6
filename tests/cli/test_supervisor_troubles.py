"""The supervisor in trouble: starts that fail, stops that are ignored, orders that must be kept."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from penstock.adapters.child_process import Command
from penstock.adapters.errors import FolderInUse, ProgramFailed
from penstock.cli.supervisor import FirstStartFailed, Process, Supervisor
from penstock.kit.clock import SystemClock
from penstock.kit.tasks import Backoff, Scope

QUICK = Backoff(delay_ms_min=10, delay_ms_max=50, steady_ms=10_000)
SLEEPER = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(600)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER
NEVER_READY = "import time; time.sleep(600)"
WITH_CHILD = (
    "import subprocess, sys, pathlib, time; "
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    "pathlib.Path(sys.argv[1] + '.child').write_text(str(child.pid)); " + SLEEPER
)
LAST_WORDS = "told on the way out"
POLITE = (
    "import pathlib, signal, sys, time; "
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit('" + LAST_WORDS + "')); " + SLEEPER
)


def process(
    folder: Path,
    name: str,
    *,
    level: int = 0,
    code: str = SLEEPER,
    prepare: Callable[[], Awaitable[None]] | None = None,
) -> Process:
    mark = folder / f"{name}.ready"

    async def is_ready() -> bool:
        return mark.exists()

    async def clean() -> None:
        mark.unlink(missing_ok=True)
        if prepare is not None:
            await prepare()

    command = Command(
        argv=(sys.executable, "-c", code, str(mark)),
        env={"PATH": os.defpath},
        cwd=folder,
        log=folder / f"{name}.log",
        program=name,
    )
    return Process(name, level, lambda: command, is_ready, clean)


def supervisor(
    processes: list[Process], changes: list[str] | None = None, *, stop_ms: int = 20_000
) -> Supervisor:
    heard = changes if changes is not None else []

    def on_change() -> None:
        heard.append(" ".join(f"{one.name}:{one.state}" for one in processes))

    return Supervisor(processes, on_change, SystemClock(), QUICK, stop_ms)


async def running(one: Supervisor, act: Callable[[], Awaitable[None]]) -> None:
    async with Scope() as scope:
        try:
            await one.start(scope)
            await act()
        finally:
            await one.stop()
            scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def first_failure(error: BaseException) -> FirstStartFailed:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, FirstStartFailed)
    return error


@pytest.mark.parametrize(
    "error",
    [
        OSError("no space left"),
        FolderInUse(Path("/data"), (5432,)),
        ProgramFailed("initdb", 1, "bad locale"),
    ],
    ids=["disk", "folder", "program"],
)
async def test_a_preparation_that_fails_is_told_by_the_name_of_its_process(
    tmp_path: Path, error: Exception
) -> None:
    async def prepare() -> None:
        raise error

    bad, good = process(tmp_path, "bad", prepare=prepare), process(tmp_path, "good", level=1)
    with pytest.raises(ExceptionGroup) as caught:
        await running(supervisor([bad, good]), lambda: asyncio.sleep(0))
    failure = first_failure(caught.value)
    assert (failure.name, failure.reason) == ("bad", str(error))
    assert bad.child is None
    assert good.child is None, "a level begins only after the one before it is ready"


async def test_a_program_that_is_not_there_is_told_with_where_it_comes_from(tmp_path: Path) -> None:
    one = process(tmp_path, "postgres")
    missing = Command(
        argv=("no-such-program-here",),
        env={"PATH": os.defpath},
        cwd=tmp_path,
        log=tmp_path / "x.log",
        program="postgres",
    )
    one.command = lambda: missing
    with pytest.raises(ExceptionGroup) as caught:
        await running(supervisor([one]), lambda: asyncio.sleep(0))
    assert "pip install postgres" in first_failure(caught.value).reason
    assert one.state in {"failed", "stopped"}


async def test_a_preparation_that_fails_after_a_crash_is_tried_until_it_works(
    tmp_path: Path,
) -> None:
    starts: list[int] = []

    async def prepare() -> None:
        starts.append(1)
        if 2 <= len(starts) <= 4:
            raise ProgramFailed("initdb", 1, "try again")

    one = process(tmp_path, "one", prepare=prepare)

    async def act() -> None:
        assert one.pid is not None
        os.kill(one.pid, signal.SIGKILL)
        await until(lambda: len(starts) == 5 and one.state == "ready")
        assert one.restarts == 4
        assert one.pid is not None

    await running(supervisor([one]), act)


async def test_a_process_that_ignores_the_asking_is_killed_after_the_deadline(
    tmp_path: Path,
) -> None:
    deaf = process(tmp_path, "deaf", code=DEAF)
    pids: list[int] = []

    async def act() -> None:
        assert deaf.pid is not None
        pids.append(deaf.pid)

    await running(supervisor([deaf], stop_ms=100), act)
    assert deaf.child is not None
    assert deaf.child.status == -signal.SIGKILL
    assert not is_alive(pids[0])
    assert deaf.row() == {"name": "deaf", "pid": None, "state": "stopped", "restarts": 0}


async def test_a_process_that_listens_may_finish_before_the_deadline(tmp_path: Path) -> None:
    polite = process(tmp_path, "polite", code=POLITE)
    await running(supervisor([polite], stop_ms=30_000), lambda: asyncio.sleep(0))
    assert polite.child is not None
    assert polite.child.status == 1
    assert LAST_WORDS in (tmp_path / "polite.log").read_text()


async def test_processes_end_by_falling_stop_order_whatever_level_they_started_on(
    tmp_path: Path,
) -> None:
    levels = [process(tmp_path, f"level-{n}", level=n // 2) for n in range(3)]
    for order, one in enumerate(levels):
        one.stop_order = order
    changes: list[str] = []
    await running(supervisor(levels, changes), lambda: asyncio.sleep(0))
    stopping = {
        one.name: next(i for i, line in enumerate(changes) if f"{one.name}:stopping" in line)
        for one in levels
    }
    stopped = {
        one.name: next(i for i, line in enumerate(changes) if f"{one.name}:stopped" in line)
        for one in levels
    }
    assert stopped["level-2"] < stopping["level-1"]
    assert stopped["level-1"] < stopping["level-0"]


async def test_members_of_a_level_start_side_by_side(tmp_path: Path) -> None:
    both = [process(tmp_path, name) for name in ("left", "right")]
    changes: list[str] = []
    await running(supervisor(both, changes), lambda: asyncio.sleep(0))
    assert any(line == "left:starting right:starting" for line in changes)


async def test_stopping_while_a_process_is_still_starting_leaves_nothing(tmp_path: Path) -> None:
    slow = process(tmp_path, "slow", code=NEVER_READY)
    later = process(tmp_path, "later", level=1)
    one = supervisor([slow, later])
    async with Scope() as scope:
        coming = scope.start("come up", one.start(scope))
        await until(lambda: slow.pid is not None)
        pid = slow.pid
        one.stopping = True
        coming.cancel()
        await asyncio.wait({coming})
        await one.stop()
        scope.cancel()
    assert pid is not None
    assert not is_alive(pid)
    assert (slow.state, later.state) == ("stopped", "stopped")
    assert later.child is None


async def test_a_stop_that_was_asked_while_preparing_starts_nothing(tmp_path: Path) -> None:
    preparing, go_on = asyncio.Event(), asyncio.Event()

    async def prepare() -> None:
        preparing.set()
        await go_on.wait()

    one = process(tmp_path, "one", prepare=prepare)
    watch = supervisor([one])
    async with Scope() as scope:
        coming = scope.start("come up", watch.start(scope))
        await preparing.wait()
        watch.stopping = True
        go_on.set()
        await coming
        await watch.stop()
        scope.cancel()
    assert one.child is None
    assert one.state == "stopped"


async def test_what_a_process_started_does_not_outlive_it(tmp_path: Path) -> None:
    parent = process(tmp_path, "parent", code=WITH_CHILD)
    child_file = tmp_path / "parent.ready.child"

    async def act() -> None:
        first = int(child_file.read_text())
        assert parent.pid is not None
        os.kill(parent.pid, signal.SIGKILL)
        await until(lambda: parent.restarts == 1 and parent.state == "ready")
        await until(lambda: not is_alive(first))

    await running(supervisor([parent]), act)
    last = int(child_file.read_text())
    await until(lambda: not is_alive(last))


async def test_stopping_twice_is_harmless(tmp_path: Path) -> None:
    one = process(tmp_path, "one")
    watch = supervisor([one])
    await running(watch, lambda: asyncio.sleep(0))
    await watch.stop()
    assert one.state == "stopped"


async def test_a_crash_of_one_leaves_the_others_alone(tmp_path: Path) -> None:
    stable, shaky = process(tmp_path, "stable"), process(tmp_path, "shaky")

    async def act() -> None:
        before = stable.pid
        assert shaky.pid is not None
        os.kill(shaky.pid, signal.SIGTERM)
        await until(lambda: shaky.restarts == 1 and shaky.state == "ready")
        assert stable.pid == before
        assert stable.restarts == 0

    await running(supervisor([stable, shaky]), act)
