"""The miner: its ports, its parts, and its life from the first look at the market to the last claim.

It is the same code in production and in the simulator; only the ports differ. `station.py` puts its
HTTP side on a port.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from penstock.kit.clock import OffsetClock
from penstock.kit.log import events
from penstock.kit.metrics import Metrics
from penstock.kit.tasks import Scope, crash_recorder
from penstock.miner.admission import Admission
from penstock.miner.caretaker import Caretaker
from penstock.miner.charter import Trust
from penstock.miner.choosing import Chooser
from penstock.miner.claims import Claims
from penstock.miner.config import MinerConfig
from penstock.miner.deployment import Deployment
from penstock.miner.engine_links import EngineLinks
from penstock.miner.fleet import Fleet
from penstock.miner.front import Front
from penstock.miner.hardware import Hardware
from penstock.miner.health import gauge_instances, instance_health, slots_health
from penstock.miner.instance import State
from penstock.miner.jobs import Jobs
from penstock.miner.maintenance import Maintenance
from penstock.miner.market import Market
from penstock.miner.offers import Offers, Terms
from penstock.miner.outbox import Outbox
from penstock.miner.placement import Abilities
from penstock.miner.ports import Ports, build_fleet, owner_of
from penstock.miner.replay import ReplayGuard
from penstock.miner.sealing import Sealing
from penstock.miner.session_pages import SessionPages
from penstock.miner.sessions import Sessions
from penstock.miner.timing import MarketTime
from penstock.miner.tunnels import Tunnels
from penstock.spec.params import Params

SALT_KEY_BYTES = 32

_log = events("miner")


@dataclass(slots=True)
class Parts:
    """The working parts, wired once by `Miner`."""

    time: MarketTime
    offers: Offers
    fleet: Fleet
    deployment: Deployment
    claims: Claims
    front: Front
    pages: SessionPages
    caretaker: Caretaker | None

    @property
    def outbox(self) -> Outbox:
        """Receipts that the ledger may not know yet."""
        return self.claims.outbox


@dataclass
class Miner:
    """One miner. `endpoint` is where gateways reach it; it must be known before `run`."""

    ports: Ports
    config: MinerConfig
    params: Params
    hardware: Hardware
    endpoint: str
    metrics: Metrics = field(default_factory=Metrics)
    is_draining: bool = False
    tunnels: Tunnels | None = None
    """Reverse connections to gateways, if it opens any."""
    parts: Parts = field(init=False)

    def __post_init__(self) -> None:
        self.parts = wire(self)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then leave in order.

        Offers are withdrawn, running orders end (at most `drain_ms`; the rest fail and say so), the
        outbox is sent once more, and the engines stop.
        """
        parts, report, tunnels = self.parts, crash_recorder(self.metrics), self.tunnels
        parts.outbox.open(now_ms=parts.time.now_ms())
        parts.claims.sealing.adopt()
        try:
            async with Scope() as scope:
                parts.fleet.recover(scope)
                caretaker = parts.caretaker
                if caretaker is not None:
                    scope.supervise("caretaker", caretaker.run, on_event=report)
                scope.supervise("deployment", lambda: parts.deployment.run(scope), on_event=report)
                scope.supervise("offers", lambda: parts.offers.run(parts.fleet), on_event=report)
                scope.supervise("claims", parts.claims.run, on_event=report)
                scope.supervise("seals", parts.claims.sealing.run, on_event=report)
                if tunnels is not None:
                    scope.supervise("tunnels", lambda: tunnels.run(scope), on_event=report)
                await stop.wait()
                await self._drain()
                scope.cancel()
        finally:
            await self._close()

    def health(self) -> dict[str, Any]:
        """What `/health` answers: enough for an operator to see what is wrong and where."""
        parts = self.parts
        problems = [parts.deployment.why, parts.offers.why, parts.claims.why]
        problems += [parts.fleet.inventory.why, parts.outbox.why]
        if parts.caretaker is not None:
            problems.append(parts.caretaker.why)
        problems += [f"{name}: {why}" for name, why in parts.deployment.unserved.items()]
        if self.tunnels is not None:
            problems.append(self.tunnels.why)
        if parts.time.is_off:
            problems.append(
                f"the clock is off by {parts.time.skew_ms} ms: set this machine's clock"
            )
        instances = [instance_health(one) for one in parts.fleet.instances.values()]
        is_ready = any(one.state is State.SERVING for one in parts.fleet.instances.values())
        status = "ok" if is_ready else "starting" if instances else "idle"
        if self.is_draining:
            status = "draining"
        return {
            "status": status,
            "miner": self.ports.key.identity,
            "instances": instances,
            "problems": [problem for problem in problems if problem],
            "clock": {"skew_ms": parts.time.skew_ms, "is_off": parts.time.is_off},
            "outbox": {
                "claims": len(parts.outbox),
                "dropped": parts.outbox.dropped,
                "unsealed": parts.claims.sealing.unsealed,
            },
            "tunnels": [] if self.tunnels is None else self.tunnels.health(),
            "hardware": {"class": self.hardware.kind, "model": self.hardware.model},
            "owner": parts.deployment.owner,
            "slots": slots_health(parts.fleet.memory),
            "nodes": list(parts.deployment.nodes),
        }

    def measure(self) -> bytes:
        """What `/metrics` answers."""
        gauge_instances(self.metrics, self.parts.fleet.instances.values())
        self.metrics.gauge("miner_clock_skew_ms", self.parts.time.skew_ms)
        return self.metrics.render()

    async def _drain(self) -> None:
        """Leave the market, then let what runs come to its end."""
        self.is_draining = True
        parts = self.parts
        parts.fleet.close()
        for instance in list(parts.fleet.instances.values()):
            await parts.offers.withdraw(instance)
        try:
            async with asyncio.timeout(self.config.deadlines.drain_ms / 1000):
                await parts.fleet.wait_idle()
        except TimeoutError:
            _log.warning("miner.cut", running=len(parts.front.jobs))
            parts.front.jobs.fail_all("the miner stops")
            await self._until_idle()
        await self._until_sealed()
        await parts.claims.send(everything=True)

    async def _until_idle(self) -> None:
        """Give jobs that were given up a moment to send their receipts."""
        try:
            async with asyncio.timeout(self.config.deadlines.peer_ms / 1000):
                await self.parts.fleet.wait_idle()
        except TimeoutError:
            _log.warning("miner.readers_stalled", running=len(self.parts.front.jobs))

    async def _until_sealed(self) -> None:
        """Give gateways a moment to exchange seals for the last orders: after it nobody answers."""
        try:
            async with asyncio.timeout(self.config.deadlines.peer_ms / 1000):
                await self.parts.claims.sealing.wait_quiet()
        except TimeoutError:
            _log.warning("miner.left_unsealed", orders=self.parts.claims.sealing.unsealed)

    async def _close(self) -> None:
        await self.parts.fleet.stop()
        await self.parts.outbox.sync()
        await self.parts.front.engines.close()


