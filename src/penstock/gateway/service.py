"""The gateway as a dataclass of ports, and the life of one request through it.

Who pays, which instances, how much is held; then one order after another until one answers. Until
the first byte has gone to the client a failure costs only time; after it the answer is what it is.
"""

import asyncio
from dataclasses import dataclass, field

from penstock.gateway.admit import Admission, Ticket
from penstock.gateway.attempts import Attempt, Line
from penstock.gateway.bodies import MODALITIES, Call, parse_body
from penstock.gateway.closing import Closed, Closing
from penstock.gateway.config import Bounds, Deadlines, KeyLimits
from penstock.gateway.demand import Demand
from penstock.gateway.directory import Chute, Directory
from penstock.gateway.errors import BadRequest, MinerFailed, NoCapacity
from penstock.gateway.instances import Instance
from penstock.gateway.leases import Leases, LeaseTerms
from penstock.gateway.orders import Ceilings, Orders, ceilings, header_text
from penstock.gateway.records import Recorder
from penstock.gateway.relay import Relay
from penstock.kit.metrics import Metrics
from penstock.kit.ports import Bus, Clock, Entropy, Sign, Verify
from penstock.kit.tasks import Errands, Scope, crash_recorder
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.http import SSE_HEADERS, Headers, Request, Response, Stream
from penstock.spec.params import Params
from penstock.spec.receipts import Outcome
from penstock.spec.routing import Need, rank
from penstock.spec.stream import RECEIPT_HEADER

COUNTERSIGN_HEADER = "x-penstock-countersign"
CHARGE_HEADER = "x-penstock-charge"
SEED_BYTES = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """One request, let in: what is asked of whom, best first, and the most it may cost."""

    call: Call
    chute: Chute
    bounds: Ceilings
    instances: tuple[Instance, ...]
    present: int
    hold_nano: int


