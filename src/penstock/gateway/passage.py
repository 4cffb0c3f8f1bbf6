"""One request on its way through the gateway, as callbacks: let in, placed, sent, relayed, closed.

When key, lease, session and connection are at hand, all of it up to the write to the miner happens in
the callback of the request's last byte, and the answer in the callback of its own. What is not at hand
is an errand that calls back. Until the first byte has gone to the client a failure costs only time;
after it the answer is what it is.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace

from penstock.gateway.admit import Key, Ticket, secret_of
from penstock.gateway.answers import (
    answer_whole,
    envelope_of,
    limit_fields,
    refusal,
    served_fields,
)
from penstock.gateway.attempts import Attempt
from penstock.gateway.bodies import Call, parse_body
from penstock.gateway.calls import for_model
from penstock.gateway.closing import Closed, settled_alone
from penstock.gateway.dialects import DIALECTS, Translation
from penstock.gateway.dialects.errors import AnswerUnreadable
from penstock.gateway.errors import GatewayError, MinerFailed, NoCapacity
from penstock.gateway.forms import outcome_text
from penstock.gateway.hedging import Bucket
from penstock.gateway.inside import Asker, Terms
from penstock.gateway.instances import Instance
from penstock.gateway.leases import Hold
from penstock.gateway.limits import AddressMeter, work_asked
from penstock.gateway.parts import Parts
from penstock.gateway.placing import Placing
from penstock.gateway.plan import Plan
from penstock.gateway.relay import Relay, lost_envelope
from penstock.gateway.sessions import Peer
from penstock.gateway.steps import Steps
from penstock.gateway.wants import Wants, wants_in
from penstock.spec.receipts import Outcome

TRACE_HEADER = b"x-penstock-trace"


class Passage(Steps):
    """One request. It lives in `gateway.passages` from its first step to its answer's last byte."""

    __slots__ = (
        "_attempts",
        "_bucket",
        "_call",
        "_failed",
        "_placing",
        "_plan",
        "_reason",
        "_refused",
        "_relay",
        "_terms",
        "_ticket",
        "_translation",
        "_visitor",
        "_wants",
    )

    _call: Call
    _placing: Placing
    _plan: Plan
    _relay: Relay
    _visitor: AddressMeter | None
    _wants: Wants

    def __init__(self, gateway: Parts, exchange: Asker, terms: Terms | None = None) -> None:
        super().__init__(gateway, exchange)
        self._terms = terms
        self._translation: Translation | None = None
        self._ticket: Ticket | None = None
        self._attempts: list[Attempt] = []
        self._refused = self._failed = 0
        self._reason = ""
        self._bucket: Bucket | None = None

    def begin(self) -> None:
        """The request is complete: find out who asks."""
        self._exchange.on_gone = self._gone
        self._step(self._recognise)

    # Steps before the first order.

    def _recognise(self) -> None:
        admission, request = self._gateway.admission, self._exchange.request
        self._visitor = visitor = admission.visitor(request)
        if self._terms is not None:
            self._errand("key", self._look_up(admission.key_of_hash(self._terms.key_hash)))
            return
        secret = secret_of(request)
        key = admission.known_key(secret, visitor)
        if key is None:
            self._errand("key", self._look_up(admission.key_of(secret, visitor)))
        else:
            self._ask(key)

    async def _look_up(self, finding: Awaitable[Key]) -> None:
        try:
            key = await finding
        except GatewayError as error:
            self._refuse(error)
        else:
            self._step(lambda: self._ask(key))

    def _ask(self, key: Key) -> None:
        """Limits first, before anything that costs us or that the market counts; then the body."""
        gateway, request = self._gateway, self._exchange.request
        self._key = key
        gateway.admission.check_rate(key)
        gateway.recorder.check_room(gateway.admission.running, gateway.sealer.waiting)
        dialect = DIALECTS.get(request.path)
        if dialect is None:
            self._call = parse_body(request.path, request.body)
        else:
            self._translation = translation = dialect(
                request.body,
                request_id=request.request_id,
                now_s=lambda: gateway.clock.now_ms() // 1000,
            )
            self._call = parse_body(translation.path, translation.chat_body)
        self._wants = wants_in(self._call.provider, request.headers)
        if self._terms is not None:
            self._wants = replace(self._wants, fits=self._terms.fits)
        self._relay = Relay(self._exchange, gateway.clock, self._translation)
        self._make_plan(self._call)

    def _make_plan(self, call: Call) -> None:
        """Choose instances, and hold the most that one of them may cost."""
        gateway, key = self._gateway, self._key
        assert key is not None, "who asks is known"
        self._plan = plan = gateway.planner.plan(call, self._wants)
        self._call = plan.call
        content_type = self._exchange.request.headers.get(b"content-type", b"")
        self._placing = Placing(gateway, plan, content_type=content_type)
        work = work_asked(plan.prompt.tokens, plan.bounds)
        ticket = gateway.admission.try_enter(
            key, self._visitor, hold_nano=plan.hold_nano, work=work
        )
        if ticket is None:
            self._errand("hold", self._enter(plan.hold_nano, work))
        else:
            self._let_in(ticket)

    async def _enter(self, hold_nano: int, work: int) -> None:
        assert self._key is not None, "who asks is known"
        try:
            ticket = await self._gateway.admission.enter(
                self._key, self._visitor, hold_nano=hold_nano, work=work
            )
        except GatewayError as error:
            self._refuse(error)
            return
        if self._is_over:
            ticket.settle(0)
        else:
            self._let_in(ticket)

    def _let_in(self, ticket: Ticket) -> None:
        self._ticket = ticket
        self._place_next()
        hedges = self._gateway.hedges
        if hedges.is_on and self._attempts and len(self._plan.instances) > 1:
            self._bucket = bucket = hedges.bucket(self._plan.chute.chute, self._call)
            late_us = hedges.asked(bucket)
            if late_us:
                loop = asyncio.get_running_loop()
                self._hedge = loop.call_later(late_us / 1_000_000, self._send_second)

    # Orders.

    def _place_next(self) -> None:
        """An order for the next instance that is fit; when there is none, the request is refused."""
        gateway, ticket = self._gateway, self._ticket
        assert ticket is not None, "orders are under a hold"
        tries = self._refused + self._failed
        if tries < gateway.bounds.tries_max:
            found = self._placing.next_fit()
            if found is not None:
                if tries:
                    gateway.metrics.count("gateway_failovers_total")
                    gateway.planner.moved(self._plan, found[0])
                self._place(found[0], found[1], hold=ticket.hold)
                return
        self._exhausted()

    def _place(
        self, instance: Instance, peer: Peer | None, *, hold: Hold, is_alone: bool = False
    ) -> None:
        attempt = self._placing.place(instance, peer, owner=self, hold=hold, is_alone=is_alone)
        if self._spans is not None:
            self._gateway.closing.watch(attempt, self._spans)
        self._attempts.append(attempt)
        self._placing.send(attempt, peer)

    def _send_second(self) -> None:
        """The first byte is late: ask a second instance as well, if budget and lease allow it."""
        self._hedge = None
        gateway, ticket = self._gateway, self._ticket
        if len(self._attempts) != 1 or ticket is None or self._relay.is_open:
            return
        found = self._placing.next_fit()
        if found is None or not gateway.hedges.take():
            return
        hold = gateway.leases.try_hold(ticket.hold.payer, self._plan.hold_nano)
        if hold is not None:
            gateway.metrics.count("gateway_hedges_total")
            self._place(found[0], found[1], hold=hold)

    def _exhausted(self) -> None:
        """Nobody is left to ask: the caller's next model, or the reason why not."""
        plan, ticket = self._plan, self._ticket
        if ticket is not None:
            ticket.settle(0)
            self._ticket = None
        if plan.rest:
            self._refused = self._failed = 0
            self._step(lambda: self._make_plan(for_model(self._call, plan.rest)))
        elif self._failed:
            self._refuse(MinerFailed(tries=self._refused + self._failed, reason=self._reason))
        else:
            self._gateway.demand.refused(plan.chute.chute)
            self._refuse(
                NoCapacity(model=self._call.model, instances=plan.present, refused=self._refused)
            )

    # What attempts say.

    def came(self, attempt: Attempt, part: bytes) -> None:
        """Events of a stream: the first ones decide whose answer it is."""
        relay = self._relay
        if not relay.is_open:
            self._choose(attempt)
            relay.open(self._fields(attempt))
            self._exchange.on_writable = self._drained
        if relay.pass_on(part, attempt.last_us):
            attempt.pause()

    def over(self, attempt: Attempt) -> None:
        """An order has ended."""
        self._attempts.remove(attempt)
        if attempt.is_session_lost and not self._relay.is_open:
            self._place_again(attempt)
            return
        closed = self._gateway.closing.close(attempt, decision=self._plan.decision_spelled)
        outcome = closed.end.outcome
        if self._relay.is_open:
            self._end_stream(attempt, closed)
        elif outcome is Outcome.COMPLETE:
            self._choose(attempt)
            if attempt.is_streaming:  # all of a short stream came at once
                self._relay.open(self._fields(attempt))
                self._end_stream(attempt, closed)
            else:
                self._end_whole(attempt, closed)
        else:
            if self._ticket is not None and attempt.hold is not self._ticket.hold:
                attempt.hold.settle(0)
            if outcome is Outcome.REFUSED:
                self._refused += 1
            else:
                self._failed += 1
                self._reason = attempt.failure or closed.end.fault.value
            if not self._attempts:
                self._place_next()

    def _place_again(self, attempt: Attempt) -> None:
        """The miner has forgotten the session: the same once more, signed. Nobody's failure."""
        gateway, peer, session = self._gateway, attempt.peer, attempt.placed.session
        assert peer is not None, "a session was with somebody"
        assert session is not None, "a session was lost"
        gateway.sessions.forget(peer, session)
        gateway.metrics.count("gateway_sessions_lost_total")
        if gateway.orders.take_back(attempt.placed):
            attempt.instance.ended()
            gateway.closing.watched.pop(attempt, None)
        else:
            gateway.closing.close(attempt, decision=self._plan.decision_spelled)
        self._place(attempt.instance, peer, hold=attempt.hold, is_alone=True)

    def _choose(self, winner: Attempt) -> None:
        """This one answers; whoever else was asked is told to stop and settles for itself."""
        gateway, ticket = self._gateway, self._ticket
        if self._hedge is not None:
            self._hedge.cancel()
            self._hedge = None
        if self._bucket is not None:
            gateway.hedges.answered(self._bucket, winner.first_us - winner.started_us)
        if ticket is not None and winner.hold is not ticket.hold:
            ticket.hold, left = winner.hold, ticket.hold
            if not any(one.hold is left for one in self._attempts):
                left.settle(0)
        for loser in [one for one in self._attempts if one is not winner]:
            self._attempts.remove(loser)
            gateway.closing.abandon(
                loser, decision=self._plan.decision_spelled, settle=settled_alone(loser)
            )

    # Answers.

    def _end_whole(self, attempt: Attempt, closed: Closed) -> None:
        self._settle(closed)
        fields = self._fields(attempt)
        self._leave()
        try:
            answer_whole(
                self._exchange,
                attempt,
                charge_nano=closed.end.charge_nano,
                fields=fields,
                translation=self._translation,
            )
        except AnswerUnreadable as error:
            # The miner did what the order said, and is paid: only its reader is at a loss.
            self._exchange.respond(refusal(error, self._exchange.request))

    def _end_stream(self, attempt: Attempt, closed: Closed) -> None:
        """The client has the head already, so that the end is said inside the stream."""
        self._settle(closed)
        self._leave()
        request_id = self._exchange.request.request_id
        if attempt.is_streaming and attempt.tally.receipt is not None:
            self._relay.close(attempt.tail, closed.countersign)
            return
        envelope = lost_envelope(attempt.failure, request_id)
        if closed.end.outcome is Outcome.COMPLETE:  # the engine's own refusal, late
            envelope = envelope_of(attempt.body)
        self._relay.close_lost(envelope, closed.countersign)

    def _settle(self, closed: Closed) -> None:
        ticket, self._ticket = self._ticket, None
        assert ticket is not None, "a request is settled once"
        ticket.settle(closed.end.charge_nano, closed.work)
        self._count(outcome_text(closed.end.outcome))

    def _fields(self, attempt: Attempt) -> bytes:
        request = self._exchange.request
        is_traced = request.headers.get(TRACE_HEADER) == b"1"
        served = served_fields(
            attempt,
            since_us=self._started_us,
            decision=self._plan.decision_spelled if is_traced else b"",
        )
        return served + limit_fields(self._gateway, self._key, request)

    # The client, and time.

    def _drained(self) -> None:
        """The client reads again."""
        self._relay.drained()
        for attempt in self._attempts:
            attempt.resume()

    def _gone(self) -> None:
        """The client has left: what its miners have done is still owed to them."""
        if self._is_over:
            return
        self._count(Outcome.CLIENT_CANCELLED.value)
        self._let_go()

    def _let_go(self) -> None:
        gateway, ticket = self._gateway, self._ticket
        attempts, self._attempts = self._attempts, []
        self._ticket = None
        self._leave()
        for attempt in attempts:
            mine = ticket is not None and attempt.hold is ticket.hold
            settle = ticket.settle if ticket is not None and mine else settled_alone(attempt)
            gateway.closing.abandon(attempt, decision=self._plan.decision_spelled, settle=settle)
        if ticket is not None and not any(one.hold is ticket.hold for one in attempts):
            ticket.settle(0)

    def sweep(self, now_us: int) -> None:
        """Four times a second: deadlines, clients that do not read, silent engines."""
        for attempt in list(self._attempts):
            attempt.check_deadlines(now_us)
        if self._is_over or not self._attempts:
            return
        deadlines, relay = self._gateway.deadlines, self._relay
        if relay.is_open and relay.is_stalled(now_us, deadlines.reader_ms):
            self._exchange.cut()
            self._gone()
        elif self._call.stream and relay.is_quiet(now_us, deadlines.keepalive_ms):
            if not relay.is_open:
                self._open_early()
            relay.keep_alive(now_us)

    def _open_early(self) -> None:
        """The engine is silent for too long for the client's line: the head goes out without it, and
        with it the choice of the miner.
        """
        attempt = self._attempts[0]
        self._choose(attempt)
        self._relay.open(self._fields(attempt))
        self._exchange.on_writable = self._drained
