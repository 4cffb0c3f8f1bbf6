"""What the market asks of an offer, and what it writes down about it."""

from dataclasses import replace

import pytest
from tests.makers import MANIFEST, PRICE, ToyKey, toy_verify
from tests.market_makers import ANNA, offer_of

from penstock.market.errors import BadOffer
from penstock.market.policy import (
    DEVICE_CHARS_MAX,
    HARDWARE_CHARS_MAX,
    UNPROVEN,
    check_terms,
    offer_key,
    owner_of,
    written_hardware,
)
from penstock.spec.keys import Delegation, Role, Signed, sign
from penstock.spec.messages import Offer, Tier
from penstock.spec.params import LOCAL

BOSS = ToyKey("boss")
VERIFIED = {(ANNA.identity, "device-of-anna"): "nvidia-h100"}
LONGEST = LOCAL.offer_ttl_ms + LOCAL.clock_skew_max_ms


def check(offer: Offer, proven: dict[tuple[str, str], str] | None = None) -> None:
    check_terms(offer, MANIFEST, params=LOCAL, proven=proven or {}, now_ms=0)


def test_an_ordinary_offer_is_accepted_up_to_the_longest_life() -> None:
    check(offer_of())
    check(offer_of(valid_until_ms=LONGEST))


@pytest.mark.parametrize(
    ("offer", "reason"),
    [
        (offer_of(price=replace(PRICE, completion=PRICE.completion + 1)), "price_max"),
        (offer_of(valid_until_ms=LONGEST + 1), "valid for at most"),
        (offer_of(device=""), "device"),
        (offer_of(device="d" * (DEVICE_CHARS_MAX + 1)), "device"),
        (offer_of(hardware=""), "hardware"),
        (offer_of(hardware="h" * (HARDWARE_CHARS_MAX + 1)), "hardware"),
        (offer_of(tier=Tier.ATTESTED), "not verified"),
    ],
)
def test_an_offer_beyond_the_terms_is_refused_with_the_reason(offer: Offer, reason: str) -> None:
    with pytest.raises(BadOffer, match=reason):
        check(offer)


def test_a_tier_above_open_needs_a_device_that_the_operator_verified() -> None:
    check(offer_of(tier=Tier.MEASURED), VERIFIED)
    with pytest.raises(BadOffer):
        check(offer_of(tier=Tier.MEASURED, device="another"), VERIFIED)


def test_dear_hardware_is_written_down_only_when_it_was_verified() -> None:
    assert written_hardware(offer_of(hardware="nvidia-b200"), {}) == UNPROVEN
    assert written_hardware(offer_of(hardware="nvidia-b200"), VERIFIED) == "nvidia-h100"
    assert written_hardware(offer_of(hardware="cpu"), {}) == "cpu"


@pytest.mark.parametrize("name", ["a..b", "a.", "a b"])
def test_a_name_that_no_key_can_hold_is_refused(name: str) -> None:
    assert offer_key("anna-1.x/2") == "offers.anna-1.x/2"
    with pytest.raises(BadOffer):
        offer_key(name)


def delegation(**changes: object) -> Signed:
    said = Delegation(owner=BOSS.identity, key=ANNA.identity, role=Role.MINER, not_after_ms=50)
    return sign("delegation", replace(said, **changes), BOSS)  # type: ignore[arg-type]


def test_the_owner_is_who_delegated_to_the_key_or_the_key_itself() -> None:
    assert owner_of(offer_of(), None, now_ms=0, verify=toy_verify) == ANNA.identity
    assert owner_of(offer_of(), delegation(), now_ms=50, verify=toy_verify) == BOSS.identity


@pytest.mark.parametrize(
    ("changes", "now_ms"),
    [({}, 51), ({"key": BOSS.identity}, 0), ({"role": Role.GATEWAY}, 0), ({"owner": "toy:x"}, 0)],
)
def test_a_delegation_that_does_not_hold_for_this_key_is_refused(
    changes: dict[str, object], now_ms: int
) -> None:
    with pytest.raises(BadOffer, match="delegation"):
        owner_of(offer_of(), delegation(**changes), now_ms=now_ms, verify=toy_verify)
