"""All batches at this gateway: taken in, listed, cancelled, and those run that nobody else holds."""

import asyncio

import msgspec

from penstock.gateway.batches import CANCELLABLE, CANCELLING, Batch
from penstock.gateway.batches_desk import Desk, Host
from penstock.gateway.batches_journal import Journal
from penstock.gateway.batches_record import Due, Known, Records
from penstock.gateway.batches_run import BatchLost, Run
from penstock.gateway.batches_spare import Spare
from penstock.gateway.errors import BooksBehind, RateLimited
from penstock.gateway.files import Files
from penstock.gateway.files_errors import BatchEnded, BatchUnknown, told
from penstock.gateway.model_strings import ModelStrings
from penstock.kit.log import events
from penstock.kit.ports import BusDown, Conflict, DiskFull, Stores
from penstock.kit.tasks import Errands, crash_recorder

NEVER_MADE_MS = 60_000
"""A batch whose record did not follow within this is none."""
OPEN_WAIT_US = 60_000_000
HOLDER_BYTES = 8

_log = events("gateway")


class Batches:
    """The keeper. `keep` is the loop that looks for batches to run."""

    def __init__(self, gateway: Host, store: Stores, files: Files) -> None:
        self._gateway = gateway
        self._store = store
        self._records = Records(store, gateway.clock)
        self._desk = Desk(
            gateway=gateway,
            name=f"{gateway.name}/{gateway.entropy(HOLDER_BYTES).hex()}",
            records=self._records,
            files=files,
            spare=Spare(
                directory=gateway.directory,
                demand=gateway.demand,
                clock=gateway.clock,
                strings=ModelStrings(gateway.aliases),
                quiet_ms=gateway.batch_bounds.quiet_ms,
            ),
            slots=asyncio.Semaphore(gateway.batch_bounds.parallel_all_max),
        )
        self._runs: dict[str, Run] = {}
        self._errands = Errands(crash_recorder(gateway.metrics))
        self._wanted = asyncio.Event()
        self._ended = asyncio.Event()
        self._is_halted = False

    async def make(self, batch: Batch) -> None:
        """Take a batch in. Raises RateLimited, StorageFull, BooksBehind."""
        open_max = self._gateway.batch_bounds.account_open_max
        with told():
            batches = await self._records.of(batch.shelf)
            if sum(one.is_open for one in batches) >= open_max:
                raise RateLimited(
                    who="This account",
                    what="unfinished batches",
                    limit=open_max,
                    wait_us=OPEN_WAIT_US,
                )
            await self._records.make(batch)
        self._wanted.set()

    async def one(self, shelf: str, batch_id: str) -> Batch:
        """Raises BatchUnknown, BooksBehind."""
        with told():
            known = await self._records.find(shelf, batch_id)
        if known is None:
            raise BatchUnknown(batch_id=batch_id)
        return known.batch

    async def all(self, shelf: str) -> list[Batch]:
        """The account's batches, newest first. Raises BooksBehind."""
        with told():
            return await self._records.of(shelf)

    async def cancel(self, shelf: str, batch_id: str) -> Batch:
        """Begin no further lines. Raises BatchUnknown, BatchEnded, BooksBehind."""
        now_s = self._gateway.clock.now_ms() // 1000

        def cancelled(batch: Batch) -> Batch:
            if batch.status == CANCELLING:
                return batch
            if batch.status not in CANCELLABLE:
                raise BatchEnded(batch_id=batch.id, state=batch.status)
            return msgspec.structs.replace(batch, status=CANCELLING, cancelling_at=now_s)

        try:
            with told():
                known = await self._records.change(shelf, batch_id, cancelled)
        except Conflict as error:
            raise BooksBehind(what="The batch changes too fast to be cancelled.") from error
        if known is None:
            raise BatchUnknown(batch_id=batch_id)
        run = self._runs.get(batch_id)
        if run is not None:
            await run.hear()
        self._wanted.set()
        return known.batch

    # Running.

    async def keep(self) -> None:
        """For ever: take what is open and held by nobody, as much as fits."""
        bounds = self._gateway.batch_bounds
        await asyncio.sleep(bounds.settle_ms / 1000)  # until the directory is complete
        while not self._is_halted:
            self._wanted.clear()
            if self._gateway.directory.names():
                try:
                    await self._take()
                except (BusDown, DiskFull) as error:
                    _log.warning("batches.waiting", reason=str(error))
            self._gateway.metrics.gauge("gateway_batches_running", len(self._runs))
            try:
                async with asyncio.timeout(bounds.scan_ms / 1000):
                    await self._wanted.wait()
            except TimeoutError:
                pass  # nobody was in a hurry: it is simply time again

    def halt(self) -> None:
        """The gateway is about to stop: begin nothing more."""
        self._is_halted = True
        self._wanted.set()
        for run in self._runs.values():
            run.halt()

    async def finish(self, *, deadline_ms: int) -> None:
        """After `halt`: wait for lines on their way, then let go of what still runs."""
        self.halt()
        try:
            async with asyncio.timeout(deadline_ms / 1000):
                while self._runs:
                    self._ended.clear()
                    await self._ended.wait()
        except TimeoutError:
            _log.warning("batches.cut", count=len(self._runs))
        await self._errands.close(deadline_ms=deadline_ms)

    async def _take(self) -> None:
        bounds = self._gateway.batch_bounds
        due = [one for one in await self._records.due() if one[0] not in self._runs]
        mine = {run.batch.shelf for run in self._runs.values()}
        # Oldest first, but nobody's second one before everybody's first.
        due.sort(key=lambda one: one[1].shelf in mine)
        for batch_id, where in due:
            if len(self._runs) >= bounds.running_max or self._is_halted:
                return
            known = await self._claim(batch_id, where)
            if known is not None:
                self._begin(known)

    async def _claim(self, batch_id: str, where: Due) -> Known | None:
        """The batch, held by us; None if it is another's, or none."""
        now_ms = self._gateway.clock.now_ms()
        known = await self._records.find(where.shelf, batch_id)
        if known is None:
            if now_ms - where.created_ms > NEVER_MADE_MS:
                await self._records.close(batch_id)
            return None
        batch = known.batch
        if not batch.is_open:
            await self._records.close(batch_id)
            return None
        if batch.holder != self._desk.name and batch.until_ms > now_ms:
            return None
        until_ms = now_ms + self._gateway.batch_bounds.hold_ms
        held = msgspec.structs.replace(batch, holder=self._desk.name, until_ms=until_ms)
        try:
            return await self._records.put(known, held)
        except Conflict:
            return None  # another was faster

    def _begin(self, known: Known) -> None:
        run = Run(self._desk, known, Journal(self._store, known.batch))
        self._runs[known.batch.id] = run
        if self._is_halted:
            run.halt()
        self._errands.start("batch", self._go(run))

    async def _go(self, run: Run) -> None:
        batch_id = run.batch.id
        try:
            await run.go()
        except* (BatchLost, BusDown, DiskFull) as lost:
            # Its hold ends by itself, and then whoever is there goes on.
            _log.warning("batch.lost", batch=batch_id, reason=str(lost.exceptions[0]))
        finally:
            del self._runs[batch_id]
            self._ended.set()
            self._wanted.set()
