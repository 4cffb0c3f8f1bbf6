"""Offers: what keeps an instance in the market, renewed every beat and taken back before it goes.

The market forgets an instance whose offer was not renewed, so a miner that vanishes does no harm.
`seq` rises with each offer and starts from the time in ms, so that it rises over restarts too.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from penstock.kit.log import events
from penstock.kit.metrics import Metrics
from penstock.kit.ports import Sign
from penstock.kit.tasks import Backoff
from penstock.miner.errors import PeerDown, PeerRefused
from penstock.miner.fleet import Fleet
from penstock.miner.instance import Instance
from penstock.miner.maintenance import Maintenance, offer_end_ms
from penstock.miner.market import Market
from penstock.miner.policy import PricePolicy, asked_price
from penstock.miner.timing import MarketTime
from penstock.miner.view import MarketView
from penstock.spec.keys import Signed, sign
from penstock.spec.messages import Offer, Tier
from penstock.spec.params import Params

SEQ_JUMP = 3_600_000
"""After `stale_offer`: the clock was set back since the last life, so skip an hour of beats."""

_log = events("miner")


@dataclass(frozen=True, slots=True)
class Terms:
    """What is the same in all offers of this miner."""

    endpoint: str
    tier: Tier
    prices: PricePolicy
    delegation: dict[str, Any] | None


@dataclass(slots=True)
class Offers:
    """The heartbeat of one miner."""

    market: Market
    key: Sign
    time: MarketTime
    params: Params
    terms: Terms
    metrics: Metrics
    maintenance: Maintenance = field(default_factory=Maintenance)
    """No offer reaches into a planned absence."""
    view: MarketView = field(default_factory=MarketView)
    """The newest sight of the market; whoever reads it puts it here."""
    misses: int = 0
    """Beats in a row that the market did not take."""
    why: str = ""
    _seq: int = 0

    async def run(self, fleet: Fleet) -> None:
        """Beat for ever. A market that is down is asked again after a bounded wait."""
        backoff = Backoff(
            delay_ms_min=self.params.beat_ms,
            delay_ms_max=self.params.offer_ttl_ms,
            steady_ms=self.params.beat_ms,
        )
        while True:
            fleet.changed.clear()
            taken = await self.beat(fleet)
            self.misses = 0 if taken else self.misses + 1
            delay_ms = backoff.delay_ms(max(self.misses, 1))
            try:
                async with asyncio.timeout(delay_ms / 1000):
                    await fleet.changed.wait()
            except TimeoutError:
                pass  # The beat is due.

    async def beat(self, fleet: Fleet) -> bool:
        """Renew the offers of all ready instances; did the market take every one?"""
        taken = True
        for instance in list(fleet.instances.values()):
            if not instance.is_open:
                continue
            if await look_at_load(instance, deadline_ms=self.params.beat_ms):
                taken = await self._renew(instance) and taken
            elif instance.seq:
                self.metrics.count("miner_engine_silent_total", instance=instance.name)
        return taken

    async def withdraw(self, instance: Instance) -> None:
        """Take the offer back, if there was one. A market that is down forgets it by itself."""
        if not instance.seq:
            return
        instance.seq = 0
        try:
            await self.market.withdraw(self.signed(instance, room=0))
        except (PeerDown, PeerRefused) as error:
            _log.info("offer.not_withdrawn", instance=instance.name, why=str(error))

    def signed(self, instance: Instance, *, room: int) -> Signed:
        """A fresh signed offer with the next `seq`; its price is remembered while it holds."""
        now_ms = self.time.now_ms()
        self._seq = max(self._seq + 1, now_ms)
        multiplier = self.view.multiplier(instance.chute)
        ceiling = instance.manifest.price_max
        offer = Offer(
            instance=instance.name,
            miner=self.key.identity,
            chute=instance.chute,
            endpoint=self.terms.endpoint,
            price=asked_price(self.terms.prices, ceiling, target_ppm=multiplier),
            room=room,
            hardware=instance.hardware,
            device=instance.device,
            tier=self.terms.tier,
            issued_ms=now_ms,
            valid_until_ms=offer_end_ms(
                now_ms=now_ms,
                ttl_ms=self.params.offer_ttl_ms,
                beat_ms=self.params.beat_ms,
                rest_from_ms=self.maintenance.next_ms(now_ms),
            ),
            seq=self._seq,
        )
        # A gateway may use an offer until its end, and its order arrives a moment later.
        until_ms = offer.valid_until_ms + self.params.clock_skew_max_ms
        instance.offered(offer.price, until_ms=until_ms)
        return sign("offer", offer, self.key)

    async def _renew(self, instance: Instance) -> bool:
        offer = self.signed(instance, room=instance.room)
        try:
            await self.market.offer(offer, self.terms.delegation)
        except PeerDown as error:
            self._missed(instance, str(error))
            return False
        except PeerRefused as error:
            if error.code == "stale_offer":
                self._seq += SEQ_JUMP
            instance.refused = error.message
            self._missed(instance, str(error))
            return False
        instance.seq, instance.refused = self._seq, ""
        self.why = ""
        # The engine may have ended while the market was asked.
        if not instance.is_open:
            await self.withdraw(instance)
        return True

    def _missed(self, instance: Instance, why: str) -> None:
        self.metrics.count("miner_offers_missed_total")
        if why != self.why:
            _log.warning("offer.not_taken", instance=instance.name, why=why)
        self.why = why


async def look_at_load(instance: Instance, *, deadline_ms: int) -> bool:
    """Does the engine answer? What others make a shared one do counts against our room.

    An engine that is silent for a beat keeps its offer; one that stays silent loses it, because
    nobody renews it.
    """
    if instance.engine is None:
        return False
    try:
        async with asyncio.timeout(deadline_ms / 1000):
            stats = await instance.engine.stats()
    except TimeoutError:
        return False
    instance.looked(stats)
    return stats.ready
