"""The live offers, in memory: taken, renewed, withdrawn, expired. Miners renew them every beat, so a
market that starts anew knows them again within one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from penstock.market.config import Bounds
from penstock.market.devices import Devices
from penstock.market.errors import BadOffer, MarketFull, StaleOffer
from penstock.market.policy import ProvenDevices
from penstock.spec.demand import Standing
from penstock.spec.keys import Signed
from penstock.spec.messages import Offer


@dataclass(slots=True)
class Live:
    """A live instance: its newest offer, who stands behind it, and since when it has been here."""

    offer: Offer
    signed: Signed
    owner: str
    since_ms: int


@dataclass(frozen=True, slots=True)
class _Seen:
    """The newest seq of an instance. It is kept while an offer with it could still be replayed."""

    seq: int
    signature: str
    until_ms: int


class Offers:
    """All live offers by instance. Bounded: a market that is full refuses, and says so."""

    def __init__(self, bounds: Bounds, proven: ProvenDevices | None = None) -> None:
        self._bounds = bounds
        self._devices = Devices(bounds, proven or {})
        self._live: dict[str, Live] = {}
        self._by_chute: dict[str, dict[str, Live]] = {}
        self._by_miner: dict[str, int] = {}
        self._seen: dict[tuple[str, str], _Seen] = {}

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Live]:
        return iter(self._live.values())

    @property
    def miners(self) -> list[str]:
        """Miners with a live offer, sorted."""
        return sorted(self._by_miner)

    def get(self, instance: str) -> Live | None:
        """The live offer of an instance."""
        return self._live.get(instance)

    def serving(self, chute: str) -> list[Live]:
        """The live instances of a chute."""
        return list(self._by_chute.get(chute, {}).values())

    def standing(self, chute: str) -> list[Standing]:
        """The live instances of a chute, as the law of demand reads them."""
        return [
            Standing(instance=live.offer.instance, since_ms=live.since_ms)
            for live in self.serving(chute)
        ]

    def take(self, offer: Offer, signed: Signed, *, owner: str, now_ms: int) -> bool:
        """Take or renew an offer; False when this very one is here already.

        Raises StaleOffer, BadOffer (the name belongs to another live miner), DeviceTaken, MarketFull.
        """
        known = self._live.get(offer.instance)
        if known is not None and known.offer.miner != offer.miner:
            raise BadOffer(reason=f"{offer.instance!r} is an instance of another miner")
        if not self._is_newer(offer, signed):
            return False
        if known is None:
            self._check_room(offer.miner)
        renews = "" if known is None else known.offer.device
        self._devices.check(offer, owner=owner, now_ms=now_ms, renews=renews)
        self._note(offer, signed)
        since_ms = now_ms
        if known is not None:
            since_ms = known.since_ms if known.offer.chute == offer.chute else now_ms
            self._drop(offer.instance)
        live = Live(offer=offer, signed=signed, owner=owner, since_ms=since_ms)
        self._live[offer.instance] = live
        self._by_chute.setdefault(offer.chute, {})[offer.instance] = live
        self._by_miner[offer.miner] = self._by_miner.get(offer.miner, 0) + 1
        self._devices.take(offer, owner=owner)
        return True

    def withdraw(self, offer: Offer, signed: Signed) -> bool:
        """Take an instance out at its miner's word; False if it was not here. Raises as `take`."""
        known = self._live.get(offer.instance)
        if known is not None and known.offer.miner != offer.miner:
            raise BadOffer(reason=f"{offer.instance!r} is an instance of another miner")
        is_newer = self._is_newer(offer, signed)
        if known is None:
            return False
        if is_newer:
            self._note(offer, signed)
        self._drop(offer.instance)
        return True

    def expire(self, now_ms: int) -> list[str]:
        """Drop what is over; returns the instances. Edge: alive at exactly `valid_until_ms`."""
        over = [
            instance for instance, live in self._live.items() if now_ms > live.offer.valid_until_ms
        ]
        for instance in over:
            self._drop(instance, held_until_ms=now_ms + self._bounds.device_hold_ms)
        self._devices.expire(now_ms)
        for key in [key for key, seen in self._seen.items() if now_ms > seen.until_ms]:
            del self._seen[key]
        return over

    def _is_newer(self, offer: Offer, signed: Signed) -> bool:
        seen = self._seen.get((offer.miner, offer.instance))
        if seen is None or offer.seq > seen.seq:
            return True
        if offer.seq == seen.seq and signed.signature == seen.signature:
            return False
        raise StaleOffer(instance=offer.instance, seq=offer.seq, seen_seq=seen.seq)

    def _note(self, offer: Offer, signed: Signed) -> None:
        key = (offer.miner, offer.instance)
        before = self._seen.get(key)
        until_ms = max(offer.valid_until_ms, 0 if before is None else before.until_ms)
        self._seen[key] = _Seen(seq=offer.seq, signature=signed.signature, until_ms=until_ms)

    def _check_room(self, miner: str) -> None:
        bounds, mine = self._bounds, self._by_miner.get(miner, 0)
        if len(self._live) >= bounds.instances_max or len(self._seen) >= 2 * bounds.instances_max:
            raise MarketFull(what="instances", limit=bounds.instances_max)
        if mine >= bounds.miner_instances_max:
            raise MarketFull(what="instances of one miner", limit=bounds.miner_instances_max)
        if not mine and len(self._by_miner) >= bounds.miners_max:
            raise MarketFull(what="miners", limit=bounds.miners_max)

    def _drop(self, instance: str, *, held_until_ms: int = 0) -> None:
        offer = self._live.pop(instance).offer
        self._devices.leave(offer, held_until_ms=held_until_ms)
        serving = self._by_chute[offer.chute]
        del serving[instance]
        if not serving:
            del self._by_chute[offer.chute]
        self._by_miner[offer.miner] -= 1
        if not self._by_miner[offer.miner]:
            del self._by_miner[offer.miner]
