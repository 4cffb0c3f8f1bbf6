"""The gateway as a dataclass of ports, and its parts made of them.

The life of one request is in passage.py. Here is what all requests share, and the loops that keep it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from penstock.gateway.admit import Admission
from penstock.gateway.attempts import Line
from penstock.gateway.batches_keeper import Batches
from penstock.gateway.bodies import MODALITIES
from penstock.gateway.closing import Closing
from penstock.gateway.config import (
    AddressLimits,
    BatchBounds,
    Bounds,
    CallerLimits,
    Deadlines,
    KeyLimits,
    PayerLimits,
    StoreBounds,
)
from penstock.gateway.demand import Demand
from penstock.gateway.dialects import DIALECTS
from penstock.gateway.directory import Directory
from penstock.gateway.files import Files
from penstock.gateway.gathering import Gathering
from penstock.gateway.hedging import Hedges
from penstock.gateway.inside import Asker, Inside, Terms
from penstock.gateway.leases import Leases, LeaseTerms
from penstock.gateway.market_page import MarketPage
from penstock.gateway.meters import ABOUT
from penstock.gateway.orders import Orders
from penstock.gateway.parts import Swept
from penstock.gateway.passage import Passage
from penstock.gateway.plan import Planner
from penstock.gateway.records import Recorder
from penstock.gateway.sealer import Sealer
from penstock.gateway.sessions import Sessions
from penstock.gateway.tunnels import Tunnels
from penstock.kit.metrics import Metrics
from penstock.kit.ports import Bus, Clock, Entropy, Sign, Stores, Verify
from penstock.kit.tasks import Errands, Scope, crash_recorder
from penstock.kit.telemetry import Tracer
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.exchange import HotHandler
from penstock.kit.wire.http import Request, Response
from penstock.spec.params import Params

SWEEP_MS = 250
"""How often deadlines are looked at: one look at all passages is cheaper than a timer for each."""


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
    payer_limits: PayerLimits = field(default_factory=PayerLimits)
    address_limits: AddressLimits = field(default_factory=AddressLimits)
    deadlines: Deadlines = field(default_factory=Deadlines)
    bounds: Bounds = field(default_factory=Bounds)
    aliases: Mapping[str, str] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=lambda: Metrics(about=ABOUT))
    store: Stores | None = None
    """Where files and batches are kept; without it there are none."""
    store_bounds: StoreBounds = field(default_factory=StoreBounds)
    batch_bounds: BatchBounds = field(default_factory=BatchBounds)
    tracer: Tracer | None = None
    gather: Callable[[], Awaitable[bytes]] | None = None
    """What all processes of this gateway export together, where there are several."""
    tunnels: Tunnels | None = None
    """Who lets miners in that nobody can dial, where there is a port for them."""
    market_page: MarketPage | None = None
    """What it tells miners of its market."""

    passages: dict[Swept, None] = field(init=False, default_factory=dict)
    """Requests on their way; as many as `admission` lets in, and those at its door."""
    directory: Directory = field(init=False)
    leases: Leases = field(init=False)
    admission: Admission = field(init=False)
    planner: Planner = field(init=False)
    orders: Orders = field(init=False)
    sessions: Sessions = field(init=False)
    recorder: Recorder = field(init=False)
    sealer: Sealer = field(init=False)
    demand: Demand = field(init=False)
    closing: Closing = field(init=False)
    hedges: Hedges = field(init=False)
    line: Line = field(init=False)
    errands: Errands = field(init=False)
    files: Files | None = field(init=False, default=None)
    batches: Batches | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        bounds, clock = self.bounds, self.clock
        self.errands = Errands(crash_recorder(self.metrics))
        self.demand = Demand(board=self.bus, name=self.name)
        self.recorder = Recorder(bus=self.bus, name=self.name, bounds=bounds, metrics=self.metrics)
        self.directory = Directory(
            clock=clock,
            verify=self.verify,
            params=self.params,
            bounds=bounds,
            metrics=self.metrics,
        )
        self.planner = Planner(
            directory=self.directory,
            demand=self.demand,
            clock=clock,
            entropy=self.entropy,
            bounds=bounds,
            aliases=self.aliases,
        )
        self.hedges = Hedges(bounds.hedge_ppm)
        self._make_money()
        self._make_orders()
        if self.store is not None:
            self.files = Files(
                store=self.store, clock=clock, entropy=self.entropy, bounds=self.store_bounds
            )
            self.batches = Batches(self, self.store, self.files)

    def _make_money(self) -> None:
        terms = LeaseTerms(
            gateway=self.sign.identity,
            amount_nano=self.params.lease_amount_nano,
            ttl_ms=self.params.lease_ttl_ms,
            ask_ms=self.deadlines.ask_ms,
            idle_ms=self.bounds.lease_idle_ms,
            payers_max=self.bounds.keys_max,
        )
        self.leases = Leases(ask=self.bus, clock=self.clock, give_back=self.recorder, terms=terms)
        limits = CallerLimits(self.key_limits, self.payer_limits, self.address_limits)
        self.admission = Admission(
            leases=self.leases, clock=self.clock, limits=limits, bounds=self.bounds
        )

    def _make_orders(self) -> None:
        """Everything between the gateway and its miners."""
        self.orders = Orders(
            clock=self.clock,
            sign=self.sign,
            entropy=self.entropy,
            params=self.params,
            tag_secret=self.tag_secret,
        )
        self.sessions = Sessions(
            http=self.http,
            clock=self.clock,
            sign=self.sign,
            verify=self.verify,
            entropy=self.entropy,
            errands=self.errands,
            deadlines=self.deadlines,
            bounds=self.bounds,
        )
        self.line = Line(
            http=self.http,
            clock=self.clock,
            errands=self.errands,
            deadlines=self.deadlines,
            bounds=self.bounds,
            total_ms=self.params.order_ttl_ms,
            gathering=Gathering(self.deadlines.gather_ms),
        )
        self.sealer = Sealer(
            clock=self.clock,
            sign=self.sign,
            verify=self.verify,
            http=self.http,
            sessions=self.sessions,
            recorder=self.recorder,
            leases=self.leases,
            errands=self.errands,
            metrics=self.metrics,
            deadlines=self.deadlines,
        )
        self.closing = Closing(
            clock=self.clock,
            verify=self.verify,
            params=self.params,
            sealer=self.sealer,
            demand=self.demand,
            metrics=self.metrics,
            errands=self.errands,
            deadlines=self.deadlines,
        )

    def start(self, scope: Scope) -> None:
        """Start the loops: records, directory, leases, demand, deadlines."""
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
            ("deadlines", self._watch_deadlines),
            ("sweep", self._sweep),
        ):
            scope.supervise(name, loop, on_event=crash)
        if self.batches is not None:
            scope.supervise("batches", self.batches.keep, on_event=crash)
        if self.tunnels is not None:
            self.tunnels.watch(scope)

    def halt(self) -> None:
        """About to stop: no line of a batch is begun any more."""
        if self.batches is not None:
            self.batches.halt()

    async def stop(self) -> None:
        """After the server has closed: see lost clients' orders off, fetch the last seals, give leases
        back, flush.
        """
        if self.batches is not None:
            await self.batches.finish(deadline_ms=self.deadlines.drain_ms)
        await self.closing.wait_quiet(deadline_ms=2 * self.deadlines.cancel_wait_ms)
        self.leases.close()
        await self.sealer.finish(deadline_ms=self.deadlines.seal_stop_ms)
        await self.demand.put_changes()
        await self.recorder.flush(deadline_ms=self.deadlines.flush_ms)

    def ask(self, exchange: Asker) -> None:
        """A request at one of the inference paths, complete: the server's hot handler."""
        self._ask(exchange, None)

    async def answer(self, request: Request, *, terms: Terms | None = None) -> Response:
        """The same for a request from inside: the whole answer, also of a stream."""
        inside = Inside(request)
        self._ask(inside, terms)
        return await inside.answer()

    def _ask(self, exchange: Asker, terms: Terms | None) -> None:
        passage = Passage(self, exchange, terms)
        self.errands.guard("passage", Passage.begin, passage, on_crash=passage.crashed)

    def hot_paths(self) -> Mapping[str, HotHandler]:
        """All inference paths, for the server."""
        return dict.fromkeys((*MODALITIES, *DIALECTS), self.ask)

    async def _watch_deadlines(self) -> None:
        while True:
            now_us = self.clock.mono_us()
            for passage in list(self.passages):
                passage.sweep(now_us)
            self.closing.sweep(now_us)
            self.line.sweep(now_us)
            await asyncio.sleep(SWEEP_MS / 1000)

    async def _sweep(self) -> None:
        """Once a beat: forget old offers and refresh the gauges."""
        while True:
            self.directory.sweep()
            self.metrics.gauge("gateway_leases", self.leases.count)
            self.metrics.gauge("gateway_held_nano", self.leases.held_nano)
            self.metrics.gauge("gateway_running", self.admission.running)
            self.metrics.gauge("gateway_sessions", self.sessions.open_count)
            self.metrics.gauge("gateway_unsealed", self.sealer.waiting)
            await asyncio.sleep(self.params.beat_ms / 1000)
