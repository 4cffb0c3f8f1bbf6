"""A virtual-time asyncio loop: when nothing can run, the clock jumps to the next timer.

A run depends on its seed only: no threads, no files, no sockets, and tasks hash by their order of
creation, so that even asyncio's own sets (a TaskGroup's children) iterate the same every time.
"""

import asyncio
import contextvars
import selectors
from collections.abc import Coroutine, Generator, Mapping
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

EPOCH_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z: every simulated market starts then
HORIZON_MS = 400 * 24 * 3_600_000
CLEAN_UP_MS = 3_600_000
_WAITING_SHOWN_MAX = 20


class Deadlock(RuntimeError):
    """Nothing can run and no timer is set: the tasks in `waiting` wait for each other for ever."""

    def __init__(self, waiting: tuple[str, ...]) -> None:
        shown = "; ".join(waiting[:_WAITING_SHOWN_MAX])
        super().__init__(f"nothing can run and no timer is set; waiting: {shown}")
        self.waiting = waiting


class HorizonPassed(RuntimeError):
    """The virtual time passed `horizon_ms`: something repeats for ever."""

    def __init__(self, horizon_ms: int) -> None:
        super().__init__(f"virtual time passed {horizon_ms} ms; does a loop never end?")
        self.horizon_ms = horizon_ms


class OutsideWorld(RuntimeError):
    """Simulated code asked for a thread, a socket, a file or a name lookup."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is not there in a simulation; pass a port instead")
        self.what = what


class _SerialTask(asyncio.Task[Any]):
    """A task whose hash is its serial number, not its address."""

    def __init__(
        self,
        coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        *,
        loop: asyncio.AbstractEventLoop,
        serial: int,
        context: contextvars.Context | None,
    ) -> None:
        self.serial = serial  # first: the constructor already puts the task into a set
        super().__init__(coro, loop=loop, name=f"task-{serial}", context=context)

    def __hash__(self) -> int:
        return self.serial


class _Jump(selectors.BaseSelector):
    """Never waits: adds the time it was asked to wait to the clock instead."""

    def __init__(self) -> None:
        self.loop: VirtualLoop

    def register(self, *_: Any, **__: Any) -> NoReturn:
        raise OutsideWorld("a file or socket")

    def unregister(self, *_: Any, **__: Any) -> NoReturn:
        raise OutsideWorld("a file or socket")

    def select(self, timeout: float | None = None) -> list[Any]:
        self.loop.advance(timeout)
        return []

    def get_map(self) -> Mapping[Any, Any]:
        return {}

    def get_key(self, fileobj: Any) -> NoReturn:
        raise KeyError(fileobj)


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop of a simulation. `run` makes and closes one; `VirtualClock` reads it."""

    def __init__(self, *, horizon_ms: int = HORIZON_MS) -> None:
        self._now = 0.0
        self._horizon_ms = horizon_ms
        self._serial = 0
        self._alive: dict[asyncio.Task[Any], None] = {}
        jump = _Jump()
        super().__init__(jump)
        jump.loop = self
        self._clock_resolution = 1e-9
        self.set_task_factory(_make_task)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def advance(self, timeout: float | None) -> None:
        """Let `timeout` seconds pass; None means that nothing will ever happen."""
        if timeout is None:
            raise Deadlock(tuple(_describe(task) for task in self._alive))
        self._now += max(timeout, 0.0)
        if self._now * 1000 > self._horizon_ms:
            raise HorizonPassed(self._horizon_ms)

    def extend_horizon(self, span_ms: int) -> None:
        """Allow `span_ms` more from now, so that cancelled tasks can clean up."""
        self._horizon_ms = max(self._horizon_ms, round(self._now * 1000) + span_ms)

    def enlist(
        self,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        context: contextvars.Context | None,
    ) -> asyncio.Task[T]:
        """Make a task with the next serial number and remember it until it is done."""
        self._serial += 1
        task = _SerialTask(coro, loop=self, serial=self._serial, context=context)
        self._alive[task] = None
        task.add_done_callback(self._delist)
        return task

    def _delist(self, task: asyncio.Task[Any]) -> None:
        self._alive.pop(task, None)

    def tasks(self) -> list[asyncio.Task[Any]]:
        """The tasks that are not done, oldest first."""
        return list(self._alive)

    # asyncio builds its wake-up pipe with these; there is no other thread to be woken by.

    def _make_self_pipe(self) -> None:
        self._ssock = self._csock = None

    def _close_self_pipe(self) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def run_in_executor(self, *_: Any, **__: Any) -> NoReturn:  # type: ignore[override]  # it only raises
        """Raises OutsideWorld."""
        raise OutsideWorld("a thread")

    async def getaddrinfo(self, *_: Any, **__: Any) -> NoReturn:
        """Raises OutsideWorld."""
        raise OutsideWorld("a name lookup")

    async def getnameinfo(self, *_: Any, **__: Any) -> NoReturn:
        """Raises OutsideWorld."""
        raise OutsideWorld("a name lookup")

    async def subprocess_exec(self, *_: Any, **__: Any) -> NoReturn:
        """Raises OutsideWorld."""
        raise OutsideWorld("a process")

    async def subprocess_shell(self, *_: Any, **__: Any) -> NoReturn:
        """Raises OutsideWorld."""
        raise OutsideWorld("a process")


class VirtualClock:
    """The Clock port on a virtual loop: starts at 2026-01-01T00:00:00Z."""

    def __init__(self, loop: VirtualLoop, *, epoch_ms: int = EPOCH_MS) -> None:
        self._loop = loop
        self._epoch_ms = epoch_ms

    def now_ms(self) -> int:
        """Wall clock, Unix milliseconds."""
        return self._epoch_ms + self.mono_us() // 1000

    def mono_us(self) -> int:
        """Virtual microseconds since the loop was made."""
        return round(self._loop.time() * 1_000_000)


def run(main: Coroutine[Any, Any, T], loop: VirtualLoop) -> T:
    """Run `main` to its end, cancel what is left (oldest first), and close the loop.

    Raises what `main` raises, Deadlock and HorizonPassed.
    """
    try:
        return loop.run_until_complete(main)
    finally:
        try:
            loop.extend_horizon(CLEAN_UP_MS)
            _cancel_all(loop)
        finally:
            loop.close()


def _cancel_all(loop: VirtualLoop) -> None:
    left = loop.tasks()
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(_settle(left))
    loop.run_until_complete(loop.shutdown_asyncgens())


async def _settle(tasks: list[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


def _make_task(
    loop: asyncio.AbstractEventLoop,
    coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
    *,
    context: contextvars.Context | None = None,
) -> asyncio.Task[T]:
    assert isinstance(loop, VirtualLoop)
    return loop.enlist(coro, context)


def _describe(task: asyncio.Task[Any]) -> str:
    frames = task.get_stack(limit=1)
    if not frames:
        return task.get_name()
    code = frames[-1].f_code
    return f"{task.get_name()} in {code.co_name} line {frames[-1].f_lineno}"
