"""What every runtime must do, asked of each through its port. Grounds: tests/runtime_grounds.py.

A ground that is not here (no docker, no bubblewrap) is skipped with the way to get it.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cluster_grounds import CLUSTER_GROUNDS
from tests.runtime_grounds import DEADLINE_MS, GROUNDS, SHORT_ORPHAN_MS, Ground

from penstock.kit.runtime import ORPHAN_MS, Task, TaskFailed, task_content

ALL = {**GROUNDS, **CLUSTER_GROUNDS}


@pytest.fixture(params=list(ALL))
async def ground(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ground]:
    async with ALL[request.param](tmp_path, ORPHAN_MS) as made:
        yield made


@pytest.fixture(params=list(ALL))
async def hasty(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ground]:
    """A ground on which orphans end soon."""
    async with ALL[request.param](tmp_path, SHORT_ORPHAN_MS) as made:
        yield made


@pytest.mark.parametrize("mode", ["serve", "announce"])
async def test_a_task_serves_and_has_what_it_was_given(ground: Ground, mode: str) -> None:
    runtime = await ground.agent()
    task = ground.task(mode)
    running = await runtime.launch(task, deadline_ms=DEADLINE_MS)
    assert running.content == task_content(task)
    assert running.address.startswith("http://")
    given = await ground.ask(running.address)
    assert given["stdin"] == "settings"
    assert given["env"]["COLOUR"] == "blue"
    assert await runtime.list() == (running,)


async def test_a_task_that_runs_already_is_not_started_again(ground: Ground) -> None:
    runtime = await ground.agent()
    first = await runtime.launch(ground.task("announce"), deadline_ms=DEADLINE_MS)
    assert await runtime.launch(ground.task("announce"), deadline_ms=DEADLINE_MS) == first


async def test_two_launches_at_once_start_one_task(ground: Ground) -> None:
    runtime = await ground.agent()
    task = ground.task("announce")
    first, second = await asyncio.gather(
        runtime.launch(task, deadline_ms=DEADLINE_MS), runtime.launch(task, deadline_ms=DEADLINE_MS)
    )
    assert first == second
    assert await runtime.list() == (first,)


async def test_another_content_under_the_name_takes_its_place(ground: Ground) -> None:
    runtime = await ground.agent()
    await runtime.launch(ground.task("serve"), deadline_ms=DEADLINE_MS)
    other = ground.task("serve", stdin=b"others")
    running = await runtime.launch(other, deadline_ms=DEADLINE_MS)
    assert running.content == task_content(other)
    assert (await ground.ask(running.address))["stdin"] == "others"
    assert await runtime.list() == (running,)


@pytest.mark.parametrize("mode", ["serve", "announce"])
async def test_the_next_agent_finds_and_takes_over(ground: Ground, mode: str) -> None:
    task = ground.task(mode)
    first = await (await ground.agent()).launch(task, deadline_ms=DEADLINE_MS)
    later = await ground.agent()
    assert await later.list() == (first,)
    assert await later.launch(task, deadline_ms=DEADLINE_MS) == first
    assert (await ground.ask(first.address))["stdin"] == "settings"


async def test_the_next_agent_can_stop_and_wait(ground: Ground) -> None:
    await (await ground.agent()).launch(ground.task("serve"), deadline_ms=DEADLINE_MS)
    later = await ground.agent()
    waiting = asyncio.ensure_future(later.wait("engine-1"))
    await later.stop("engine-1", deadline_ms=DEADLINE_MS)
    assert (await waiting).reason
    assert await later.list() == ()


async def test_tasks_of_two_names_live_side_by_side(ground: Ground) -> None:
    runtime = await ground.agent()
    first = await runtime.launch(ground.task("serve"), deadline_ms=DEADLINE_MS)
    second = await runtime.launch(ground.task("serve", name="engine-2"), deadline_ms=DEADLINE_MS)
    assert await runtime.list() == (first, second)
    await runtime.stop("engine-1", deadline_ms=DEADLINE_MS)
    assert await runtime.list() == (second,)
    assert (await ground.ask(second.address))["stdin"] == "settings"


async def test_a_stopped_task_has_ended_and_its_log_stays(ground: Ground) -> None:
    runtime = await ground.agent()
    running = await runtime.launch(ground.task("serve"), deadline_ms=DEADLINE_MS)
    await ground.ask(running.address)
    await runtime.stop("engine-1", deadline_ms=DEADLINE_MS)
    await runtime.stop("engine-1", deadline_ms=DEADLINE_MS)
    assert (await runtime.wait("engine-1")).reason
    assert "mode serve" in await runtime.logs("engine-1", bytes_max=4096)
    assert len(await runtime.logs("engine-1", bytes_max=4)) <= 4
    assert await runtime.list() == ()


async def test_a_task_that_does_not_want_to_end_is_ended(ground: Ground) -> None:
    runtime = await ground.agent()
    await runtime.launch(ground.task("stubborn"), deadline_ms=DEADLINE_MS)
    await runtime.stop("engine-1", deadline_ms=1_000)
    assert await runtime.list() == ()
    assert (await runtime.wait("engine-1")).status != 0


async def test_the_end_of_a_task_is_told_with_status_and_last_words(ground: Ground) -> None:
    runtime = await ground.agent()
    dying = replace(ground.task("die"), announces=False)
    dying = replace(dying, argv=(*dying.argv, "{port}"))
    await runtime.launch(dying, deadline_ms=DEADLINE_MS)
    ending = await runtime.wait("engine-1")
    assert ending.status == 3
    assert "last words" in ending.log_tail
    assert await runtime.list() == ()


@pytest.mark.parametrize(
    ("mode", "reason"), [("refuse", "the model is broken"), ("die", ""), ("mute", "1500 ms")]
)
async def test_a_task_without_an_address_is_a_failure(
    ground: Ground, mode: str, reason: str
) -> None:
    runtime = await ground.agent()
    deadline_ms = 1_500 if mode == "mute" else DEADLINE_MS
    with pytest.raises(TaskFailed) as failed:
        await runtime.launch(ground.task(mode), deadline_ms=deadline_ms)
    assert failed.value.name == "engine-1"
    assert reason in failed.value.reason
    assert mode != "die" or "last words" in failed.value.log_tail
    assert await runtime.list() == ()


async def test_a_program_that_is_not_there_is_a_failure(ground: Ground) -> None:
    runtime = await ground.agent()
    with pytest.raises(TaskFailed):
        await runtime.launch(
            ground.task("serve", argv=("no-such-program", "{port}")), deadline_ms=DEADLINE_MS
        )
    assert await runtime.list() == ()


async def test_a_launch_that_is_given_up_leaves_nothing(ground: Ground) -> None:
    runtime = await ground.agent()
    launching = asyncio.ensure_future(runtime.launch(ground.task("mute"), deadline_ms=DEADLINE_MS))
    while not await runtime.list():
        await asyncio.sleep(0.01)
    launching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launching
    await asyncio.wait_for(runtime.wait("engine-1"), DEADLINE_MS / 1000)
    assert await runtime.list() == ()


async def test_a_name_that_never_was_is_nothing(ground: Ground) -> None:
    runtime = await ground.agent()
    await runtime.stop("engine-9", deadline_ms=DEADLINE_MS)
    assert (await runtime.wait("engine-9")).status is None
    assert await runtime.logs("engine-9", bytes_max=100) == ""
    assert await runtime.list() == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "../outside"},
        {"name": "Upper"},
        {"name": "a" * 64},
        {"name": ""},
        {"argv": ()},
        {"argv": ("program\0", "{port}")},
        {"argv": ("neither-announces-nor-port",)},
        {"stdin": b"x" * (1 << 21)},
    ],
    ids=str,
)
async def test_a_task_that_cannot_be_is_refused(ground: Ground, fields: dict[str, object]) -> None:
    runtime = await ground.agent()
    with pytest.raises(TaskFailed):
        await runtime.launch(ground.task("serve", **fields), deadline_ms=DEADLINE_MS)
    assert await runtime.list() == ()


async def test_a_task_that_nobody_asks_for_ends_by_itself(hasty: Ground) -> None:
    runtime = await hasty.agent()
    await runtime.launch(hasty.task("serve"), deadline_ms=DEADLINE_MS)
    ending = await asyncio.wait_for(runtime.wait("engine-1"), DEADLINE_MS / 1000)
    assert ending.reason
    assert await runtime.list() == ()


def test_the_content_tells_every_field_apart() -> None:
    task = Task(name="a", argv=("x", "{port}"), env={"A": "1"})
    others = [
        replace(task, name="b"),
        replace(task, argv=("x {port}",)),
        replace(task, env={"A": "2"}),
        replace(task, image="i"),
        replace(task, stdin=b"s"),
        replace(task, readable=(Path("/r"),)),
        replace(task, writable=(Path("/r"),)),
        replace(task, needs=replace(task.needs, gpus=1)),
        replace(task, needs=replace(task.needs, gpu_uuids=("u",))),
        replace(task, needs=replace(task.needs, memory_bytes=1)),
        replace(task, announces=True),
        replace(task, stop_ms=1),
    ]
    assert len({task_content(one) for one in [task, *others]}) == len(others) + 1
    assert task_content(task) == task_content(replace(task, env={"A": "1"}))
