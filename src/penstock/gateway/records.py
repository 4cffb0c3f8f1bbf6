"""Records on their way to the ledger: a bounded queue, one publisher, and the newest ones at hand.

Nothing is dropped: while the bus is down records wait here and new requests are turned away when
`records_max` wait. Lease closings go the same way, so that they never overtake a record. Storing an
event costs the gateway as much as serving three requests, so what waits goes in batches.
"""

import asyncio
from collections import OrderedDict, deque
from typing import Any

import msgspec

from penstock.gateway.config import Bounds
from penstock.gateway.errors import BooksBehind
from penstock.gateway.forms import quoted
from penstock.kit.log import events
from penstock.kit.metrics import Metrics
from penstock.kit.ports import BusDown, Events
from penstock.kit.tasks import Backoff

RETRY = Backoff(delay_ms_min=50, delay_ms_max=2_000)
BATCH_MAX = 64
BATCH_BYTES_MAX = 256 * 1024

_log = events("gateway")
_encode = msgspec.json.Encoder().encode
_RECORDS = b'{"records":['


class Parcel(msgspec.Struct):
    """One event for the bus; `count` of what waits is in it."""

    subject: str
    data: bytes
    event_id: str
    count: int = 1


class Recorder:
    """Takes records and lease closings without waiting; `publish` is the loop that delivers them."""

    def __init__(self, *, bus: Events, name: str, bounds: Bounds, metrics: Metrics) -> None:
        self._bus = bus
        self._record_subject = f"events.record.{name}"
        self._lease_subject = f"events.lease.{name}"
        self._bounds = bounds
        self._metrics = metrics
        self._parcels: deque[Parcel] = deque()
        self._recent: OrderedDict[str, bytes] = OrderedDict()
        self._some = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()

    @property
    def waiting(self) -> int:
        """Records and closings that the bus has not stored yet."""
        return len(self._parcels)

    def check_room(self, running: int, unsealed: int = 0) -> None:
        """Each request that runs may leave a record per try, and what is unsealed will leave one.
        Raises BooksBehind when full.
        """
        coming = running * self._bounds.tries_max + unsealed
        if len(self._parcels) + coming >= self._bounds.records_max:
            raise BooksBehind(what="The bus does not take records, so no new requests are taken.")

    def add(self, order_id: str, record: bytes, *, account: str, lease_id: str) -> None:
        """Queue an order's record, as JSON, for the ledger and keep it at hand."""
        data = b'{"record":%b,"account":%b,"lease_id":%b}' % (
            record,
            quoted(account),
            quoted(lease_id),
        )
        self._put(Parcel(self._record_subject, data, order_id))
        self._recent[order_id] = data  # the very bytes that go out: kept once, not twice
        if len(self._recent) > self._bounds.recent_max:
            self._recent.popitem(last=False)

    def lease_closed(self, lease_id: str) -> None:
        """The gateway holds nothing under this lease any more."""
        data = _encode({"lease_id": lease_id, "close": True})
        self._put(Parcel(self._lease_subject, data, f"{lease_id}/close"))

    def all_leases_closed(self, gateway: str, *, event_id: str, at_ms: int) -> None:
        """The gateway has just started, at `at_ms`: whatever its former life held is free."""
        data = _encode({"lease_id": "*", "close": True, "gateway": gateway, "at_ms": at_ms})
        self._put(Parcel(self._lease_subject, data, event_id))

    def recent(self, order_id: str) -> dict[str, Any] | None:
        """The record, as plain values, if its order ended here not long ago."""
        data = self._recent.get(order_id)
        if data is None:
            return None
        plain: dict[str, Any] = msgspec.json.decode(data)["record"]
        return plain

    async def publish(self) -> None:
        """For ever: deliver in order, each until the bus has stored it."""
        failures = 0
        while True:
            while self._parcels:
                # Made once: sent again it is the same event, and stored once.
                parcel = self._next()
                while True:
                    try:
                        await self._bus.publish(
                            parcel.subject, parcel.data, event_id=parcel.event_id
                        )
                        break
                    except BusDown as error:
                        failures += 1
                        if failures == 1:
                            _log.warning("records.waiting", reason=str(error), count=self.waiting)
                        await asyncio.sleep(RETRY.delay_ms(failures) / 1000)
                failures = 0
                for _ in range(parcel.count):
                    self._parcels.popleft()
                self._metrics.gauge("gateway_records_waiting", self.waiting)
            self._some.clear()
            self._none.set()
            await self._some.wait()

    async def flush(self, *, deadline_ms: int) -> bool:
        """Wait until all is delivered; False when the deadline passed first."""
        try:
            async with asyncio.timeout(deadline_ms / 1000):
                await self._none.wait()
        except TimeoutError:
            _log.error("records.lost", count=self.waiting)
            return False
        return True

    def _next(self) -> Parcel:
        """What is published next: a closing by itself, or as many records as come before one."""
        first = self._parcels[0]
        batch: list[bytes] = []
        size = 0
        for parcel in self._parcels:
            size += len(parcel.data)
            if (
                parcel.subject != self._record_subject
                or len(batch) == BATCH_MAX
                or size > BATCH_BYTES_MAX
            ):
                break
            batch.append(parcel.data)
        if len(batch) < 2:
            return first
        batch[0] = _RECORDS + batch[0]
        batch[-1] += b"]}"
        data = b",".join(batch)
        return Parcel(first.subject, data, f"{first.event_id}/{len(batch)}", len(batch))

    def _put(self, parcel: Parcel) -> None:
        self._parcels.append(parcel)
        if len(self._parcels) == 1:
            self._none.clear()
            self._some.set()
