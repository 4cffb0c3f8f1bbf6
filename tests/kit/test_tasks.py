"""Scopes, supervision and errands, on virtual time."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from penstock.kit.metrics import Metrics
from penstock.kit.tasks import Backoff, Errands, Scope, crash_recorder, supervise
from penstock.sim.loop import VirtualLoop, run

T = TypeVar("T")


def play(main: Coroutine[Any, Any, T]) -> T:
    return run(main, VirtualLoop())


class Crash(Exception):
    pass


def test_a_crashed_loop_is_started_again_after_a_growing_bounded_wait() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        starts: list[int] = []
        reported: list[str] = []

        async def crashing() -> None:
            starts.append(round(loop.time() * 1000))
            if len(starts) < 7:
                raise Crash

        await supervise(
            "offers",
            crashing,
            backoff=Backoff(delay_ms_min=100, delay_ms_max=1_000),
            on_event=lambda name, _: reported.append(name),
        )
        assert starts == [0, 100, 300, 700, 1500, 2500, 3500]
        assert reported == ["offers"] * 6

    play(main())


def test_a_steady_run_forgets_old_crashes() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        starts: list[int] = []

        async def crashing() -> None:
            starts.append(round(loop.time() * 1000))
            if len(starts) == 3:
                await asyncio.sleep(60)
            if len(starts) < 5:
                raise Crash

        await supervise("x", crashing, on_event=lambda _name, _error: None)
        assert starts == [0, 100, 300, 60_400, 60_600]

    play(main())


@pytest.mark.parametrize("crashes", [1, 2, 10, 1_000])
def test_the_wait_stays_within_its_bounds(crashes: int) -> None:
    backoff = Backoff(delay_ms_min=10, delay_ms_max=500)
    assert 10 <= backoff.delay_ms(crashes) <= 500


def test_a_supervised_loop_can_be_cancelled() -> None:
    async def main() -> None:
        entered = asyncio.Event()

        async def forever() -> None:
            entered.set()
            await asyncio.Event().wait()

        async with Scope() as scope:
            task = scope.supervise("forever", forever)
            await entered.wait()
            scope.cancel()
        assert task.cancelled()

    play(main())


def test_a_crash_is_logged_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        metrics = Metrics()
        crashed = False

        async def crashing() -> None:
            nonlocal crashed
            if not crashed:
                crashed = True
                raise Crash("why")

        await supervise("meter", crashing, on_event=crash_recorder(metrics))
        assert metrics.value("task_crashes_total", task="meter") == 1

    play(main())
    assert [record.getMessage() for record in caplog.records] == ["task.crashed"]
    assert caplog.records[0].exc_info is not None


def test_a_scope_waits_for_all_its_members() -> None:
    async def main() -> None:
        async def after(delay_s: float) -> float:
            await asyncio.sleep(delay_s)
            return delay_s

        async with Scope() as scope:
            tasks = [scope.start(f"t{n}", after(n)) for n in range(3)]
        assert [task.result() for task in tasks] == [0, 1, 2]

    play(main())


def test_an_error_in_a_member_cancels_the_others_and_is_raised() -> None:
    async def main() -> None:
        cancelled: list[str] = []

        async def waiting(name: str) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(name)

        async def failing() -> None:
            await asyncio.sleep(1)
            raise Crash

        with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - raised on leaving
            async with Scope() as scope:
                for name in "abc":
                    scope.start(name, waiting(name))
                scope.start("failing", failing())
        assert [type(error) for error in caught.value.exceptions] == [Crash]
        assert sorted(cancelled) == ["a", "b", "c"]

    play(main())


def test_a_crash_of_one_errand_does_not_reach_the_others() -> None:
    async def main() -> None:
        reported: list[str] = []
        handled: list[Exception] = []
        errands = Errands(lambda name, _: reported.append(name))

        async def failing() -> None:
            raise Crash

        async def fine() -> None:
            await asyncio.sleep(1)

        bad = errands.start("bad", failing(), on_crash=handled.append)
        good = errands.start("good", fine())
        await asyncio.wait([bad, good])
        assert (reported, [type(error) for error in handled]) == (["bad"], [Crash])
        assert good.exception() is None
        assert len(errands) == 0

    play(main())


def test_closing_errands_cancels_them_and_waits_for_their_end_but_not_for_ever() -> None:
    async def main() -> None:
        errands = Errands()
        ended: list[str] = []

        async def tidy() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(1)
                ended.append("tidy")

        async def stubborn() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(100)

        errands.start("tidy", tidy())
        errands.start("stubborn", stubborn())
        await asyncio.sleep(0)
        await errands.close(deadline_ms=5_000)
        assert ended == ["tidy"]
        assert asyncio.get_running_loop().time() == pytest.approx(5)

    play(main())


def test_a_guarded_call_that_crashes_is_reported_and_does_not_reach_its_caller() -> None:
    reported: list[tuple[str, Exception]] = []
    cleaned: list[Exception] = []
    errands = Errands(lambda name, error: reported.append((name, error)))
    crash = Crash()

    def call(argument: int) -> None:
        if argument:
            raise crash

    errands.guard("hot", call, 0, on_crash=cleaned.append)
    assert reported == []
    errands.guard("hot", call, 1, on_crash=cleaned.append)
    assert (reported, cleaned) == ([("hot", crash)], [crash])
