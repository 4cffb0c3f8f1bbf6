"""The market: takes manifests and offers, counts presence and demand, and speaks once an epoch.

Offers live in memory and on the board: after a restart what is on the board is taken up again, and
miners renew it within a beat. What the market says of an epoch is saved before it is published, and
published until the bus has it, so the log gets the same words whatever fails in between.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from penstock.kit.log import events
from penstock.kit.metrics import Metrics
from penstock.kit.ports import Bus, BusDown, Clock, Sign, StoreDown, Verify
from penstock.kit.tasks import Scope, crash_recorder
from penstock.market.catalogue import Catalogue
from penstock.market.config import Bounds
from penstock.market.epochs import Measured, Outcome, close_epoch
from penstock.market.errors import BadManifest, BadOffer, MarketError, Unavailable
from penstock.market.offers import Offers
from penstock.market.policy import (
    ProvenDevices,
    check_terms,
    offer_key,
    owner_of,
    written_hardware,
)
from penstock.market.ports import Chute, EpochWords, MarketStore, Word
from penstock.market.presence import PresenceBook
from penstock.market.usage import UsageBook
from penstock.spec.canon import from_plain, to_plain
from penstock.spec.entries import EntryKind
from penstock.spec.errors import SpecError
from penstock.spec.keys import Signed, open_signed, parse_signed, sign
from penstock.spec.messages import Manifest, Offer, Targets, check_manifest, check_offer, chute_id
from penstock.spec.params import Params

LOG_SUBJECT = "events.log.market"
UNSAVED_MAX = 16
"""Epochs held in memory while the database is away; the oldest is given up beyond it."""
OLD_COUNTS_BEATS = 2
"""Totals first seen this soon after the start were there before it."""

_log = events("market")
_encode = msgspec.json.Encoder().encode
NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What reading bytes that are no JSON may raise."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator decided: bounds, verified devices, and whose minimum counts (None: all)."""

    bounds: Bounds = field(default_factory=Bounds)
    proven: ProvenDevices = field(default_factory=dict)
    sponsors: frozenset[str] | None = None

    def is_sponsored(self, owner: str) -> bool:
        """Whether this owner's `instances_min` is asked for without demand."""
        return self.sponsors is None or owner in self.sponsors


