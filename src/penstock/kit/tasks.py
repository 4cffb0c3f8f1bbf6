"""Tasks that cannot get lost: scopes, supervised loops, and errands of protocol callbacks.

The only file that catches every exception, because it is where a crash is turned into one log
event, one count, and a restart or an answer. Nothing else calls `create_task`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from penstock.kit.log import events
from penstock.kit.metrics import Metrics

T = TypeVar("T")
OnCrash = Callable[[str, Exception], None]
"""(task name, error); called once per crash. It must not raise."""

_log = events("tasks")


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before a restart: doubles from min to max, forgotten after `steady_ms`."""

    delay_ms_min: int = 100
    delay_ms_max: int = 30_000
    steady_ms: int = 60_000

    def delay_ms(self, crashes: int) -> int:
        """The wait after the `crashes`-th crash in a row (1 is the first)."""
        doublings = min(crashes - 1, 30)
        return min(self.delay_ms_min << doublings, self.delay_ms_max)


def crash_recorder(metrics: Metrics | None = None) -> OnCrash:
    """Logs a crash with its traceback and counts it as `task_crashes_total{task=...}`."""

    def record(name: str, error: Exception) -> None:
        _log.error("task.crashed", error=error, task=name)
        if metrics is not None:
            metrics.count("task_crashes_total", task=name)

    return record


async def supervise(
    name: str,
    make_coro: Callable[[], Awaitable[object]],
    *,
    backoff: Backoff | None = None,
    on_event: OnCrash | None = None,
) -> None:
    """Run `make_coro()` for ever: when it crashes, report once and start it again after a wait.

    Ends when the coroutine returns (its work is done) or when this task is cancelled. The time
    follows the loop's clock, so that the simulator's crashes cost no real time.
    """
    policy = backoff if backoff is not None else Backoff()
    report = on_event if on_event is not None else crash_recorder()
    loop = asyncio.get_running_loop()
    crashes = 0
    while True:
        started = loop.time()
        try:
            await make_coro()
        except Exception as error:  # noqa: BLE001 - the one place: a crash becomes a restart
            steady = (loop.time() - started) * 1000 >= policy.steady_ms
            crashes = 1 if steady else crashes + 1
            report(name, error)
        else:
            return
        await asyncio.sleep(policy.delay_ms(crashes) / 1000)


class Scope:
    """Tasks that end together: leaving the scope waits for all, an error in one cancels the rest.

    An `asyncio.TaskGroup` with names, supervised members, and a way to stop endless loops:

        async with Scope() as scope:
            scope.supervise("offers", watch_offers)
            await stopped.wait()
            scope.cancel()
    """

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._tasks: dict[asyncio.Task[Any], None] = {}  # a set would iterate in random order

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._group.__aexit__(kind, error, trace)

    def start(self, name: str, coro: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a member; an exception in it cancels the scope and is raised on leaving."""
        task = self._group.create_task(coro, name=name)
        self._tasks[task] = None
        task.add_done_callback(self._forget)
        return task

    def supervise(
        self,
        name: str,
        make_coro: Callable[[], Awaitable[object]],
        *,
        backoff: Backoff | None = None,
        on_event: OnCrash | None = None,
    ) -> asyncio.Task[None]:
        """Start a member that is restarted when it crashes; see `supervise`."""
        return self.start(name, supervise(name, make_coro, backoff=backoff, on_event=on_event))

    def cancel(self) -> None:
        """Cancel all members; the scope then ends without an error."""
        for task in list(self._tasks):
            task.cancel()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)


class Errands:
    """Tasks started from plain callbacks (a protocol's `data_received`), which nobody awaits.

    A crash in one is reported and handed to its `on_crash`; it never reaches the others.
    """

    def __init__(self, on_event: OnCrash | None = None) -> None:
        self._report = on_event if on_event is not None else crash_recorder()
        self._tasks: dict[asyncio.Task[None], None] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def start(
        self,
        name: str,
        coro: Coroutine[Any, Any, None],
        *,
        on_crash: Callable[[Exception], None] | None = None,
    ) -> asyncio.Task[None]:
        """Start an errand on the running loop; `on_crash(error)` may clean up after it."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._contain(name, coro, on_crash), name=name)
        self._tasks[task] = None
        task.add_done_callback(self._forget)
        return task

    def guard(
        self,
        name: str,
        call: Callable[[T], None],
        argument: T,
        *,
        on_crash: Callable[[Exception], None],
    ) -> None:
        """Call a plain function now; a crash in it is reported as an errand's is."""
        try:
            call(argument)
        except Exception as error:  # noqa: BLE001 - the one place: a crash becomes an answer
            self._report(name, error)
            on_crash(error)

    async def close(self, *, deadline_ms: int) -> None:
        """Cancel what runs and wait for it, at most `deadline_ms`."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=deadline_ms / 1000)

    async def _contain(
        self,
        name: str,
        coro: Coroutine[Any, Any, None],
        on_crash: Callable[[Exception], None] | None,
    ) -> None:
        try:
            await coro
        except Exception as error:  # noqa: BLE001 - the one place: a crash becomes an answer
            self._report(name, error)
            if on_crash is not None:
                on_crash(error)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
