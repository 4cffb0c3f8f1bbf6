"""The worker processes of one gateway: kept alive, and renewed without a pause.

Each worker is a gateway of its own name and working key, so its leases, records and demand are its
own. There is one name more than there are workers: a renewal starts the new worker under the name that
is free, on the socket of the one it replaces, and when the new one serves, the old one drains and its
name is free for the next. So for a moment both serve, and nobody is turned away.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from penstock.gateway.errors import WorkerLost
from penstock.kit.log import events
from penstock.kit.metrics import Metrics
from penstock.kit.tasks import Backoff, Scope

READY_DEADLINE_MS = 60_000
KILL_DEADLINE_MS = 10_000

_log = events("gateway")


class Child(Protocol):
    """A worker's process."""

    @property
    def pid(self) -> int: ...

    @property
    def status(self) -> int | None: ...

    async def ready(self) -> int | None: ...

    async def wait(self) -> int: ...

    def send(self, number: signal.Signals) -> None: ...


Launch = Callable[[int, int, bool], Awaitable[Child]]
"""(number of the worker, number of its socket, whether it shall know the market before it serves)."""


@dataclass(slots=True, eq=False)
class Worker:
    """One process. `port` is where it tells about itself, 0 until it serves."""

    number: int
    child: Child
    port: int = 0


@dataclass(slots=True, eq=False)
class Slot:
    """A socket of the port, and who serves it."""

    index: int
    worker: Worker | None = None


@dataclass(slots=True, eq=False)
class Workers:
    """Keeps `count` workers. `drain_ms` is how long one that stops may take before it is killed."""

    count: int
    launch: Launch
    metrics: Metrics
    drain_ms: int
    backoff: Backoff = field(
        default_factory=lambda: Backoff(delay_ms_min=100, delay_ms_max=5_000, steady_ms=30_000)
    )
    slots: list[Slot] = field(init=False)
    leaving: dict[Worker, None] = field(init=False, default_factory=dict)
    """Those that drain."""
    is_stopping: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.slots = [Slot(index) for index in range(self.count)]
        for result in ("complete", "failed"):
            self.metrics.count("gateway_renewals_total", 0, result=result)

    @property
    def ports(self) -> list[int]:
        """Where those that serve tell about themselves."""
        found = [slot.worker.port for slot in self.slots if slot.worker is not None]
        return [port for port in found if port]

    async def start(self, scope: Scope) -> None:
        """Start all; returns when all serve. Raises WorkerLost when one ends before it does."""
        async with asyncio.TaskGroup() as group:
            for slot in self.slots:
                group.create_task(self._start_first(slot))
        for slot in self.slots:
            assert slot.worker is not None, "all have started"
            scope.start(f"watch worker {slot.index + 1}", self._watch(slot, slot.worker))

    async def renew(self, scope: Scope) -> bool:
        """A new process for every worker, one after the other. False when a new one did not come up:
        then the old ones that are left go on.
        """
        for slot in self.slots:
            if self.is_stopping or not await self._renew(slot, scope):
                self.metrics.count("gateway_renewals_total", result="failed")
                return False
        self.metrics.count("gateway_renewals_total", result="complete")
        _log.info("gateway.renewed", workers=self.count)
        return True

    async def stop(self) -> None:
        """End all: each drains, and is killed when it takes too long."""
        self.is_stopping = True
        serving = {slot.worker: None for slot in self.slots if slot.worker is not None}
        async with asyncio.TaskGroup() as group:
            for worker in serving | self.leaving:
                group.create_task(self._end(worker))

    def _free_number(self) -> int:
        taken = {slot.worker.number for slot in self.slots if slot.worker is not None}
        taken |= {worker.number for worker in self.leaving}
        return next(number for number in range(1, self.count + 2) if number not in taken)

    async def _start_first(self, slot: Slot) -> None:
        child = await self.launch(slot.index + 1, slot.index, False)
        slot.worker = worker = Worker(slot.index + 1, child)
        if not await self._serves(worker):
            raise WorkerLost(number=worker.number, status=await child.wait())

    async def _serves(self, worker: Worker) -> bool:
        worker.port = await worker.child.ready() or 0
        self._count_serving()
        return worker.port > 0

    def _count_serving(self) -> None:
        self.metrics.gauge("gateway_workers", len(self.ports))

    async def _renew(self, slot: Slot, scope: Scope) -> bool:
        number = self._free_number()
        fresh = Worker(number, await self.launch(number, slot.index, True))
        try:
            async with asyncio.timeout(READY_DEADLINE_MS / 1000):
                serves = await self._serves(fresh)
        except TimeoutError:
            serves = False
        except asyncio.CancelledError:
            self.leaving[fresh] = None
            raise
        if not serves:
            _log.error("worker.not_renewed", number=fresh.number, status=fresh.child.status)
            await self._end(fresh)
            return False
        old, slot.worker = slot.worker, fresh
        scope.start(f"watch worker {slot.index + 1}", self._watch(slot, fresh))
        self._count_serving()
        if old is not None:
            await self._end(old)
        return True

    async def _watch(self, slot: Slot, worker: Worker) -> None:
        """While this worker is the slot's: start it again when it ends by itself."""
        crashes = 0
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            status = await worker.child.wait()
            if self.is_stopping or slot.worker is not worker:
                return
            worker.port = 0
            self._count_serving()
            steady = (loop.time() - began) * 1000 >= self.backoff.steady_ms
            crashes = 1 if steady else crashes + 1
            self.metrics.count("gateway_worker_crashes_total")
            _log.error("worker.ended", number=worker.number, status=status, crashes=crashes)
            await asyncio.sleep(self.backoff.delay_ms(crashes) / 1000)
            if self.is_stopping or slot.worker is not worker:
                return
            child = await self.launch(worker.number, slot.index, True)
            slot.worker = worker = Worker(worker.number, child)
            if self.is_stopping:
                await self._end(worker)
                return
            await self._serves(worker)

    async def _end(self, worker: Worker) -> None:
        """Let it drain, or kill it. It stays among the leaving until it has ended, also when nobody
        waits for that here any more.
        """
        self.leaving[worker] = None
        worker.child.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(self.drain_ms / 1000):
                await worker.child.wait()
        except TimeoutError:
            _log.error("worker.killed", number=worker.number, drain_ms=self.drain_ms)
            worker.child.send(signal.SIGKILL)
            async with asyncio.timeout(KILL_DEADLINE_MS / 1000):
                await worker.child.wait()
        self.leaving.pop(worker, None)
