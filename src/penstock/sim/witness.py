"""What the simulation has seen: orders placed, words said to people, and rules found broken.

The witness stands outside all stations. It compares nothing; the checks do.
"""

import asyncio
import logging
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from penstock.gateway.bodies import Call
from penstock.gateway.orders import Ceilings, Orders, Placed
from penstock.gateway.sessions import Session
from penstock.sim.lives import Life
from penstock.spec.messages import Offer, Order
from penstock.spec.receipts import Outcome

BROKEN_MAX = 50
# Events that a station only writes when somebody it trusts, or it itself, did what must not be.
ALARMS = frozenset(
    {"task.crashed", "event.rejected", "records.lost", "claim.rejected", "epoch.refused"}
)


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule that did not hold: which, when (virtual ms since the start), and what was seen."""

    check: str
    at_ms: int
    detail: str


@dataclass(frozen=True, slots=True)
class Sent:
    """An order that a gateway placed, for whom, and in which of its lives."""

    order: Order
    account: str
    life: Life


@dataclass(frozen=True, slots=True)
class Word:
    """What a gateway told a person about the end of an order, countersigned."""

    account: str
    outcome: Outcome
    charge_nano: int


@dataclass(slots=True)
class Witness:
    """`now_ms` is the virtual time since the start."""

    now_ms: Callable[[], int]
    sent: dict[str, Sent] = field(default_factory=dict)
    placed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever an order is placed."""
    words: dict[str, Word] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def breaks(self, check: str, detail: str) -> None:
        """A rule was broken."""
        if len(self.broken) < BROKEN_MAX:
            self.broken.append(Broken(check=check, at_ms=self.now_ms(), detail=detail[:2_000]))

    def crashed(self, name: str, error: Exception) -> None:
        """The OnCrash of everything that the simulation itself runs."""
        frames = traceback.extract_tb(error.__traceback__)
        where = f" in {frames[-1].name}, line {frames[-1].lineno}" if frames else ""
        self.breaks("nothing crashes", f"{name}: {error!r}{where}")


class Alarm(logging.Handler):
    """Listens to what stations log. An alarm is a rule broken."""

    def __init__(self, witness: Witness) -> None:
        super().__init__(logging.WARNING)
        self._witness = witness

    def emit(self, record: logging.LogRecord) -> None:
        """One event of a station."""
        event = record.getMessage()
        if event in ALARMS:
            fields = getattr(record, "fields", {})
            self._witness.breaks(f"no station says {event}", f"{record.name}: {fields}")


@dataclass(slots=True, eq=False)
class WatchedOrders(Orders):
    """A gateway's orders, each noted in the moment in which it is made."""

    witness: Witness
    life: Life

    def place(
        self,
        call: Call,
        offer: Offer,
        *,
        bounds: Ceilings,
        account: str,
        decision_digest: str = "",
        session: Session | None = None,
    ) -> Placed:
        """As its parent, which does the work."""
        placed = Orders.place(
            self,
            call,
            offer,
            bounds=bounds,
            account=account,
            decision_digest=decision_digest,
            session=session,
        )
        self.witness.sent[placed.order.order_id] = Sent(placed.order, account, self.life)
        self.witness.placed.set()
        return placed

    def take_back(self, placed: Placed) -> bool:
        """As its parent; what was taken back was never sent."""
        is_void = Orders.take_back(self, placed)
        if is_void:
            del self.witness.sent[placed.order.order_id]
        return is_void