def wire(miner: Miner) -> Parts:
    """The parts of a miner, each with the ports it needs."""
    ports, config, params = miner.ports, miner.config, miner.params
    own_clock = OffsetClock(ports.clock, config.clock_skew_ms)
    time = MarketTime(own_clock, skew_ms_max=params.clock_skew_max_ms)
    trust = Trust(verify=ports.verify, operator=config.operator)
    market = Market(ports.client, config.market_url, time, config.deadlines.peer_ms)
    maintenance = Maintenance(ports.files)
    offers = Offers(
        market=market,
        key=ports.key,
        time=time,
        params=params,
        terms=terms(miner),
        metrics=miner.metrics,
        maintenance=maintenance,
    )
    fleet = build_fleet(
        ports, config, hardware=miner.hardware, metrics=miner.metrics, offers=offers
    )
    deployment = Deployment(
        market=market,
        trust=trust,
        fleet=fleet,
        offers=offers,
        time=time,
        params=params,
        abilities=abilities(miner),
        chooser=Chooser(miner.metrics, ports.placement),
        maintenance=maintenance,
        owner=owner_of(config.delegation, ports.key.identity),
    )
    sealing = build_sealing(miner, time)
    claims = Claims(
        sealing=sealing,
        key=ports.key,
        client=ports.client,
        clock=time,
        params=params,
        metrics=miner.metrics,
        ledger_url=lambda: deployment.ledger_url,
        deadline_ms=config.deadlines.ledger_ms,
    )
    pages = SessionPages(build_sessions(miner, trust, time), sealing, miner.metrics)
    return Parts(
        time=time,
        offers=offers,
        fleet=fleet,
        deployment=deployment,
        claims=claims,
        front=build_front(miner, deployment, pages),
        pages=pages,
        caretaker=None
        if ports.runtime is None
        else Caretaker(ports.runtime, lambda name: fleet.find(name) is not None),
    )


def build_sessions(miner: Miner, trust: Trust, time: MarketTime) -> Sessions:
    """The keys that are shared with gateways."""
    return Sessions(
        key=miner.ports.key,
        trust=trust,
        time=time,
        entropy=miner.ports.entropy,
        params=miner.params,
        sessions_max=miner.config.bounds.sessions_max,
        gateway_sessions_max=miner.config.bounds.gateway_sessions_max,
    )


def build_sealing(miner: Miner, time: MarketTime) -> Sealing:
    """Where orders of sessions wait for seals, over the outbox that keeps what earns."""
    config = miner.config
    return Sealing(
        key=miner.ports.key,
        verify=miner.ports.verify,
        outbox=Outbox(miner.ports.store, miner.metrics, claims_max=config.bounds.claims_max),
        time=time,
        metrics=miner.metrics,
        taken_max=config.bounds.taken_max,
        unsealed_max=config.bounds.unsealed_max,
        seal_ms=config.deadlines.seal_ms,
        # The gateway gets this long to deliver a record before the ledger is asked.
        settle_ms=miner.params.claim_grace_ms // 4,
    )


def build_front(miner: Miner, deployment: Deployment, pages: SessionPages) -> Front:
    """The request side, with the checks of orders."""
    ports, config, params = miner.ports, miner.config, miner.params
    admission = Admission(
        miner=ports.key.identity,
        time=deployment.time,
        trust=deployment.trust,
        replay=ReplayGuard(orders_max=config.bounds.orders_max),
        find=deployment.fleet.find,
        params=params,
        sessions=pages.sessions,
        sealing=pages.sealing,
    )
    return Front(
        admission=admission,
        jobs=Jobs(),
        sealing=pages.sealing,
        key=ports.key,
        clock=deployment.time,
        engines=EngineLinks(ports.network),
        params=params,
        deadlines=config.deadlines,
        bounds=config.bounds,
        metrics=miner.metrics,
        is_draining=lambda: miner.is_draining,
        salt_key=ports.entropy(SALT_KEY_BYTES),
    )


def terms(miner: Miner) -> Terms:
    """What all offers of this miner say alike."""
    return Terms(
        endpoint=miner.endpoint,
        tier=miner.config.tier,
        prices=miner.config.prices,
        delegation=miner.config.delegation,
    )


def abilities(miner: Miner) -> Abilities:
    """What this miner is and can run."""
    return Abilities(
        miner=miner.ports.key.identity,
        wanted=miner.config.chutes,
        auto=miner.config.auto,
        instances_max=miner.config.instances_max,
        engines=miner.ports.engine_kinds,
        hardware=miner.hardware.classes,
    )
