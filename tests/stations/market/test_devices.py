"""One physical card is offered by one agent; one processor by many, and it counts once."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import ToyKey
from tests.market_makers import ANNA, BERT, offer_of

from penstock.market.config import Bounds
from penstock.market.devices import DEVICES_MAX, SHARED_HARDWARE
from penstock.market.errors import BadOffer, DeviceTaken, MarketFull
from penstock.market.offers import Offers
from penstock.spec.keys import sign
from penstock.spec.messages import Offer

BOUNDS = Bounds(device_instances_max=2, device_hold_ms=5_000)
CARD = "nvidia-h100"
OWNER = ToyKey("owner").identity


def on_card(key: ToyKey, instance: str, device: str = "card", **changes: Any) -> Offer:
    offer = offer_of(instance=instance, miner=key.identity, device=device, hardware=CARD)
    return replace(offer, **changes)


def take(offers: Offers, offer: Offer, key: ToyKey, *, owner: str = "", now_ms: int = 0) -> bool:
    signed = sign("offer", offer, key)
    return offers.take(offer, signed, owner=owner or key.identity, now_ms=now_ms)


def refused(offers: Offers, offer: Offer, key: ToyKey, *, owner: str = "", now_ms: int = 0) -> str:
    with pytest.raises(DeviceTaken) as caught:
        take(offers, offer, key, owner=owner, now_ms=now_ms)
    assert offers.get(offer.instance) is None
    return caught.value.text()


def test_the_same_card_is_not_offered_by_two_miners() -> None:
    offers = Offers(BOUNDS)
    take(offers, on_card(ANNA, "anna-1"), ANNA)
    said = refused(offers, on_card(BERT, "bert-1"), BERT)
    assert "another miner" in said
    assert "CUDA_VISIBLE_DEVICES" in said


def test_two_agents_of_one_owner_are_two_agents() -> None:
    offers = Offers(BOUNDS)
    take(offers, on_card(ANNA, "anna-1"), ANNA, owner=OWNER)
    said = refused(offers, on_card(BERT, "bert-1"), BERT, owner=OWNER)
    assert "another agent of the same owner" in said


def test_one_agent_offers_several_chutes_on_its_card_up_to_the_bound() -> None:
    offers = Offers(BOUNDS)
    take(offers, on_card(ANNA, "anna-1"), ANNA)
    take(offers, on_card(ANNA, "anna-2"), ANNA)
    take(offers, on_card(ANNA, "anna-2", seq=2), ANNA)
    with pytest.raises(MarketFull) as caught:
        take(offers, on_card(ANNA, "anna-3"), ANNA)
    assert caught.value.limit == 2
    take(offers, on_card(ANNA, "anna-3", device="second card"), ANNA)


def test_any_of_several_cards_is_enough_to_be_refused() -> None:
    offers = Offers(BOUNDS)
    take(offers, on_card(ANNA, "anna-1", "a+b"), ANNA)
    for device in ("b", "b+c", "c+a"):
        refused(offers, on_card(BERT, "bert-1", device), BERT)
    assert take(offers, on_card(BERT, "bert-1", "c+d"), BERT)


@pytest.mark.parametrize(
    "device", ["a+a", "a+", "+", "+".join(str(one) for one in range(DEVICES_MAX + 1))]
)
def test_devices_are_named_once_and_not_too_many(device: str) -> None:
    with pytest.raises(BadOffer):
        take(Offers(BOUNDS), on_card(ANNA, "anna-1", device), ANNA)


def test_several_agents_serve_on_one_processor() -> None:
    offers = Offers(BOUNDS)
    for key in (ANNA, BERT, ToyKey("carl")):
        offer = on_card(key, f"{key.name}-1", "machine", hardware=SHARED_HARDWARE)
        assert take(offers, offer, key)
    assert len(offers) == 3


def test_nobody_takes_a_card_by_calling_it_a_processor_nor_the_other_way() -> None:
    offers = Offers(BOUNDS)
    take(offers, on_card(ANNA, "anna-1"), ANNA)
    refused(offers, on_card(BERT, "bert-1", hardware=SHARED_HARDWARE), BERT)
    take(offers, on_card(ANNA, "anna-2", "machine", hardware=SHARED_HARDWARE), ANNA)
    refused(offers, on_card(BERT, "bert-1", "machine"), BERT)


def test_whoever_leaves_in_order_frees_the_card_at_once() -> None:
    offers = Offers(BOUNDS)
    take(offers, on_card(ANNA, "anna-1"), ANNA)
    leaving = on_card(ANNA, "anna-1", seq=2, room=0)
    offers.withdraw(leaving, sign("offer", leaving, ANNA))
    assert take(offers, on_card(BERT, "bert-1"), BERT)


def test_the_card_of_one_that_vanished_is_held_for_it_for_a_while() -> None:
    offers = Offers(BOUNDS)
    offer = on_card(ANNA, "anna-1")
    take(offers, offer, ANNA, owner=OWNER)
    gone_ms = offer.valid_until_ms + 1
    assert offers.expire(gone_ms) == ["anna-1"]
    later: dict[str, Any] = {"valid_until_ms": gone_ms + 60_000, "seq": 9}
    said = refused(offers, on_card(BERT, "bert-1", **later), BERT, now_ms=gone_ms + 1)
    assert "Try again in 5 s" in said
    # Another node of the same owner, or the agent itself, need not wait.
    assert take(offers, on_card(BERT, "b-2", **later), BERT, owner=OWNER, now_ms=gone_ms + 1)


def test_a_held_card_is_free_when_its_time_is_over() -> None:
    offers = Offers(BOUNDS)
    offer = on_card(ANNA, "anna-1")
    take(offers, offer, ANNA)
    gone_ms = offer.valid_until_ms + 1
    offers.expire(gone_ms)
    over_ms = gone_ms + BOUNDS.device_hold_ms + 1
    assert offers.expire(over_ms) == []
    assert len(offers._devices) == 0
    assert take(offers, on_card(BERT, "b", valid_until_ms=over_ms + 9), BERT, now_ms=over_ms)


def test_who_comes_back_in_time_has_its_card() -> None:
    offers = Offers(BOUNDS)
    offer = on_card(ANNA, "anna-1")
    take(offers, offer, ANNA)
    offers.expire(offer.valid_until_ms + 1)
    later: dict[str, Any] = {"valid_until_ms": offer.valid_until_ms + 60_000, "seq": 2}
    now_ms = offer.valid_until_ms + 2
    assert take(offers, on_card(ANNA, "anna-1", **later), ANNA, now_ms=now_ms)
    refused(offers, on_card(BERT, "bert-1", **later), BERT, now_ms=now_ms)


def test_what_the_operator_has_verified_wins_over_what_was_first() -> None:
    offers = Offers(BOUNDS, {(ANNA.identity, "card"): CARD})
    take(offers, on_card(BERT, "bert-1"), BERT)
    assert take(offers, on_card(ANNA, "anna-1"), ANNA)
    with pytest.raises(DeviceTaken):
        take(offers, on_card(BERT, "bert-1", seq=2), BERT)
    assert take(offers, on_card(ANNA, "anna-1", seq=2), ANNA)


def test_an_instance_that_changes_its_card_frees_the_old_one() -> None:
    offers = Offers(BOUNDS)
    take(offers, on_card(ANNA, "anna-1", "a"), ANNA)
    take(offers, on_card(ANNA, "anna-1", "b", seq=2), ANNA)
    assert take(offers, on_card(BERT, "bert-1", "a"), BERT)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([ANNA, BERT, ToyKey("carl")]),
            st.integers(0, 3),
            st.sampled_from(["a", "b", "a+b", "b+c", "c"]),
            st.booleans(),
            st.booleans(),
        ),
        max_size=30,
    )
)
def test_whatever_comes_no_card_has_two_agents(
    steps: list[tuple[ToyKey, int, str, bool, bool]],
) -> None:
    offers = Offers(BOUNDS)
    for seq, (key, number, device, is_shared, leaves) in enumerate(steps, 1):
        name = f"{key.name}-{number}"
        hardware = SHARED_HARDWARE if is_shared else CARD
        offer = on_card(key, name, device, hardware=hardware, seq=seq)
        try:
            if leaves:
                offers.withdraw(offer, sign("offer", offer, key))
            else:
                take(offers, offer, key)
        except (DeviceTaken, MarketFull):
            pass  # What must hold is said below.
        users: dict[str, set[tuple[str, bool]]] = {}
        for live in offers:
            for one in live.offer.device.split("+"):
                is_card = live.offer.hardware != SHARED_HARDWARE
                users.setdefault(one, set()).add((live.offer.miner, is_card))
        for found in users.values():
            assert len({miner for miner, _ in found}) == 1 or not any(card for _, card in found)
        assert len(offers._devices) == len(users)
