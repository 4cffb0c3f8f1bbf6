"""Whose physical device is whose: a card is offered by one agent at a time, whatever names it takes.

An offer names the devices that its instance really uses, digests of what the hardware calls itself,
joined by `+`. A card belongs to the agent (the working key) that offers it first; others are refused
while it does, and for a while after it has vanished, so that nobody gains by being quick. The processor
is no card: several agents may serve on one machine, and scoring counts that machine once.
"""

from dataclasses import dataclass, field

from penstock.market.config import Bounds
from penstock.market.errors import BadOffer, DeviceTaken, MarketFull
from penstock.market.policy import ProvenDevices
from penstock.spec.messages import Offer
from penstock.spec.scoring import devices_of

DEVICES_MAX = 8
SHARED_HARDWARE = "cpu"


@dataclass(slots=True)
class _Claim:
    """What one agent offers on a device: instances, by whether they use it as a card."""

    owner: str
    cards: int = 0
    shared: int = 0

    @property
    def instances(self) -> int:
        return self.cards + self.shared


@dataclass(slots=True)
class _Device:
    claims: dict[str, _Claim] = field(default_factory=dict)
    """By working key."""
    held_for: str = ""
    held_owner: str = ""
    held_until_ms: int = 0


class Devices:
    """All devices that are offered, or were a moment ago."""

    def __init__(self, bounds: Bounds, proven: ProvenDevices) -> None:
        self._bounds = bounds
        self._proven = proven
        self._devices: dict[str, _Device] = {}

    def __len__(self) -> int:
        return len(self._devices)

    def check(self, offer: Offer, *, owner: str, now_ms: int, renews: str = "") -> None:
        """May this agent offer these devices now? `renews` are those that the instance has already.

        Raises DeviceTaken, BadOffer, MarketFull. What the operator has verified is never refused: then
        the others are, when they renew.
        """
        named, before = devices_of(offer.device), devices_of(renews)
        if len(named) > DEVICES_MAX or len(set(named)) < len(named) or not all(named):
            raise BadOffer(reason=f"an instance has 1 to {DEVICES_MAX} devices, each named once")
        for name in named:
            device = self._devices.get(name)
            if device is None:
                continue
            if (offer.miner, name) not in self._proven:
                self._check_holder(offer, device, owner=owner, now_ms=now_ms)
            claim = device.claims.get(offer.miner)
            limit = self._bounds.device_instances_max
            if claim is not None and claim.instances - (name in before) >= limit:
                raise MarketFull(what="instances on one device", limit=limit)

    def take(self, offer: Offer, *, owner: str) -> None:
        """The offer is on the board."""
        for name in devices_of(offer.device):
            device = self._devices.setdefault(name, _Device())
            device.held_for = ""
            claim = device.claims.setdefault(offer.miner, _Claim(owner))
            claim.owner = owner
            if is_card(offer):
                claim.cards += 1
            else:
                claim.shared += 1

    def leave(self, offer: Offer, *, held_until_ms: int = 0) -> None:
        """The offer is off the board. A device of one that vanished is held for its agent so long."""
        for name in devices_of(offer.device):
            device = self._devices[name]
            claim = device.claims[offer.miner]
            if is_card(offer):
                claim.cards -= 1
            else:
                claim.shared -= 1
            if not claim.instances:
                del device.claims[offer.miner]
                if is_card(offer) and not device.claims and held_until_ms:
                    device.held_for, device.held_owner = offer.miner, claim.owner
                    device.held_until_ms = held_until_ms
            if not device.claims and not device.held_for:
                del self._devices[name]

    def expire(self, now_ms: int) -> None:
        """Forget devices that are held no longer."""
        over = [
            name
            for name, device in self._devices.items()
            if not device.claims and now_ms > device.held_until_ms
        ]
        for name in over:
            del self._devices[name]

    def _check_holder(self, offer: Offer, device: _Device, *, owner: str, now_ms: int) -> None:
        others = [claim for miner, claim in device.claims.items() if miner != offer.miner]
        if any(is_card(offer) or claim.cards for claim in others):
            raise DeviceTaken(is_own=any(claim.owner == owner for claim in others), wait_ms=0)
        is_held = device.held_for not in {"", offer.miner} and device.held_owner != owner
        if is_held and now_ms <= device.held_until_ms:
            raise DeviceTaken(is_own=False, wait_ms=device.held_until_ms - now_ms)


def is_card(offer: Offer) -> bool:
    """Does its instance have its devices for itself? Only the processor is shared among agents."""
    return offer.hardware != SHARED_HARDWARE