@dataclass
class Market:
    """All ports of the station. `open` first, then `run` until it is cancelled."""

    clock: Clock
    bus: Bus
    store: MarketStore
    key: Sign
    verify: Verify
    params: Params
    rules: Rules = field(default_factory=Rules)
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        bounds = self.rules.bounds
        self.catalogue = Catalogue(bounds)
        self.offers = Offers(bounds, self.rules.proven)
        self.targets: Targets | None = None
        self.signed_targets: Signed | None = None
        self.epoch = self.clock.now_ms() // self.params.epoch_ms
        self._usage = UsageBook(bounds.counters_max)
        self._presence = PresenceBook(
            self.clock.now_ms(),
            beat_ms=self.params.beat_ms,
            miner_presences_max=bounds.miner_presences_max,
        )
        self._bounties: Mapping[str, int] = {}
        self._unsaved: deque[tuple[EpochWords, Mapping[str, int]]] = deque(maxlen=UNSAVED_MAX)
        self._is_unpublished = True
        self._to_remove: dict[str, None] = {}
        self._started_us = self.clock.mono_us()

    @property
    def waiting(self) -> int:
        """Closed epochs that the database has not kept yet."""
        return len(self._unsaved)

    async def open(self) -> None:
        """Take up what the store knows and say it again, the catalogue oldest first.

        The board may be new, and a former life may have ended between saving and saying.
        Raises StoreDown, BusDown.
        """
        for chute in await self.store.chutes():
            self.catalogue.add(chute)
            await self._show_chute(chute)
        self._bounties = await self.store.bounties()
        newest = await self.store.newest()
        if newest is not None:
            self._take_targets(newest)
            await self._show_targets()
        self.metrics.gauge("market_chutes", len(self.catalogue))

    async def run(self) -> None:
        """The market's loops, for ever."""
        on_event = crash_recorder(self.metrics)
        async with Scope() as scope:
            scope.supervise("market.adopt", self._adopt, on_event=on_event)
            scope.supervise("market.demand", self._watch_demand, on_event=on_event)
            scope.supervise("market.beat", self._beats, on_event=on_event)
            scope.supervise("market.epochs", self._epochs, on_event=on_event)

    async def publish(self, signed: Signed) -> tuple[Chute, bool]:
        """(the chute, whether it is new). Raises BadManifest, NameTaken, MarketFull, Unavailable."""
        chute = self._read_manifest(signed)
        if not self.catalogue.knows(chute.chute):
            self.catalogue.check_room(chute.manifest.owner)
        try:
            created = await self.store.add_chute(chute)
        except StoreDown as error:
            raise Unavailable(what="database") from error
        self.catalogue.add(chute)
        kept = self.catalogue.get(chute.chute)
        try:
            # Said again for a chute that is known: the last time the bus may have been away.
            if self.catalogue.is_newest(kept):
                await self._show_chute(kept)
        except BusDown as error:
            raise Unavailable(what="bus") from error
        if created:
            _log.info("chute.published", chute=kept.chute, name=kept.manifest.name)
        self.metrics.gauge("market_chutes", len(self.catalogue))
        return kept, created

    async def offer(self, signed: Signed, *, delegation: Signed | None) -> None:
        """Take or renew an offer.

        Raises BadOffer, StaleOffer, DeviceTaken, ChuteUnknown, MarketFull, Unavailable.
        """
        now_ms = self.clock.now_ms()
        taken = self._take_offer(signed, delegation, now_ms=now_ms)
        self._to_remove.pop(taken.instance, None)
        self.metrics.count("market_offers_total")
        try:
            await self.bus.put(offer_key(taken.instance), _encode(to_plain(signed)))
        except BusDown as error:
            raise Unavailable(what="bus") from error

    async def withdraw(self, instance: str, signed: Signed) -> None:
        """Take an instance out at its miner's word. Raises BadOffer, StaleOffer, Unavailable."""
        now_ms = self.clock.now_ms()
        offer = self._read_offer(signed, now_ms=now_ms)
        if offer.instance != instance or offer.room:
            raise BadOffer(reason="to withdraw, send this instance's offer with room 0")
        if not self.offers.withdraw(offer, signed):
            return
        self._presence.leave(instance, now_ms=now_ms)
        self._to_remove[instance] = None
        self.metrics.count("market_withdrawals_total")
        if not await self._remove_gone():
            raise Unavailable(what="bus")

    async def beat(self) -> None:
        """What is done every beat: expired offers leave, and words that wait are published."""
        self._expire(self.clock.now_ms())
        self.metrics.gauge("market_instances", len(self.offers))
        self.metrics.gauge("market_miners", len(self.offers.miners))
        await self._remove_gone()
        await self._flush()

    def close_epoch(self) -> Outcome:
        """End the epoch that is being measured and begin the present one."""
        now_ms = self.clock.now_ms()
        self._expire(now_ms)
        presences, after = self._presence.close(
            now_ms, is_live=lambda instance: self.offers.get(instance) is not None
        )
        targets = () if self.targets is None else self.targets.targets
        outcome = close_epoch(
            Measured(
                epoch=self.epoch,
                chutes=self.catalogue.all(),
                usage=self._usage.close(),
                presences=presences,
                targets={one.chute: one for one in targets},
                bounties=self._bounties,
                roomy=self._presence.roomy,
            ),
            self.offers,
            params=self.params,
            is_sponsored=self.rules.is_sponsored,
        )
        words = self._words(outcome)
        self._unsaved.append((words, outcome.bounties))
        self._take_targets(words)
        self._bounties = outcome.bounties
        self._presence = after
        self.epoch = now_ms // self.params.epoch_ms
        _log.info("epoch.closed", epoch=words.epoch, instances=len(presences))
        return outcome

    # Loops --------------------------------------------------------------------------------------

    async def _beats(self) -> None:
        while True:
            await self.beat()
            await asyncio.sleep(self.params.beat_ms / 1000)

    async def _epochs(self) -> None:
        while True:
            left_ms = (self.epoch + 1) * self.params.epoch_ms - self.clock.now_ms()
            if left_ms <= 0:
                self.close_epoch()
            else:
                await asyncio.sleep(left_ms / 1000)

    async def _adopt(self) -> None:
        """Take up the offers that a former life left on the board; what is over is removed."""
        try:
            async with asyncio.timeout(2 * self.params.beat_ms / 1000):
                async for key, value in self.bus.watch("offers"):
                    if value:
                        self._adopt_one(key.removeprefix("offers."), value)
        except TimeoutError:
            pass  # Whatever comes later is our own.

    def _adopt_one(self, instance: str, value: bytes) -> None:
        if self.offers.get(instance) is not None:
            return
        try:
            self._take_offer(
                parse_signed(msgspec.json.decode(value)), None, now_ms=self.clock.now_ms()
            )
        except (MarketError, SpecError, *NOT_JSON):
            self._to_remove[instance] = None

    async def _watch_demand(self) -> None:
        async for key, value in self.bus.watch("demand"):
            age_us = self.clock.mono_us() - self._started_us
            is_old = age_us < OLD_COUNTS_BEATS * self.params.beat_ms * 1000
            if not self._usage.take(key, value, is_old=is_old):
                self.metrics.count("market_demand_bad_total")

    # Steps --------------------------------------------------------------------------------------

    def _read_manifest(self, signed: Signed) -> Chute:
        try:
            manifest = open_signed(Manifest, signed, kind="manifest", verify=self.verify)
            check_manifest(manifest)
        except SpecError as error:
            raise BadManifest(reason=str(error)) from error
        if signed.signer != manifest.owner:
            raise BadManifest(reason="the signer is not the owner it names")
        return Chute(chute=chute_id(manifest), manifest=manifest, signed=signed)

    def _read_offer(self, signed: Signed, *, now_ms: int) -> Offer:
        try:
            return check_offer(
                signed,
                now_ms=now_ms,
                skew_max_ms=self.params.clock_skew_max_ms,
                verify=self.verify,
            )
        except SpecError as error:
            raise BadOffer(reason=str(error)) from error

    def _take_offer(self, signed: Signed, delegation: Signed | None, *, now_ms: int) -> Offer:
        """Check an offer and count its beat; the same one again changes nothing."""
        offer = self._read_offer(signed, now_ms=now_ms)
        offer_key(offer.instance)
        manifest = self.catalogue.get(offer.chute).manifest
        proven = self.rules.proven
        check_terms(offer, manifest, params=self.params, proven=proven, now_ms=now_ms)
        owner = owner_of(offer, delegation, now_ms=now_ms, verify=self.verify)
        hardware = written_hardware(offer, proven)
        self._presence.check_room(offer, hardware=hardware)
        if self.offers.take(offer, signed, owner=owner, now_ms=now_ms):
            self._presence.beat(offer, hardware=hardware, now_ms=now_ms)
        return offer

    def _expire(self, now_ms: int) -> None:
        for instance in self.offers.expire(now_ms):
            self._to_remove[instance] = None
            self.metrics.count("market_expired_total")

    def _words(self, outcome: Outcome) -> EpochWords:
        """The signed words of an epoch: targets, then the roll's parts (`roll/E`, `roll/E/2`...)."""
        epoch = outcome.targets.epoch
        kind = EntryKind.TARGETS.value
        words = [Word(kind, f"{kind}/{epoch}", sign(kind, outcome.targets, self.key))]
        kind = EntryKind.ROLL.value
        for number, roll in enumerate(outcome.rolls, 1):
            entry_id = f"{kind}/{epoch}" if number == 1 else f"{kind}/{epoch}/{number}"
            words.append(Word(kind, entry_id, sign(kind, roll, self.key)))
        return EpochWords(epoch=epoch, words=tuple(words))

    def _take_targets(self, words: EpochWords) -> None:
        self.signed_targets = words.words[0].signed
        self.targets = from_plain(Targets, self.signed_targets.body)

    async def _flush(self) -> None:
        """Save and publish what waits. What fails is tried again with the next beat."""
        try:
            while self._unsaved:
                words, bounties = self._unsaved[0]
                await self.store.save_epoch(words, bounties=bounties)
                self._unsaved.popleft()
                self._is_unpublished = True
            if self._is_unpublished:
                for words in await self.store.pending():
                    await self._publish_words(words)
                self._is_unpublished = False
        except (StoreDown, BusDown) as error:
            self.metrics.count("market_flush_failures_total")
            _log.warning("epoch.waiting", why=str(error), unsaved=len(self._unsaved))

    async def _publish_words(self, words: EpochWords) -> None:
        if self.targets is not None and words.epoch == self.targets.epoch:
            await self._show_targets()
        for word in words.words:
            await self._publish_word(word)
        await self.store.mark_published(words.epoch)

    async def _show_targets(self) -> None:
        await self.bus.put("targets", _encode(to_plain(self.signed_targets)))

    async def _publish_word(self, word: Word) -> None:
        said = {"kind": word.kind, "id": word.entry_id, "body": to_plain(word.signed)}
        await self.bus.publish(LOG_SUBJECT, _encode(said), event_id=word.entry_id)

    async def _show_chute(self, chute: Chute) -> None:
        """On the board for gateways, and into the log for everyone."""
        key = f"chutes.{chute.chute.removeprefix('sha256:')}"
        await self.bus.put(key, _encode(to_plain(chute.signed)))
        kind = EntryKind.MANIFEST.value
        await self._publish_word(Word(kind, f"{kind}/{chute.chute}", chute.signed))

    async def _remove_gone(self) -> bool:
        """Take gone instances off the board; those that came back in the meantime stay."""
        for instance in list(self._to_remove):
            if self.offers.get(instance) is None:
                try:
                    await self.bus.put(f"offers.{instance}", b"")
                except BusDown:
                    return False
            self._to_remove.pop(instance, None)
        return True
