"""Follows the market: takes over its charter and targets, and starts and stops instances by plan.

While the market is down nothing is started or stopped: what runs goes on.
"""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

from penstock.kit.log import events
from penstock.kit.tasks import Backoff, Scope
from penstock.miner.budget import taken_bytes
from penstock.miner.charter import Trust
from penstock.miner.choosing import Chooser, Situation, rest
from penstock.miner.errors import PeerDown, PeerRefused
from penstock.miner.fleet import Fleet
from penstock.miner.health import read_nodes
from penstock.miner.instance import State, Wish
from penstock.miner.maintenance import Maintenance
from penstock.miner.market import Market
from penstock.miner.offers import Offers
from penstock.miner.placement import Abilities, ChuteView, Patience, Placed, Plan, can_run, forget
from penstock.miner.timing import MarketTime
from penstock.miner.view import MarketView, read_view
from penstock.spec.params import Params, params_digest

GATEWAYS_MAX = 256
INFO_BEATS = 10
"""The charter changes rarely; it is read again every so many beats."""

_ENDING = frozenset({State.DRAINING, State.GONE, State.SUSPENDED})

_log = events("miner")


@dataclass(slots=True)
class Deployment:
    """Keeps a fleet in line with the market."""

    market: Market
    trust: Trust
    fleet: Fleet
    offers: Offers
    time: MarketTime
    params: Params
    abilities: Abilities
    chooser: Chooser
    """Decides what runs."""
    maintenance: Maintenance = field(default_factory=Maintenance)
    """While it is on nothing runs."""
    owner: str = ""
    """Who stands behind this node's key."""
    nodes: tuple[dict[str, Any], ...] = ()
    """The owner's other nodes, as the market shows them."""
    ledger_url: str = ""
    gateway_urls: tuple[str, ...] = ()
    """Where the market says that gateways are."""
    why: str = ""
    """Why the market could not be followed, "" when it could."""
    unserved: dict[str, str] = field(default_factory=dict)
    """Wanted chutes that do not run here, and why."""
    _patience: Patience = field(default_factory=Patience)
    _looks: int = 0

    async def run(self, scope: Scope) -> None:
        """Look at the market every beat, for ever."""
        self.maintenance.open()
        backoff = Backoff(
            delay_ms_min=self.params.beat_ms,
            delay_ms_max=self.params.offer_ttl_ms,
            steady_ms=self.params.beat_ms,
        )
        misses = 0
        while True:
            try:
                await self.look(scope)
            except (PeerDown, PeerRefused) as error:
                misses += 1
                self._say(str(error))
            else:
                misses = 0
                self._say("")
            await asyncio.sleep(backoff.delay_ms(max(misses, 1)) / 1000)

    async def look(self, scope: Scope) -> None:
        """One look: charter, view, plan, action. Raises PeerDown, PeerRefused."""
        is_long_ago = self._looks % INFO_BEATS == 0
        if self.trust.charter is None or is_long_ago:
            await self._learn()
        self._looks += 1
        targets = await self.market.targets()
        miners: dict[str, Any] = {}
        if self.abilities.auto or is_long_ago:
            miners = await self.market.miners()
            self.nodes = read_nodes(miners, owner=self.owner, miner=self.abilities.miner)
        known = {view.chute: view.manifest for view in self.offers.view.chutes}
        view = read_view(targets, miners, known=known, verify=self.trust.verify)
        self.offers.view = view
        if not self.fleet.is_closing:
            await self._act(scope, view)

    async def _learn(self) -> None:
        info = await self.market.info()
        self.trust.learn(info, now_ms=self.time.now_ms())
        ledger_url = info.get("ledger_url")
        if isinstance(ledger_url, str) and ledger_url.startswith(("http://", "https://")):
            self.ledger_url = ledger_url
        urls = info.get("gateway_urls")
        if isinstance(urls, list):
            self.gateway_urls = tuple(one for one in urls[:GATEWAYS_MAX] if isinstance(one, str))
        charter = self.trust.charter
        if charter is not None and charter.params_digest != params_digest(self.params):
            raise PeerRefused(
                peer="market",
                status=200,
                code="other_law",
                message="its charter names other protocol numbers than this release has for "
                f"{self.params.network}. Install the release that the operator runs",
            )

    async def _act(self, scope: Scope, view: MarketView) -> None:
        placed = tuple(
            Placed(instance=one.name, chute=one.chute, auto=one.auto)
            for one in self.fleet.instances.values()
            if one.wish is Wish.SERVE and one.state not in _ENDING
        )
        is_resting = self.maintenance.is_on(self.time.now_ms())
        todo = await self._choose(view, placed, is_resting=is_resting)
        if self.fleet.is_closing:
            return
        self._patience = todo.patience
        manifests = {one.chute: one.manifest for one in view.chutes}
        autos = {one.instance for one in placed if one.auto}
        for name in todo.stop:
            if name not in self.fleet.instances:
                continue  # it left while the plan was made
            if name in autos and self.abilities.auto and not is_resting:
                self.fleet.set_aside(name)  # what the market has enough of now it may lack again
            else:
                self.fleet.drain(name)
        for chute, auto in todo.start:
            self._patience = forget(self._patience, chute)
            manifest = manifests[chute]
            if self.fleet.add(scope, chute, manifest, auto=auto) is None and not auto:
                self.fleet.make_room(chute, manifest)  # it is added by a later look
        if is_resting:
            self.unserved = {}
        else:
            self._explain(view)

    async def _choose(
        self, view: MarketView, placed: tuple[Placed, ...], *, is_resting: bool
    ) -> Plan:
        situation = Situation(
            abilities=self.abilities,
            chutes=self._possible(view.chutes, {one.chute for one in placed}),
            placed=placed,
            miners=view.miners,
            patience=self._patience,
            now_ms=self.time.now_ms(),
            beat_ms=self.params.beat_ms,
            demand=view.demand,
            slots=self.fleet.memory.slots,
            taken_bytes=taken_bytes(self.fleet.memory.shares),
        )
        if is_resting:
            return rest(situation)
        return await self.chooser.choose(situation)

    def _possible(self, chutes: tuple[ChuteView, ...], placed: set[str]) -> tuple[ChuteView, ...]:
        """The chutes as placement sees them: of what has no memory here none is missing, unless it is
        asked for by name and something may go for it.
        """
        wanted = self.abilities.wanted
        return tuple(
            one
            if one.chute in placed
            or one.chute in wanted
            or one.manifest.name in wanted
            or self.fleet.has_room(one.chute, one.manifest)
            else replace(one, wanted_instances=0)
            for one in chutes
        )

    def _explain(self, view: MarketView) -> None:
        """Tell the operator once which wanted chutes do not run here."""
        listed = {one.manifest.name: one for one in view.chutes}
        listed |= {one.chute: one for one in view.chutes}
        running = {one.chute for one in self.fleet.instances.values() if one.wish is Wish.SERVE}
        unserved: dict[str, str] = {}
        for wanted in self.abilities.wanted:
            one = listed.get(wanted)
            if one is None:
                unserved[wanted] = "the market does not list it"
            elif not can_run(one.manifest, self.abilities):
                unserved[wanted] = (
                    f"it needs engine {one.manifest.engine!r} on {one.manifest.hardware!r}"
                )
            elif one.chute not in running:
                has_room = self.fleet.has_room(one.chute, one.manifest)
                unserved[wanted] = (
                    "instances_max is reached" if has_room else "there is no memory for it"
                )
        for name in unserved.keys() - self.unserved.keys():
            _log.warning("chute.unserved", chute_name=name, why=unserved[name])
        self.unserved = unserved

    def _say(self, why: str) -> None:
        if why and why != self.why:
            _log.warning("market.not_followed", why=why)
        self.why = why
