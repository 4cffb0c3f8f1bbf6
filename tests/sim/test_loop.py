"""The virtual-time loop."""

import asyncio
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.sim.loop import (
    EPOCH_MS,
    Deadlock,
    HorizonPassed,
    OutsideWorld,
    VirtualClock,
    VirtualLoop,
    run,
)


def test_sleeping_costs_virtual_time_only() -> None:
    loop = VirtualLoop()
    clock = VirtualClock(loop)

    async def main() -> int:
        await asyncio.sleep(86_400)
        return clock.now_ms()

    assert run(main(), loop) == EPOCH_MS + 86_400_000


@given(st.lists(st.integers(1, 10_000_000), min_size=1, max_size=20))
def test_the_clock_shows_exactly_the_time_slept(waits_us: list[int]) -> None:
    loop = VirtualLoop()
    clock = VirtualClock(loop)

    async def main() -> None:
        for wait_us in waits_us:
            await asyncio.sleep(wait_us / 1_000_000)

    run(main(), loop)
    assert abs(clock.mono_us() - sum(waits_us)) <= 1


def test_timers_fire_in_order_of_time() -> None:
    async def main() -> list[int]:
        order: list[int] = []

        async def after(n: int) -> None:
            await asyncio.sleep(n)
            order.append(n)

        async with asyncio.TaskGroup() as group:
            for n in (5, 1, 4, 2, 3):
                group.create_task(after(n))
        return order

    assert run(main(), VirtualLoop()) == [1, 2, 3, 4, 5]


def test_a_deadlock_names_who_waits() -> None:
    async def stuck() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(stuck(), name="the-stuck-one")

    with pytest.raises(Deadlock, match="the-stuck-one in stuck") as caught:
        run(main(), VirtualLoop())
    assert len(caught.value.waiting) == 2


def test_time_without_end_is_an_error() -> None:
    async def main() -> None:
        while True:
            await asyncio.sleep(1)

    with pytest.raises(HorizonPassed) as caught:
        run(main(), VirtualLoop(horizon_ms=60_000))
    assert caught.value.horizon_ms == 60_000


def test_tasks_left_behind_are_cancelled_oldest_first() -> None:
    ended: list[int] = []

    async def left(n: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(n)

    async def main() -> list[asyncio.Task[None]]:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(left(n)) for n in range(10)]
        await asyncio.sleep(1)
        return tasks

    assert all(task.cancelled() for task in run(main(), VirtualLoop()))
    assert ended == list(range(10))


async def _thread() -> None:
    await asyncio.to_thread(print)


async def _lookup() -> None:
    await asyncio.get_running_loop().getaddrinfo("localhost", 80)


async def _connection() -> None:
    await asyncio.open_connection("127.0.0.1", 1)


async def _process() -> None:
    await asyncio.create_subprocess_exec("true")


@pytest.mark.parametrize("reach_out", [_thread, _lookup, _connection, _process])
def test_the_outside_world_is_not_there(reach_out: object) -> None:
    assert callable(reach_out)
    with pytest.raises(OutsideWorld):
        run(reach_out(), VirtualLoop())


def test_call_soon_threadsafe_works_without_a_pipe() -> None:
    async def main() -> None:
        happened = asyncio.Event()
        asyncio.get_running_loop().call_soon_threadsafe(happened.set)
        await happened.wait()

    run(main(), VirtualLoop())


def test_timeouts_follow_virtual_time() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run(main(), VirtualLoop()) == pytest.approx(30)


SCENARIO = """
import asyncio, random
from penstock.sim.loop import VirtualLoop, run

async def main(rng):
    trace = []
    async def member(n):
        try:
            await asyncio.sleep(rng.random())
            if n == 7:
                raise KeyError(n)
            await asyncio.Event().wait()
        finally:
            trace.append((n, round(asyncio.get_running_loop().time(), 9)))
    try:
        async with asyncio.TaskGroup() as group:
            for n in range(50):
                group.create_task(member(n))
    except* KeyError:
        pass
    print(trace)

run(main(random.Random(3)), VirtualLoop())
"""


def test_a_run_is_the_same_under_any_hash_seed_and_memory_layout() -> None:
    outputs = {
        subprocess.run(
            [sys.executable, "-c", f"waste = bytearray({seed} * 7919)\n{SCENARIO}"],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            check=True,
            capture_output=True,
            timeout=60,
        ).stdout
        for seed in (0, 1, 77)
    }
    assert len(outputs) == 1
    assert outputs.pop().count(b"(") == 50
