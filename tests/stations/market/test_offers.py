"""The table of live offers: taken, renewed, replayed, withdrawn, expired, and bounded."""

import pytest
from tests.makers import ToyKey
from tests.market_makers import ANNA, BERT, CHUTE, offer_of

from penstock.market.config import Bounds
from penstock.market.errors import BadOffer, MarketFull, StaleOffer
from penstock.market.offers import Offers
from penstock.spec.demand import Standing
from penstock.spec.keys import sign
from penstock.spec.messages import Offer

SMALL = Bounds(instances_max=4, miners_max=2, miner_instances_max=2)


def take(offers: Offers, offer: Offer, key: ToyKey = ANNA, *, now_ms: int = 0) -> bool:
    return offers.take(offer, sign("offer", offer, key), owner=key.identity, now_ms=now_ms)


def withdraw(offers: Offers, offer: Offer, key: ToyKey = ANNA) -> bool:
    return offers.withdraw(offer, sign("offer", offer, key))


def test_a_renewed_offer_keeps_its_age() -> None:
    offers = Offers(SMALL)
    assert take(offers, offer_of(), now_ms=10)
    assert take(offers, offer_of(seq=2, room=1), now_ms=900)
    assert offers.standing(CHUTE) == [Standing("anna-1", 10)]
    assert [live.offer.room for live in offers.serving(CHUTE)] == [1]
    assert len(offers) == 1


def test_an_instance_that_changes_its_chute_starts_anew() -> None:
    offers = Offers(SMALL)
    take(offers, offer_of(), now_ms=10)
    take(offers, offer_of(seq=2, chute="sha256:other"), now_ms=20)
    assert offers.serving(CHUTE) == []
    assert offers.standing("sha256:other") == [Standing("anna-1", 20)]


def test_the_same_offer_twice_changes_nothing() -> None:
    offers = Offers(SMALL)
    assert take(offers, offer_of())
    assert not take(offers, offer_of())


@pytest.mark.parametrize("late", [offer_of(seq=4), offer_of(seq=5, room=2)])
def test_an_older_offer_or_another_of_the_same_seq_is_stale(late: Offer) -> None:
    offers = Offers(SMALL)
    take(offers, offer_of(seq=5))
    with pytest.raises(StaleOffer) as refused:
        take(offers, late)
    assert refused.value.seen_seq == 5


def test_an_old_offer_cannot_be_replayed_after_the_withdrawal() -> None:
    offers = Offers(SMALL)
    take(offers, offer_of(seq=1))
    assert withdraw(offers, offer_of(seq=2, room=0))
    assert len(offers) == 0
    with pytest.raises(StaleOffer):
        take(offers, offer_of(seq=1))
    offers.expire(offer_of().valid_until_ms)
    with pytest.raises(StaleOffer):
        take(offers, offer_of(seq=1))


def test_what_was_never_here_is_withdrawn_without_a_trace() -> None:
    offers = Offers(SMALL)
    assert not withdraw(offers, offer_of(seq=9, room=0))
    assert take(offers, offer_of(seq=1))


def test_an_instance_belongs_to_the_miner_who_is_live_with_it() -> None:
    offers = Offers(SMALL)
    take(offers, offer_of())
    thief = offer_of(BERT, instance="anna-1", seq=7)
    with pytest.raises(BadOffer):
        take(offers, thief, BERT)
    with pytest.raises(BadOffer):
        withdraw(offers, thief, BERT)
    live = offers.get("anna-1")
    assert live is not None
    assert live.owner == ANNA.identity


def test_an_offer_is_alive_at_its_last_millisecond_and_over_after_it() -> None:
    offers = Offers(SMALL)
    take(offers, offer_of(valid_until_ms=100))
    assert offers.expire(100) == []
    assert offers.expire(101) == ["anna-1"]
    assert offers.miners == []
    assert take(offers, offer_of(seq=1, valid_until_ms=300), now_ms=200)


def test_a_full_market_refuses_and_has_room_again_later() -> None:
    offers = Offers(SMALL)
    take(offers, offer_of(instance="a1"))
    take(offers, offer_of(instance="a2"))
    with pytest.raises(MarketFull, match="instances of one miner"):
        take(offers, offer_of(instance="a3"))
    take(offers, offer_of(BERT), BERT)
    carl = ToyKey("carl")
    with pytest.raises(MarketFull, match="miners"):
        take(offers, offer_of(carl), carl)
    take(offers, offer_of(BERT, instance="b2"), BERT)
    with pytest.raises(MarketFull, match="4 instances"):
        take(offers, offer_of(BERT, instance="b3"), BERT)
    assert take(offers, offer_of(instance="a1", seq=2))
    withdraw(offers, offer_of(instance="a1", seq=3))
    assert take(offers, offer_of(instance="a3"))
    assert [live.offer.instance for live in offers] == ["a2", "bert-1", "b2", "a3"]


def test_coming_and_going_under_new_names_does_not_fill_the_memory() -> None:
    offers = Offers(SMALL)
    for number in range(8):
        take(offers, offer_of(instance=f"a{number}"))
        withdraw(offers, offer_of(instance=f"a{number}", seq=2))
    with pytest.raises(MarketFull):
        take(offers, offer_of(instance="a9"))
    offers.expire(offer_of().valid_until_ms + 1)
    assert take(offers, offer_of(instance="a9"))
