"""The end of an order: decided, countersigned, counted, and on its way to its record.

`close` is plain code without a wait, so an order that has ended is on its way before anything else
can happen. Orders whose client has gone, and those that lost a race against another instance, are
seen off here: the miner is told, and its last words are heard for a while.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from penstock.gateway.anchors import BYTES_PER_TOKEN
from penstock.gateway.attempts import Attempt
from penstock.gateway.config import Deadlines
from penstock.gateway.demand import Demand
from penstock.gateway.forms import COUNTERSIGN, FALSE, TRUE, outcome_word
from penstock.gateway.limits import REQUEST_WORK, work_done
from penstock.gateway.meters import Passed, upstream_reason
from penstock.gateway.orders import Ceilings, signed_json
from penstock.gateway.policy import End, Fault, Proven, end_of, prove
from penstock.gateway.sealer import Ended, Sealer
from penstock.gateway.spans import RequestSpans
from penstock.kit.metrics import Metrics
from penstock.kit.ports import Clock, Verify
from penstock.kit.tasks import Errands
from penstock.spec.params import Params
from penstock.spec.receipts import Outcome
from penstock.spec.routing import request_work

Settle = Callable[[int, int], None]
"""Ends a hold: what the order costs, in nano-USD, and the work that it came to."""
NULL = b"null"


class Closed(msgspec.Struct):
    """An order that has ended. `countersign` is the canonical JSON of what we say of it."""

    end: End
    countersign: bytes
    work: int
    """What it came to, as limits count it; 0 if nobody was served."""


@dataclass(slots=True, eq=False)
class Leaving:
    """An order nobody waits for any more; implements the attempts' Owner."""

    closing: "Closing"
    decision: bytes
    settle: Settle

    def came(self, attempt: Attempt, part: bytes) -> None:
        """More of the answer: it is counted, that is all."""

    def over(self, attempt: Attempt) -> None:
        """Its last words are here, or too late."""
        closing = self.closing
        closed = closing.close(attempt, decision=self.decision, is_cancelled=True)
        self.settle(closed.end.charge_nano, closed.work)
        closing.leaving.pop(attempt, None)
        if not closing.leaving:
            closing.quiet.set()


