"""The end of an order: decided, countersigned, recorded, counted. And what follows a lost client.

`close` is plain code without a wait, so an order that has ended is on record before anything else
can happen, whatever is cancelled afterwards.
"""

import asyncio
from dataclasses import dataclass, field

from penstock.gateway.admit import Ticket
from penstock.gateway.attempts import Attempt
from penstock.gateway.config import Deadlines
from penstock.gateway.demand import Demand
from penstock.gateway.policy import End, Fault, Proven, end_of, prove
from penstock.gateway.records import Recorder
from penstock.kit.metrics import Metrics
from penstock.kit.ports import Clock, Sign, Verify
from penstock.kit.tasks import Errands
from penstock.spec.entries import work_units
from penstock.spec.keys import Signed, sign, signed_digest
from penstock.spec.params import Params
from penstock.spec.receipts import Countersign, Outcome, Record


@dataclass(frozen=True, slots=True)
class Closed:
    """An order that has ended, with both signed words about it."""

    end: End
    receipt: Signed | None
    countersign: Signed


@dataclass(frozen=True, slots=True)
class Closing:
    """Closes orders in the gateway's name."""

    clock: Clock
    sign: Sign
    verify: Verify
    params: Params
    recorder: Recorder
    demand: Demand
    metrics: Metrics
    errands: Errands
    deadlines: Deadlines
    leaving: dict[str, None] = field(default_factory=dict)
    """Orders whose client has gone and that are being seen off."""
    quiet: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever the last of them is closed."""

    def close(self, attempt: Attempt, ticket: Ticket, *, is_cancelled: bool = False) -> Closed:
        """Decide, sign and queue the record. The hold is settled by whoever ends the request."""
        placed = attempt.placed
        proven = prove(placed, attempt.tally, is_error=attempt.is_error, verify=self.verify)
        end = end_of(placed, proven, is_cancelled=is_cancelled)
        is_late_refusal = end.outcome is Outcome.REFUSED and not attempt.is_refusal
        if is_late_refusal or (attempt.failure and end.outcome is Outcome.COMPLETE):
            end = End(Outcome.MINER_FAILED, 0, Fault.NOT_COMPLETE)
        countersign = sign("countersign", self._countersign(attempt, proven, end), self.sign)
        self.recorder.add(
            Record(
                order=placed.signed,
                receipt=proven.signed_receipt,
                checkpoint=proven.signed_checkpoint,
                countersign=countersign,
            ),
            account=ticket.account,
            lease_id=ticket.lease_id,
        )
        self._learn(attempt, proven, end)
        return Closed(end=end, receipt=proven.signed_receipt, countersign=countersign)

    def abandon(
        self, attempt: Attempt, ticket: Ticket, opening: asyncio.Task[None] | None = None
    ) -> None:
        """The client has gone: take the order and its ticket over and see both to their end."""
        ticket.hand_over()
        self.leaving[attempt.placed.order.order_id] = None
        self.quiet.clear()
        self.errands.start("abandoned", self._see_off(attempt, ticket, opening))

    async def _see_off(
        self, attempt: Attempt, ticket: Ticket, opening: asyncio.Task[None] | None
    ) -> None:
        """Cancel at the miner and wait a little for its last words; then close without them."""
        try:
            async with asyncio.timeout(self.deadlines.cancel_wait_ms / 1000):
                await attempt.cancel()
                if opening is not None:
                    await opening
                while not attempt.is_over:
                    await attempt.read()
        except TimeoutError:
            pass  # the last checkpoint, if there is one, says what was proven
        finally:
            closed = self.close(attempt, ticket, is_cancelled=True)
            ticket.settle(closed.end.charge_nano)
            self.metrics.count("gateway_requests_total", outcome=closed.end.outcome.value)
            self.leaving.pop(attempt.placed.order.order_id)
            if not self.leaving:
                self.quiet.set()
            await attempt.cut()

    async def wait_quiet(self, *, deadline_ms: int) -> None:
        """Until every lost client's order is closed; past the deadline they are closed as they are."""
        try:
            async with asyncio.timeout(deadline_ms / 1000):
                while self.leaving:
                    await self.quiet.wait()
        except TimeoutError:
            await self.errands.close(deadline_ms=deadline_ms)

    def _countersign(self, attempt: Attempt, proven: Proven, end: End) -> Countersign:
        signed = proven.signed_receipt
        return Countersign(
            order_id=attempt.placed.order.order_id,
            order_digest=attempt.placed.digest,
            receipt_digest="" if signed is None else signed_digest(signed),
            outcome=end.outcome,
            charge_nano=end.charge_nano,
            response_bytes=attempt.tally.body_bytes,
            events=attempt.tally.events,
            ttft_us=attempt.first_us - attempt.started_us,
            total_us=self._total_us(attempt),
            match=proven.is_match,
        )

    def _total_us(self, attempt: Attempt) -> int:
        """To the last byte; if none came, to now: a silent miner was waited for."""
        seen = attempt.tally.body_bytes > 0 and not attempt.failure
        last_us = attempt.last_us if seen else self.clock.mono_us()
        return last_us - attempt.started_us

    def _learn(self, attempt: Attempt, proven: Proven, end: End) -> None:
        """Statistics of the instance, demand of the chute, metrics."""
        instance, total_us = attempt.instance, self._total_us(attempt)
        self.demand.busy(attempt.placed.order.chute, total_us)
        match end.outcome:
            case Outcome.COMPLETE:
                units = proven.receipt.units if proven.receipt else None
                work = work_units(units, self.params) if units else 0
                instance.succeeded(total_us=total_us, work=work)
                ttft_ms = (attempt.first_us - attempt.started_us) // 1000
                self.metrics.observe("gateway_ttft_ms", ttft_ms)
            case Outcome.MINER_FAILED:
                if instance.failed(self.clock.now_ms()):
                    self.metrics.count("gateway_breakers_opened_total")
            case _:
                instance.ended()
        self.metrics.count("gateway_orders_total", outcome=end.outcome.value)
        if end.fault not in {Fault.NONE, Fault.MISSING}:
            self.metrics.count("gateway_receipts_rejected_total", reason=end.fault.value)
