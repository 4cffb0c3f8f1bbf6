"""Records on their way to the ledger: a bounded queue, one publisher, and the newest ones at hand.

Nothing is dropped: while the bus is down records wait here and new requests are turned away when
`records_max` wait. Lease closings go the same way, so that they never overtake a record.
"""

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.gateway.config import Bounds
from penstock.gateway.errors import BooksBehind
from penstock.kit.log import events
from penstock.kit.metrics import Metrics
from penstock.kit.ports import BusDown, Events
from penstock.kit.tasks import Backoff
from penstock.spec.canon import to_plain
from penstock.spec.receipts import Record, record_id

RETRY = Backoff(delay_ms_min=50, delay_ms_max=2_000)

_log = events("gateway")
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Parcel:
    """One event for the bus."""

    subject: str
    data: bytes
    event_id: str


class Recorder:
    """Takes records and lease closings without waiting; `publish` is the loop that delivers them."""

    def __init__(self, *, bus: Events, name: str, bounds: Bounds, metrics: Metrics) -> None:
        self._bus = bus
        self._record_subject = f"events.record.{name}"
        self._lease_subject = f"events.lease.{name}"
        self._bounds = bounds
        self._metrics = metrics
        self._parcels: deque[Parcel] = deque()
        self._recent: OrderedDict[str, Record] = OrderedDict()
        self._some = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()

    @property
    def waiting(self) -> int:
        """Events that the bus has not stored yet."""
        return len(self._parcels)

    def check_room(self, running: int) -> None:
        """Each request that runs may leave a record per try. Raises BooksBehind when full."""
        if len(self._parcels) + running * self._bounds.tries_max >= self._bounds.records_max:
            raise BooksBehind(what="The bus does not take records, so no new requests are taken.")

    def add(self, record: Record, *, account: str, lease_id: str) -> None:
        """Queue an order's record for the ledger and keep it at hand."""
        order_id = record_id(record)
        data = _encode({"record": record, "account": account, "lease_id": lease_id})
        self._put(Parcel(self._record_subject, data, order_id))
        self._recent[order_id] = record
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
        record = self._recent.get(order_id)
        return None if record is None else to_plain(record)

    async def publish(self) -> None:
        """For ever: deliver in order, each until the bus has stored it."""
        failures = 0
        while True:
            while self._parcels:
                parcel = self._parcels[0]
                try:
                    await self._bus.publish(parcel.subject, parcel.data, event_id=parcel.event_id)
                except BusDown as error:
                    failures += 1
                    if failures == 1:
                        _log.warning("records.waiting", reason=str(error), count=self.waiting)
                    await asyncio.sleep(RETRY.delay_ms(failures) / 1000)
                    continue
                failures = 0
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

    def _put(self, parcel: Parcel) -> None:
        self._parcels.append(parcel)
        self._none.clear()
        self._some.set()
        self._metrics.gauge("gateway_records_waiting", self.waiting)
