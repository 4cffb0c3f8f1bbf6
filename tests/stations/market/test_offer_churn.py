"""Offers that come, are renewed, change, are replayed and go, in any order: next to a plain model."""

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.makers import MANIFEST, ToyKey
from tests.market_makers import ANNA, BERT, CHUTE, offer_of
from tests.properties import in_full

from penstock.market.config import Bounds
from penstock.market.errors import BadOffer, MarketFull, StaleOffer
from penstock.market.offers import Offers
from penstock.spec.keys import sign
from penstock.spec.messages import Offer, chute_id

KEYS = (ANNA, BERT)
OTHER_CHUTE = chute_id(replace(MANIFEST, name="other"))
TTL_MS = 10
INSTANCES_MAX, MINER_INSTANCES_MAX = 4, 2

keys = st.sampled_from(KEYS)
instances = st.sampled_from(["i-1", "i-2", "i-3"])
chutes = st.sampled_from([CHUTE, OTHER_CHUTE])


class OffersMachine(RuleBasedStateMachine):
    """The model: which instance is live for whom until when, and the newest seq ever seen."""

    def __init__(self) -> None:
        super().__init__()
        self.offers = Offers(
            Bounds(instances_max=INSTANCES_MAX, miner_instances_max=MINER_INSTANCES_MAX)
        )
        self.now_ms = 0
        self.seq = 0
        self.live: dict[str, Offer] = {}
        self.since_ms: dict[str, int] = {}
        self.said: list[tuple[ToyKey, Offer]] = []

    def taken(self, key: ToyKey, offer: Offer) -> bool | type[Exception]:
        signed = sign("offer", offer, key)
        try:
            return self.offers.take(offer, signed, owner=key.identity, now_ms=self.now_ms)
        except (BadOffer, StaleOffer, MarketFull) as error:
            return type(error)

    def expected(self, key: ToyKey, instance: str) -> bool | type[Exception]:
        """What a fresh offer must come to."""
        known = self.live.get(instance)
        if known is not None:
            return True if known.miner == key.identity else BadOffer
        mine = sum(one.miner == key.identity for one in self.live.values())
        return MarketFull if mine >= MINER_INSTANCES_MAX else True

    @rule(key=keys, instance=instances, chute=chutes)
    def renew(self, key: ToyKey, instance: str, chute: str) -> None:
        self.seq += 1
        offer = offer_of(
            key,
            instance=instance,
            chute=chute,
            seq=self.seq,
            issued_ms=self.now_ms,
            valid_until_ms=self.now_ms + TTL_MS,
        )
        expected = self.expected(key, instance)
        assert self.taken(key, offer) == expected
        if expected is True:
            before = self.live.get(instance)
            if before is None or before.chute != chute:
                self.since_ms[instance] = self.now_ms
            self.live[instance] = offer
            self.said.append((key, offer))

    @rule(index=st.integers(0, 30))
    def replay(self, index: int) -> None:
        """An offer said before changes nothing while it could still be taken for a new one."""
        if not self.said:
            return
        key, offer = self.said[index % len(self.said)]
        if self.now_ms > offer.valid_until_ms:
            return  # The law refuses it before it comes here: it is over.
        newest = max(
            one.seq for other, one in self.said if (other, one.instance) == (key, offer.instance)
        )
        known = self.live.get(offer.instance)
        answer = self.taken(key, offer)
        if known is not None and known.miner != key.identity:
            assert answer is BadOffer
        else:
            assert answer == (False if offer.seq == newest else StaleOffer)

    @rule(key=keys, instance=instances)
    def withdraw(self, key: ToyKey, instance: str) -> None:
        self.seq += 1
        offer = offer_of(
            key,
            instance=instance,
            seq=self.seq,
            room=0,
            issued_ms=self.now_ms,
            valid_until_ms=self.now_ms + TTL_MS,
        )
        known = self.live.get(instance)
        try:
            was_here = self.offers.withdraw(offer, sign("offer", offer, key))
        except BadOffer:
            assert known is not None
            assert known.miner != key.identity
            return
        assert was_here == (known is not None)
        if known is not None:
            assert known.miner == key.identity
            del self.live[instance]
            self.said.append((key, offer))

    @rule(span_ms=st.integers(1, TTL_MS + 1))
    def pass_time(self, span_ms: int) -> None:
        self.now_ms += span_ms
        over = {name for name, one in self.live.items() if self.now_ms > one.valid_until_ms}
        assert set(self.offers.expire(self.now_ms)) == over
        for name in over:
            del self.live[name]

    @invariant()
    def the_live_ones_are_those_of_the_model(self) -> None:
        assert {one.offer.instance: one.offer for one in self.offers} == self.live
        assert len(self.offers) == len(self.live)

    @invariant()
    def every_index_says_the_same(self) -> None:
        for chute in (CHUTE, OTHER_CHUTE):
            serving = {one.offer.instance for one in self.offers.serving(chute)}
            assert serving == {name for name, one in self.live.items() if one.chute == chute}
            assert {(one.instance, one.since_ms) for one in self.offers.standing(chute)} == {
                (name, self.since_ms[name]) for name in serving
            }
        assert self.offers.miners == sorted({one.miner for one in self.live.values()})

    def teardown(self) -> None:
        """When time is over for all of them, nothing is left and nothing is remembered."""
        self.offers.expire(self.now_ms + 2 * TTL_MS)
        assert len(self.offers) == 0
        assert self.offers._seen == {}
        assert self.offers._by_miner == {}
        assert self.offers._by_chute == {}


TestOffersMachine = OffersMachine.TestCase
TestOffersMachine.settings = settings(
    max_examples=in_full(60), stateful_step_count=40, deadline=None
)