@dataclass(slots=True, eq=False)
class Closing:
    """Closes orders in the gateway's name."""

    clock: Clock
    verify: Verify
    params: Params
    sealer: Sealer
    demand: Demand
    metrics: Metrics
    errands: Errands
    deadlines: Deadlines
    leaving: dict[Attempt, None] = field(default_factory=dict)
    """Orders that are being seen off."""
    watched: dict[Attempt, RequestSpans] = field(default_factory=dict)
    """Orders of traced requests."""
    quiet: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever the last of them is closed."""
    passed: Passed = field(init=False)

    def __post_init__(self) -> None:
        self.passed = Passed(self.metrics)

    def close(self, attempt: Attempt, *, decision: bytes, is_cancelled: bool = False) -> Closed:
        """Decide and hand over to the sealer. The hold is settled by whoever ends the request."""
        placed, tally = attempt.placed, attempt.tally
        proven = prove(placed, tally, is_error=attempt.is_error, verify=self.verify)
        end = end_of(placed, proven, is_cancelled=is_cancelled)
        is_late_refusal = end.outcome is Outcome.REFUSED and not attempt.is_refusal
        if is_late_refusal or (attempt.failure and end.outcome is Outcome.COMPLETE):
            end = End(Outcome.MINER_FAILED, 0, Fault.NOT_COMPLETE)
        total_us = self._total_us(attempt)
        told = proven.told
        body = COUNTERSIGN % (
            end.charge_nano,
            tally.events,
            TRUE if proven.is_match else FALSE,
            placed.digest.encode(),
            placed.order_id.encode(),
            outcome_word(end.outcome),
            b"" if told is None else told.covered.hex().encode(),
            tally.body_bytes,
            total_us,
            attempt.first_us - attempt.started_us,
        )
        signed = proven.signed_checkpoint
        checkpoint = NULL if signed is None else signed_json(signed)
        self.sealer.ended(
            attempt.peer,
            Ended(placed, told, checkpoint, decision, body, end.charge_nano, attempt.hold),
        )
        self._learn(attempt, proven, end, total_us=total_us)
        return Closed(end, body, _work_of(proven, end, placed.bounds))

    def watch(self, attempt: Attempt, spans: RequestSpans) -> None:
        """This order's request is traced."""
        attempt.trace = spans.order_begins(attempt)
        self.watched[attempt] = spans

    def abandon(self, attempt: Attempt, *, decision: bytes, settle: Settle) -> None:
        """Nobody waits for this order any more: take it and its hold over and see both to their end."""
        self.leaving[attempt] = None
        self.quiet.clear()
        attempt.hand_over(Leaving(self, decision, settle))
        attempt.cancel()

    def sweep(self, now_us: int) -> None:
        """Close those whose time is over."""
        for attempt in list(self.leaving):
            attempt.check_deadlines(now_us)

    async def wait_quiet(self, *, deadline_ms: int) -> None:
        """Until every abandoned order is closed; past the deadline they are closed as they are."""
        try:
            async with asyncio.timeout(deadline_ms / 1000):
                while self.leaving:
                    await self.quiet.wait()
        except TimeoutError:
            for attempt in list(self.leaving):
                attempt.give_up("gateway_stopped")

    def _total_us(self, attempt: Attempt) -> int:
        """To the last byte; if none came, to now: a silent miner was waited for."""
        seen = attempt.tally.body_bytes > 0 and not attempt.failure
        last_us = attempt.last_us if seen else self.clock.mono_us()
        return last_us - attempt.started_us

    def _learn(self, attempt: Attempt, proven: Proven, end: End, *, total_us: int) -> None:
        """Statistics of the instance, demand of the chute, metrics."""
        instance = attempt.instance
        self.demand.busy(attempt.placed.form.chute, total_us)
        match end.outcome:
            case Outcome.COMPLETE:
                receipt = proven.receipt
                assert receipt is not None, "a complete order has a receipt"
                units, ttft_us = receipt.units, attempt.first_us - attempt.started_us
                work = request_work(fresh=units.prompt - units.cached, completion=units.completion)
                instance.succeeded(total_us=total_us, work=work, ttft_us=ttft_us)
                instance.told(
                    attempt.placed.decision_digest,
                    cached=units.cached,
                    completion=units.completion,
                )
                self.passed.served(units, ttft_us=ttft_us, total_us=total_us)
            case Outcome.MINER_FAILED:
                if instance.failed(self.clock.now_ms()):
                    self.metrics.count("gateway_breakers_opened_total")
            case _:
                instance.ended()
        if self.watched:
            spans = self.watched.pop(attempt, None)
            if spans is not None:
                spans.order_ended(attempt, proven, end, total_us=total_us)
        self.passed.ended(end.outcome, attempt.tally)
        if end.outcome is Outcome.MINER_FAILED:
            reason = upstream_reason(attempt.failure, end.fault)
            self.metrics.count("gateway_upstream_errors_total", reason=reason)
        if end.fault is not Fault.NONE and end.fault is not Fault.MISSING:
            self.metrics.count("gateway_receipts_rejected_total", reason=end.fault.value)


def settled_alone(attempt: Attempt) -> Settle:
    """The end of an order that was only our own second try: its caller's limits do not count it."""

    def settle(charge_nano: int, _work: int) -> None:
        attempt.hold.settle(charge_nano)

    return settle


def _work_of(proven: Proven, end: End, bounds: Ceilings) -> int:
    """By the receipt, or the last checkpoint of an answer that its client left; its prompt, by its
    length, if he left before there was either: an engine has worked on it.
    """
    if end.outcome is Outcome.COMPLETE or end.outcome is Outcome.CLIENT_CANCELLED:
        said = proven.receipt if proven.receipt is not None else proven.checkpoint
        if said is not None:
            return work_done(said.units)
        return REQUEST_WORK + bounds.prompt_max // BYTES_PER_TOKEN
    return 0
