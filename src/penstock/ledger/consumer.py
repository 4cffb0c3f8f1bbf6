"""The intake loop: bus events in batches, each batch one transaction, acknowledged when committed.

An event is acknowledged only after its batch is committed or it was rejected, so a crash at any
point means that it comes again, and everything it would do is done once by its id.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from penstock.kit.log import events
from penstock.kit.metrics import Metrics
from penstock.kit.ports import BusDown, Clock, Delivery, Events, StoreDown
from penstock.ledger.errors import Rejected
from penstock.ledger.intake import (
    Arrival,
    Judged,
    LeaseClosing,
    MarketWord,
    Rules,
    read_event,
    split_event,
    wanted_for,
)
from penstock.ledger.policy import Draft, Fate
from penstock.ledger.writer import Writer
from penstock.spec.errors import SpecError

SUBJECT = "events.>"
GROUP = "ledger"
BATCH_MAX = 128
BATCH_BYTES_MAX = 512 * 1024
"""A message may hold many records; a transaction is not to grow with them."""
QUEUE_MAX = 256
QUIET_WAIT_MS = 250
PUT_OFF_MAX = 4_096
"""Closings that wait; those beyond it are left to expire."""
PROGRESS_DEADLINE_MS = 2_000
STORE_RETRY_MS = 500
# Checking signatures holds the loop; others get their turn after this many events.
CHECKED_BETWEEN_TURNS_MAX = 8

_log = events("ledger")


@dataclass
class Consumer:
    """Takes in what gateways and the market say.

    `quiet_ms`: all that was on the bus at this moment has been taken in; -1 before the first. What
    was delivered and not acknowledged (to a former life of this ledger, say) counts as not taken
    in. While the bus is away gateways keep what they have to say, so after each outage the moment
    stands still for the claims' grace: they get that long to say it.
    """

    bus: Events
    writer: Writer
    rules: Callable[[], Rules]
    clock: Clock
    metrics: Metrics
    quiet_ms: int = -1
    _put_off: list[tuple[int, LeaseClosing]] = field(default_factory=list)
    """Closings that wait for `quiet_ms` to reach when they came."""
    _aim: tuple[int, int] = (-1, -1)
    """(an event's number, when it was the newest)."""
    _heard_again_ms: int = -1
    """When the bus was last found away, and the grace after it."""
    _queue: asyncio.Queue[Delivery] = field(
        default_factory=lambda: asyncio.Queue(maxsize=QUEUE_MAX)
    )

    async def run(self) -> None:
        """Until cancelled. A crash loses nothing: what was not acknowledged comes again."""
        self._queue = asyncio.Queue(maxsize=QUEUE_MAX)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pump(self._queue), name="ledger-pump")
            group.create_task(self._work(self._queue), name="ledger-intake")
            group.create_task(self._measure(), name="ledger-progress")

    async def _pump(self, queue: asyncio.Queue[Delivery]) -> None:
        async for delivery in self.bus.consume(SUBJECT, group=GROUP):
            await queue.put(delivery)

    async def _work(self, queue: asyncio.Queue[Delivery]) -> None:
        while True:
            batch = [await queue.get()]
            size = len(batch[0].data)
            while len(batch) < BATCH_MAX and size < BATCH_BYTES_MAX and not queue.empty():
                batch.append(queue.get_nowait())
                size += len(batch[-1].data)
            await self.take(batch)

    async def _measure(self) -> None:
        while True:
            await self.measure()
            await self.close_put_off()
            await asyncio.sleep(QUIET_WAIT_MS / 1000)

    async def measure(self) -> None:
        """Move `quiet_ms` on if what was stored when it was last measured has been taken in."""
        asked_ms = self.clock.now_ms()
        try:
            async with asyncio.timeout(PROGRESS_DEADLINE_MS / 1000):
                progress = await self.bus.progress(SUBJECT, group=GROUP)
        except (BusDown, TimeoutError):
            grace_ms = self.writer.params.claim_grace_ms
            self._heard_again_ms = self.clock.now_ms() + grace_ms
            return
        now_stored = (progress.stored, asked_ms)
        for number, at_ms in (self._aim, now_stored):
            if progress.settled >= number and at_ms >= self._heard_again_ms:
                self.quiet_ms = max(self.quiet_ms, at_ms)
        # A bus that lost its disk counts from the beginning again.
        if progress.settled >= self._aim[0] or progress.stored < self._aim[0]:
            self._aim = now_stored

    async def take(self, batch: Sequence[Delivery]) -> None:
        """Take in one batch and acknowledge it. Waits while the store is down."""
        started_us = self.clock.mono_us()
        arrivals = await self._put_off_closings(await self._read(batch), len(batch))
        while True:
            try:
                await self._keep(arrivals)
                break
            except StoreDown as error:
                _log.warning("store.down", why=str(error))
                self.metrics.count("ledger_store_down_total")
                await asyncio.sleep(STORE_RETRY_MS / 1000)
        for delivery in batch:
            try:
                await delivery.ack()
            except BusDown:
                # It comes again and changes nothing.
                self.metrics.count("ledger_acks_lost_total")
        self.metrics.observe("ledger_batch_us", self.clock.mono_us() - started_us)
        self.metrics.count("ledger_events_total", len(batch))

    async def _put_off_closings(self, arrivals: list[Arrival], batch_size: int) -> list[Arrival]:
        """A gateway closes a lease behind the records that ran under it. But after a crash of ours
        those may be delivered again only later than the closing, and would find no lease to pay
        them: so while older events may be outstanding, closings wait until all has been taken in.
        """
        closings = [one for one in arrivals if isinstance(one, LeaseClosing)]
        if not closings or await self._is_all_in_hand(batch_size):
            return arrivals
        now_ms = self.clock.now_ms()
        for one in closings[: PUT_OFF_MAX - len(self._put_off)]:
            self._put_off.append((now_ms, one))
        self.metrics.count("ledger_closings_put_off_total", len(closings))
        return [one for one in arrivals if not isinstance(one, LeaseClosing)]

    async def _is_all_in_hand(self, batch_size: int) -> bool:
        """Nothing is outstanding but this batch and what waits in our queue behind it."""
        try:
            async with asyncio.timeout(PROGRESS_DEADLINE_MS / 1000):
                progress = await self.bus.progress(SUBJECT, group=GROUP)
        except (BusDown, TimeoutError):
            return False
        return progress.stored - progress.settled <= batch_size + self._queue.qsize()

    async def close_put_off(self) -> None:
        """Do the closings that were put off and whose time has come; what fails is tried again. A
        crash forgets them: those leases end by expiring.
        """
        due = [one for at_ms, one in self._put_off if at_ms <= self.quiet_ms]
        if not due:
            return
        try:
            await self._keep(due)
        except StoreDown:
            return
        self._put_off = [(at_ms, one) for at_ms, one in self._put_off if at_ms > self.quiet_ms]

    async def _read(self, batch: Sequence[Delivery]) -> list[Arrival]:
        rules = self.rules()
        arrivals: list[Arrival] = []
        count = 0
        for delivery in batch:
            for data in self._split(delivery):
                try:
                    arrivals.append(read_event(delivery.subject, data, rules))
                except Rejected as error:
                    self._reject(error, subject=delivery.subject)
                count += 1
                if not count % CHECKED_BETWEEN_TURNS_MAX:
                    await asyncio.sleep(0)
        return arrivals

    def _split(self, delivery: Delivery) -> list[bytes]:
        try:
            return split_event(delivery.subject, delivery.data)
        except Rejected as error:
            self._reject(error, subject=delivery.subject)
            return []

    async def _keep(self, arrivals: Sequence[Arrival]) -> None:
        if not arrivals:
            return
        try:
            fates = await self._decide(arrivals)
        except SpecError as error:
            # The books refused something that the rules let through: find it, leave only it out.
            if len(arrivals) == 1:
                self._reject(Rejected("books", str(error)[:200]), subject="")
                return
            for one in arrivals:
                await self._keep([one])
            return
        for fate in fates:
            if isinstance(fate, Rejected):
                self._reject(fate, subject="")
            else:
                self.metrics.count("ledger_arrivals_total", fate=fate.value)

    async def _decide(self, arrivals: Sequence[Arrival]) -> list[Fate | Rejected]:
        def decide(draft: Draft) -> list[Fate | Rejected]:
            return [_take(draft, one) for one in arrivals]

        return await self.writer.decide(wanted_for(arrivals), decide)

    def _reject(self, error: Rejected, *, subject: str) -> None:
        self.metrics.count("ledger_rejected_total", reason=error.reason)
        _log.warning("event.rejected", reason=error.reason, detail=error.detail, subject=subject)


def _take(draft: Draft, one: Arrival) -> Fate | Rejected:
    match one:
        case Judged():
            return draft.take_record(one)
        case LeaseClosing():
            return draft.close_leases(one)
        case MarketWord():
            try:
                return draft.take_word(one)
            except Rejected as error:
                return error
        case _:
            assert_never(one)