@dataclass(slots=True, eq=False)
class Gateway:
    """One gateway: ports and numbers in, its parts made of them. `entropy` also seeds the ranking."""

    name: str
    clock: Clock
    bus: Bus
    http: HttpClient
    sign: Sign
    verify: Verify
    entropy: Entropy
    params: Params
    tag_secret: bytes
    ledger_url: str = ""
    key_limits: KeyLimits = field(default_factory=KeyLimits)
    deadlines: Deadlines = field(default_factory=Deadlines)
    bounds: Bounds = field(default_factory=Bounds)
    metrics: Metrics = field(default_factory=Metrics)

    directory: Directory = field(init=False)
    leases: Leases = field(init=False)
    admission: Admission = field(init=False)
    orders: Orders = field(init=False)
    recorder: Recorder = field(init=False)
    demand: Demand = field(init=False)
    closing: Closing = field(init=False)
    line: Line = field(init=False)
    errands: Errands = field(init=False)

    def __post_init__(self) -> None:
        params, bounds, clock = self.params, self.bounds, self.clock
        self.errands = Errands(crash_recorder(self.metrics))
        self.demand = Demand(board=self.bus, name=self.name)
        self.recorder = Recorder(bus=self.bus, name=self.name, bounds=bounds, metrics=self.metrics)
        self.directory = Directory(
            clock=clock, verify=self.verify, params=params, bounds=bounds, metrics=self.metrics
        )
        terms = LeaseTerms(
            gateway=self.sign.identity,
            amount_nano=params.lease_amount_nano,
            ttl_ms=params.lease_ttl_ms,
            ask_ms=self.deadlines.ask_ms,
            idle_ms=bounds.lease_idle_ms,
            payers_max=bounds.keys_max,
        )
        self.leases = Leases(ask=self.bus, clock=clock, give_back=self.recorder, terms=terms)
        self.admission = Admission(
            leases=self.leases, clock=clock, limits=self.key_limits, bounds=bounds
        )
        self.orders = Orders(
            clock=clock,
            sign=self.sign,
            entropy=self.entropy,
            params=params,
            tag_secret=self.tag_secret,
        )
        self.line = Line(
            http=self.http,
            clock=clock,
            deadlines=self.deadlines,
            bounds=bounds,
            total_ms=params.order_ttl_ms,
        )
        self.closing = Closing(
            clock=clock,
            sign=self.sign,
            verify=self.verify,
            params=params,
            recorder=self.recorder,
            demand=self.demand,
            metrics=self.metrics,
            errands=self.errands,
            deadlines=self.deadlines,
        )

    def start(self, scope: Scope) -> None:
        """Start the loops: records, directory, leases, demand."""
        beat_ms = self.params.beat_ms
        former = f"start/{self.entropy(16).hex()}"
        self.recorder.all_leases_closed(
            self.sign.identity, event_id=former, at_ms=self.clock.now_ms()
        )
        crash = crash_recorder(self.metrics)
        for name, loop in (
            ("records", self.recorder.publish),
            ("offers", lambda: self.directory.watch_offers(self.bus)),
            ("chutes", lambda: self.directory.watch_chutes(self.bus)),
            ("leases", lambda: self.leases.keep(beat_ms=beat_ms)),
            ("demand", lambda: self.demand.show(beat_ms=beat_ms)),
            ("sweep", self._sweep),
        ):
            scope.supervise(name, loop, on_event=crash)

    async def stop(self) -> None:
        """After the server has closed: see lost clients' orders off, give leases back, flush."""
        await self.closing.wait_quiet(deadline_ms=2 * self.deadlines.cancel_wait_ms)
        self.leases.close()
        await self.demand.put_changes()
        await self.recorder.flush(deadline_ms=self.deadlines.flush_ms)

    async def answer(self, request: Request) -> Response | Stream:
        """A request at one of the inference paths. Raises GatewayError."""
        key = await self.admission.key_of(request.bearer())
        self.admission.check_rate(key)  # before anything that costs us, or that the market counts
        self.recorder.check_room(self.admission.running)
        call = parse_body(request.path, request.body)
        plan = self.plan(call)
        ticket = await self.admission.enter(key, plan.hold_nano)
        try:
            return await self._tries(plan, ticket, request.request_id)
        finally:
            if ticket.is_with_handler and not ticket.is_settled:
                ticket.settle(0)

    def plan(self, call: Call) -> Plan:
        """Choose instances and the hold. Raises ModelUnknown, BadRequest, NoCapacity."""
        chute = self.directory.resolve(call.model)
        manifest = chute.manifest
        if manifest.modality is not MODALITIES[call.path]:
            raise BadRequest(
                reason=f"{manifest.name!r} serves {manifest.modality.value}, not {call.path}.",
                param="model",
            )
        bounds = ceilings(call, manifest.limits)
        present = self.directory.instances(chute.chute)
        self.demand.requested(chute.chute)
        ranked = self._ranked(call, chute, bounds=bounds, present=present)
        if not ranked:
            self.demand.refused(chute.chute)
            raise NoCapacity(model=call.model, instances=len(present), refused=0)
        tried = ranked[: self.bounds.tries_max]
        return Plan(
            call=call,
            chute=chute,
            bounds=bounds,
            instances=ranked,
            present=len(present),
            hold_nano=max(bounds.charge_max(one.offer.price) for one in tried),
        )

    def _ranked(
        self, call: Call, chute: Chute, *, bounds: Ceilings, present: list[Instance]
    ) -> tuple[Instance, ...]:
        now_ms = self.clock.now_ms()
        need = Need(
            chutes=(chute.chute,),
            price_max=chute.manifest.price_max,
            prompt_bytes=len(call.body),
            completion_max=bounds.completion_max,
        )
        by_name = {one.offer.instance: one for one in present}
        names = rank(
            [one.candidate(now_ms) for one in present],
            need,
            now_ms=now_ms,
            seed=int.from_bytes(self.entropy(SEED_BYTES), "big"),
        )
        return tuple(by_name[name] for name in names)

    async def _tries(self, plan: Plan, ticket: Ticket, request_id: str) -> Response | Stream:
        """One order after another. Raises NoCapacity when all refused, MinerFailed otherwise."""
        refused = failed = 0
        reason = ""
        for instance in plan.instances:
            if refused + failed == self.bounds.tries_max:
                break
            if not self._is_fit(plan, instance):
                continue
            if refused + failed:
                self.metrics.count("gateway_failovers_total")
            attempt = self._begin(plan, instance, ticket.account)
            await self._opened(attempt, ticket)
            if attempt.is_streaming:
                relay = Relay(self.closing, attempt, ticket=ticket, request_id=request_id)
                return Stream(200, SSE_HEADERS + self._headers(attempt), relay)
            closed = self.closing.close(attempt, ticket)
            if closed.end.outcome is Outcome.COMPLETE:
                ticket.settle(closed.end.charge_nano)
                self.metrics.count("gateway_requests_total", outcome=Outcome.COMPLETE.value)
                return self._whole(attempt, closed)
            await attempt.cut()
            if closed.end.outcome is Outcome.REFUSED:
                refused += 1
            else:
                failed += 1
                reason = attempt.failure or closed.end.fault.value
        if failed:
            raise MinerFailed(tries=refused + failed, reason=reason)
        self.demand.refused(plan.chute.chute)
        raise NoCapacity(model=plan.call.model, instances=plan.present, refused=refused)

    def _is_fit(self, plan: Plan, instance: Instance) -> bool:
        """Between two tries an offer may have ended, grown dearer, or filled up."""
        offer = instance.offer
        return (
            offer.valid_until_ms >= self.clock.now_ms()
            and plan.bounds.charge_max(offer.price) <= plan.hold_nano
            and instance.has_room
        )

    def _begin(self, plan: Plan, instance: Instance, account: str) -> Attempt:
        placed = self.orders.place(plan.call, instance.offer, bounds=plan.bounds, account=account)
        return Attempt(self.line, plan.call, placed=placed, instance=instance)

    async def _opened(self, attempt: Attempt, ticket: Ticket) -> None:
        """Open the attempt in a task of its own: a client that leaves must not take it down.

        What the miner has done by then is still owed to it, and its receipt says how much.
        """
        opening = self.errands.start("order", attempt.open())
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            self.closing.abandon(attempt, ticket, opening)
            raise

    def _headers(self, attempt: Attempt) -> Headers:
        order = attempt.placed.order
        return (
            ("x-penstock-order", order.order_id),
            ("x-penstock-miner", order.miner),
            ("x-penstock-instance", order.instance),
            ("x-penstock-chute", order.chute),
        )

    def _whole(self, attempt: Attempt, closed: Closed) -> Response:
        assert closed.receipt is not None, "a complete order has a receipt"
        words: Headers = (
            ("content-type", attempt.content_type()),
            (RECEIPT_HEADER, header_text(closed.receipt)),
            (COUNTERSIGN_HEADER, header_text(closed.countersign)),
            (CHARGE_HEADER, str(closed.end.charge_nano)),
        )
        return Response(attempt.status, attempt.body, words + self._headers(attempt))

    async def _sweep(self) -> None:
        """Once a beat: forget old offers and refresh the gauges."""
        while True:
            self.directory.sweep()
            self.metrics.gauge("gateway_leases", self.leases.count)
            self.metrics.gauge("gateway_held_nano", self.leases.held_nano)
            self.metrics.gauge("gateway_running", self.admission.running)
            await asyncio.sleep(self.params.beat_ms / 1000)
