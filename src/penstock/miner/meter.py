"""What was served: bytes, their running digest, events, units and times; then the account of it.

Units come from the engine, and only from it: the last counts it told, whether in its usage at the
end or along the way. An engine that tells nothing until the end and is cut before it leaves the
events that carried content: each is at least one completion unit, and the prompt stays 0, because
an estimate could bill what was never worked. Every count is held to the order's ceilings: the
template's hidden tokens are billed up to `prompt_max` and no further.
"""

from hashlib import sha256

from penstock.miner.normalise import Counts, Step
from penstock.spec.messages import Order
from penstock.spec.receipts import Outcome, Receipt, charge_for
from penstock.spec.stream import Checkpoint
from penstock.spec.units import NO_UNITS, Units

EARNING = frozenset({Outcome.COMPLETE, Outcome.CLIENT_CANCELLED})
"""Outcomes under which a receipt can bill anything."""


class Meter:
    """The account of one order, from the moment it was accepted."""

    __slots__ = (
        "_accept_ms",
        "_content_events",
        "_counts",
        "_digest",
        "_first_ms",
        "_last_ms",
        "body_bytes",
        "events",
        "order",
        "order_digest",
    )

    def __init__(self, order: Order, order_digest: str, *, accept_ms: int) -> None:
        self.order = order
        self.order_digest = order_digest
        self.events = 0
        self.body_bytes = 0
        self._accept_ms = accept_ms
        self._first_ms = 0
        self._last_ms = accept_ms
        self._digest = sha256()
        self._counts: Counts | None = None
        self._content_events = 0

    def see(self, step: Step) -> None:
        """Note what an engine event says of the units; its bytes are counted when they are sent."""
        if step.counts is not None:
            self.count(step.counts)
        if step.has_content:
            self._content_events += 1

    def see_run(self, events: int, counts: Counts | None) -> None:
        """So many events with content in a row; the last one's counts, if they told any."""
        self._counts = counts or self._counts
        self._content_events += events

    def count(self, counts: Counts) -> None:
        """The engine's newest counts hold."""
        self._counts = counts

    def send(self, data: bytes, *, events: int, now_ms: int) -> None:
        """These bytes go out now, with so many data events in them."""
        self._digest.update(data)
        self.body_bytes += len(data)
        self.events += events
        # A wall clock may be set back in mid-stream; the receipt's times must not run backwards.
        self._last_ms = max(self._last_ms, now_ms)
        self._first_ms = self._first_ms or self._last_ms

    def units(self) -> Units:
        """Units so far, within the order's ceilings."""
        order, counts = self.order, self._counts
        prompt = min(counts.prompt, order.prompt_max) if counts is not None else 0
        cached = min(counts.cached, prompt) if counts is not None else 0
        completion = self._content_events
        if counts is not None and counts.completion:
            completion = counts.completion
        return Units(
            prompt=prompt,
            cached=cached,
            completion=min(completion, order.completion_max),
            images=min(counts.images, order.images_max) if counts is not None else 0,
            audio_ms=min(counts.audio_ms, order.audio_ms_max) if counts is not None else 0,
        )

    def checkpoint(self) -> Checkpoint:
        """The statement about everything sent until now."""
        return Checkpoint(
            order_id=self.order.order_id,
            order_digest=self.order_digest,
            events=self.events,
            body_bytes=self.body_bytes,
            units=self.units(),
            digest=self._digest.hexdigest(),
        )

    def receipt(self, outcome: Outcome, units: Units | None = None) -> Receipt:
        """The account at its end, over `units` (default: those so far). Failures and refusals cost
        nothing, whatever was worked.
        """
        order = self.order
        is_billed = outcome in EARNING
        billed = (self.units() if units is None else units) if is_billed else NO_UNITS
        return Receipt(
            order_id=order.order_id,
            order_digest=self.order_digest,
            chute=order.chute,
            instance=order.instance,
            miner=order.miner,
            gateway=order.gateway,
            payer_tag=order.payer_tag,
            outcome=outcome,
            units=billed,
            charge_nano=charge_for(order, billed) if is_billed else 0,
            response_digest=self._digest.hexdigest(),
            response_bytes=self.body_bytes,
            events=self.events,
            accept_ms=self._accept_ms,
            first_ms=self._first_ms or self._last_ms,
            last_ms=self._last_ms,
            seed=order.seed,
            token_ids_digest="",
            logprobs_digest="",
        )
