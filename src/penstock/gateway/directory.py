"""What there is: chutes and instances, as the board tells it and as this gateway has checked it.

Every signed manifest and offer is checked again here, so the board needs no trust. Offers expire by
this gateway's own clock, whether or not the board removes them.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import msgspec

from penstock.gateway.config import Bounds
from penstock.gateway.errors import ModelUnknown
from penstock.gateway.field import Field
from penstock.gateway.instances import Instance
from penstock.gateway.reach import Reachable
from penstock.kit.metrics import Metrics
from penstock.kit.ports import Board, Clock, Verify
from penstock.spec.errors import BadMessage, SpecError
from penstock.spec.keys import open_signed, parse_signed
from penstock.spec.messages import Manifest, Offer, check_manifest, check_offer, chute_id
from penstock.spec.params import Params
from penstock.spec.units import Price

OFFERS = "offers"
CHUTES = "chutes"
DIGEST_SCHEME = "sha256:"
PRICES_MAX = 4_096


@dataclass(frozen=True, slots=True)
class Chute:
    """A chute on the board."""

    chute: str
    manifest: Manifest


class Directory:
    """Chutes by digest and name, instances by name. Bounded; entries beyond it are not taken."""

    def __init__(
        self, *, clock: Clock, verify: Verify, params: Params, bounds: Bounds, metrics: Metrics
    ) -> None:
        self._clock = clock
        self._verify = verify
        self._params = params
        self._bounds = bounds
        self._metrics = metrics
        self._chutes: dict[str, Chute] = {}
        self._named: dict[str, dict[str, None]] = {}
        self._resolved: dict[str, Chute] = {}
        """Model strings that were resolved since a chute last came or went; three of a chute at most."""
        self._instances: dict[str, Instance] = {}
        self._fields: dict[str, Field] = {}
        self._prices: dict[Price, Price] = {}
        self.reachable = Reachable()
        """Who must dial us, and has."""

    async def watch_offers(self, board: Board) -> None:
        """For ever: take offers as they come, are renewed, and go."""
        await self._watch(board.watch(OFFERS), OFFERS)

    async def watch_chutes(self, board: Board) -> None:
        """For ever: take manifests as they come and go."""
        await self._watch(board.watch(CHUTES), CHUTES)

    def take(self, kind: str, key: str, value: bytes) -> None:
        """One change of the board; b"" removes. What does not hold is counted and ignored."""
        try:
            if kind == OFFERS:
                self._take_offer(key, value)
            else:
                self._take_chute(key, value)
        except (SpecError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._metrics.count("gateway_board_bad_total", kind=kind)

    def resolve(self, model: str) -> Chute:
        """The chute that a model string means. Raises ModelUnknown.

        A name is its newest manifest; `name@sha256:...` and `sha256:...` are that very one.
        """
        known = self._resolved.get(model)
        if known is not None:
            return known
        name, _, digest = model.rpartition("@")
        if model.startswith(DIGEST_SCHEME):
            digest = model
        elif not name:
            digest = next(reversed(self._named.get(model, {})), "")
            name = model
        found = self._chutes.get(digest)
        if found is None or (name and found.manifest.name != name):
            raise ModelUnknown(model=model, known=tuple(self.names()))
        self._resolved[model] = found
        return found

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._named)

    def chutes(self) -> list[Chute]:
        """The newest chute of every name, sorted by name."""
        return [self._chutes[next(reversed(self._named[name]))] for name in self.names()]

    def instances(self, chute: str) -> list[Instance]:
        """The instances that offer this chute now."""
        now_ms = self._clock.now_ms()
        return [one for one in self.field(chute).instances if one.offer.valid_until_ms >= now_ms]

    def field(self, chute: str) -> Field:
        """The instances of this chute with what their traffic has taught; empty if there are none."""
        found = self._fields.get(chute)
        return Field() if found is None else found

    @property
    def instances_count(self) -> int:
        """How many offers are here, of all chutes."""
        return len(self._instances)

    def sweep(self) -> None:
        """Forget offers that have been over for longer than their own life."""
        now_ms = self._clock.now_ms() - self._params.offer_ttl_ms
        for key in [
            key for key, one in self._instances.items() if one.offer.valid_until_ms < now_ms
        ]:
            self._remove_instance(key)
        self._metrics.gauge("gateway_instances", len(self._instances))
        self._metrics.gauge("gateway_chutes", len(self._chutes))

    async def _watch(self, changes: AsyncIterator[tuple[str, bytes]], kind: str) -> None:
        async for key, value in changes:
            self.take(kind, key.removeprefix(f"{kind}."), value)

    def _take_offer(self, key: str, value: bytes) -> None:
        if not value:
            self._remove_instance(key)
            return
        offer = check_offer(
            parse_signed(msgspec.json.decode(value)),
            now_ms=self._clock.now_ms(),
            skew_max_ms=self._params.clock_skew_max_ms,
            verify=self._verify,
        )
        if offer.instance != key:
            raise BadMessage(kind="offer", reason="it stands under another instance's key")
        offer = replace(offer, price=self._one_price(offer.price))
        known = self._instances.get(key)
        if known is not None and known.offer.miner != offer.miner:
            self._remove_instance(key)
            known = None
        if known is None:
            if len(self._instances) >= self._bounds.instances_max:
                raise BadMessage(kind="offer", reason="the directory is full")
            self._list(key, Instance(offer=offer))
        elif offer.seq < known.offer.seq:
            raise BadMessage(kind="offer", reason="older than the one that is here")
        else:
            self._renew(known, offer)

    def _take_chute(self, key: str, value: bytes) -> None:
        chute = f"{DIGEST_SCHEME}{key}"
        if not value:
            self._remove_chute(chute)
            return
        signed = parse_signed(msgspec.json.decode(value))
        manifest = open_signed(Manifest, signed, kind="manifest", verify=self._verify)
        check_manifest(manifest)
        if signed.signer != manifest.owner or chute_id(manifest) != chute:
            raise BadMessage(kind="manifest", reason="not its owner's, or under another's key")
        if chute not in self._chutes and len(self._chutes) >= self._bounds.chutes_max:
            raise BadMessage(kind="manifest", reason="the directory is full")
        self._remove_chute(chute)  # the board's last word on a name is what the name means
        self._resolved.clear()
        self._chutes[chute] = Chute(chute=chute, manifest=manifest)
        self._named.setdefault(manifest.name, {})[chute] = None

    def _remove_instance(self, key: str) -> None:
        known = self._instances.pop(key, None)
        if known is None:
            return
        self._unlist(known)

    def _one_price(self, price: Price) -> Price:
        """Equal prices are one object, so that whoever compares many need look only once."""
        if len(self._prices) >= PRICES_MAX:
            self._prices.clear()
        return self._prices.setdefault(price, price)

    def _list(self, key: str, instance: Instance) -> None:
        self._instances[key] = instance
        instance.renewed(instance.offer)
        self.reachable.listed(instance)
        self._fields.setdefault(instance.chute, Field()).add(instance)

    def _renew(self, known: Instance, offer: Offer) -> None:
        """A renewal of the same chute keeps what was learned; another chute is another cache."""
        former = known.offer
        if former.chute != offer.chute:
            self._unlist(known)
            known.renewed(offer)
            self.reachable.listed(known)
            self._fields.setdefault(offer.chute, Field()).add(known)
            return
        known.renewed(offer)
        if former.endpoint != offer.endpoint:
            self.reachable.unlisted(known, former)
            self.reachable.listed(known)
        if former.price != offer.price:
            self.field(offer.chute).price_changed()

    def _unlist(self, known: Instance) -> None:
        self.reachable.unlisted(known, known.offer)
        field = self._fields[known.chute]
        field.remove(known)
        if not field:
            del self._fields[known.chute]

    def _remove_chute(self, chute: str) -> None:
        known = self._chutes.pop(chute, None)
        if known is None:
            return
        self._resolved.clear()
        versions = self._named[known.manifest.name]
        del versions[chute]
        if not versions:
            del self._named[known.manifest.name]
