"""The runtime whose tasks end with their agent: what it has of the others, and what it has not."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.runtime_grounds import DEADLINE_MS, make_task

from penstock.adapters.runtimes.child import ChildRuntime
from penstock.kit.clock import SystemClock
from penstock.kit.runtime import Task, TaskFailed, task_content

SLEEPER = "import sys, time; print('hello', flush=True); time.sleep(600)"


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[ChildRuntime]:
    runtime = ChildRuntime(tmp_path, clock=SystemClock())
    yield runtime
    await runtime.close()


def sleeper(name: str = "one", code: str = SLEEPER) -> Task:
    return Task(
        name=name,
        argv=(sys.executable, "-c", code, "{port}"),
        env={"PATH": os.defpath},
        stop_ms=1_000,
    )


async def test_a_task_that_runs_already_is_not_started_again(runtime: ChildRuntime) -> None:
    first = await runtime.launch(sleeper(), deadline_ms=DEADLINE_MS)
    assert await runtime.launch(sleeper(), deadline_ms=DEADLINE_MS) == first
    assert first.content == task_content(sleeper())
    assert await runtime.list() == (first,)
    assert runtime.kind == "child"


async def test_another_content_takes_its_place(runtime: ChildRuntime) -> None:
    first = await runtime.launch(sleeper(), deadline_ms=DEADLINE_MS)
    other = await runtime.launch(sleeper(code=f"{SLEEPER} # other"), deadline_ms=DEADLINE_MS)
    assert other.content != first.content
    assert await runtime.list() == (other,)


async def test_a_task_that_announces_says_where_it_is(runtime: ChildRuntime) -> None:
    task = make_task("announce", stdin=b"")
    running = await runtime.launch(task, deadline_ms=DEADLINE_MS)
    assert running.address.startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("""print('{"address": "", "error": "no model"}', flush=True)""", "no model"),
        ("raise SystemExit(3)", "status 3"),
        ("import time; time.sleep(600)", "no address after 1500 ms"),
    ],
)
async def test_a_task_without_an_address_is_a_failure(
    runtime: ChildRuntime, code: str, reason: str
) -> None:
    task = Task("one", (sys.executable, "-c", code), {"PATH": os.defpath}, announces=True)
    with pytest.raises(TaskFailed, match=reason):
        await runtime.launch(task, deadline_ms=1_500 if "no address" in reason else DEADLINE_MS)
    assert await runtime.list() == ()


async def test_a_program_that_is_not_there_is_a_failure(runtime: ChildRuntime) -> None:
    task = Task("one", ("no-such-program", "{port}"), {"PATH": os.defpath})
    with pytest.raises(TaskFailed, match="no-such-program"):
        await runtime.launch(task, deadline_ms=DEADLINE_MS)


async def test_its_end_is_told_with_its_last_words(runtime: ChildRuntime) -> None:
    await runtime.launch(sleeper(code="print('last words'); raise SystemExit(3)"), deadline_ms=1)
    ending = await runtime.wait("one")
    assert ending.status == 3
    assert "last words" in ending.log_tail
    assert len(await runtime.logs("one", bytes_max=4)) == 4
    assert (await runtime.wait("never")).status is None
    assert await runtime.logs("never", bytes_max=4) == ""


async def test_a_stopped_task_is_gone_and_says_so(runtime: ChildRuntime) -> None:
    await runtime.launch(sleeper(), deadline_ms=DEADLINE_MS)
    await runtime.beat()
    waiting = asyncio.ensure_future(runtime.wait("one"))
    await runtime.stop("one", deadline_ms=DEADLINE_MS)
    await runtime.stop("one", deadline_ms=DEADLINE_MS)
    assert (await waiting).reason == "it was stopped"
    assert await runtime.list() == ()


async def test_a_task_that_was_killed_is_told_by_its_signal(runtime: ChildRuntime) -> None:
    await runtime.launch(sleeper(), deadline_ms=DEADLINE_MS)
    os.kill(runtime._lives["one"].child.pid, signal.SIGKILL)
    assert (await runtime.wait("one")).status == -signal.SIGKILL


async def test_no_more_logs_are_kept_than_may_be(
    runtime: ChildRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.adapters.runtimes.child.ENDED_MAX", 2)
    for number in range(5):
        await runtime.launch(sleeper(f"task-{number}", "pass"), deadline_ms=DEADLINE_MS)
        await runtime.wait(f"task-{number}")
    assert len(list((tmp_path / "logs").iterdir())) <= 3
