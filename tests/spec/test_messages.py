"""Manifests, offers and orders: valid ones pass, each rule refuses."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from tests.makers import GATEWAY, MANIFEST, MINER, PRICE, make_offer, make_order, toy_verify

from penstock.spec.errors import BadMessage, BadSignature, Expired, SpecError
from penstock.spec.keys import sign
from penstock.spec.messages import (
    PRICE_NANO_MAX,
    ROOM_MAX,
    TOKENS_MAX,
    UNITS_MAX,
    Limits,
    check_manifest,
    check_offer,
    check_order,
    chute_id,
    is_name,
)
from penstock.spec.params import LOCAL, MAINNET, NETWORKS, params_digest
from penstock.spec.pricing import charge_ceiling
from penstock.spec.units import CHARGE_NANO_MAX, Price

BODY = hashlib.sha256(b"{}").hexdigest()


def test_a_manifest_is_named_by_its_content() -> None:
    check_manifest(MANIFEST)
    assert chute_id(MANIFEST).startswith("sha256:")
    assert chute_id(replace(MANIFEST, name="other")) != chute_id(MANIFEST)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Tiny"},
        {"name": ""},
        {"name": "-x"},
        {"name": "x" * 65},
        {"owner": "me"},
        {"limits": Limits(0, 1, 1)},
        {"limits": Limits(TOKENS_MAX + 1, 1, 1)},
        {"limits": Limits(1, TOKENS_MAX + 1, 1)},
        {"limits": Limits(1, 1, ROOM_MAX + 1)},
        {"instances_max": ROOM_MAX + 1},
        {"instances_min": 2, "instances_max": 1},
        {"instances_min": -1},
        {"price_max": replace(PRICE, prompt=-1)},
        {"price_max": replace(PRICE, request=PRICE_NANO_MAX + 1)},
    ],
)
def test_a_manifest_that_cannot_be_served_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        check_manifest(replace(MANIFEST, **changes))


def test_names_are_lower_case_words() -> None:
    assert is_name("qwen/qwen3-8b.gguf_q4")
    assert not is_name("a b")


def test_an_offer_holds_until_its_last_millisecond() -> None:
    assert check_offer(make_offer(), now_ms=5_000, skew_max_ms=0, verify=toy_verify).room == 4
    with pytest.raises(Expired):
        check_offer(make_offer(), now_ms=5_001, skew_max_ms=0, verify=toy_verify)


def test_an_offer_from_the_future_is_refused_beyond_the_skew() -> None:
    check_offer(make_offer(), now_ms=900, skew_max_ms=100, verify=toy_verify)
    with pytest.raises(BadMessage):
        check_offer(make_offer(), now_ms=899, skew_max_ms=100, verify=toy_verify)


@pytest.mark.parametrize(
    "changes",
    [
        {"miner": GATEWAY.identity},
        {"instance": "Bad Name"},
        {"chute": "tiny-chat"},
        {"room": -1},
        {"room": ROOM_MAX + 1},
        {"endpoint": "x" * 300},
        {"price": replace(PRICE, completion=-5)},
    ],
)
def test_an_offer_out_of_bounds_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadMessage):
        check_offer(make_offer(**changes), now_ms=1_000, skew_max_ms=0, verify=toy_verify)


def test_a_forged_offer_is_refused() -> None:
    forged = replace(make_offer(), signature="00")
    with pytest.raises(BadSignature):
        check_offer(forged, now_ms=1_000, skew_max_ms=0, verify=toy_verify)


def test_an_order_is_for_these_bytes_until_its_deadline() -> None:
    signed = sign("order", make_order(), GATEWAY)
    assert check_order(signed, body_digest=BODY, now_ms=61_000, verify=toy_verify) == make_order()
    with pytest.raises(Expired):
        check_order(signed, body_digest=BODY, now_ms=61_001, verify=toy_verify)
    with pytest.raises(BadMessage):
        check_order(signed, body_digest="00", now_ms=2_000, verify=toy_verify)


@pytest.mark.parametrize(
    "changes",
    [
        {"gateway": MINER.identity},
        {"charge_max": CHARGE_NANO_MAX + 1},
        {"charge_max": -1},
        {"price": replace(PRICE, request=-1)},
        {"prompt_max": UNITS_MAX + 1},
        {"completion_max": UNITS_MAX + 1},
        {"images_max": UNITS_MAX + 1},
        {"images_max": -1},
        {"audio_ms_max": UNITS_MAX + 1},
        {"audio_ms_max": -1},
    ],
)
def test_an_order_out_of_bounds_is_refused(changes: dict[str, Any]) -> None:
    signed = sign("order", make_order(**changes), GATEWAY)
    with pytest.raises(BadMessage):
        check_order(signed, body_digest=BODY, now_ms=2_000, verify=toy_verify)


def test_every_order_that_a_lawful_manifest_leads_to_can_be_spelled() -> None:
    dearest = Price(*[PRICE_NANO_MAX] * 6)
    most = {"images_max": UNITS_MAX, "audio_ms_max": UNITS_MAX, "completion_max": 128 * TOKENS_MAX}
    ceiling = charge_ceiling(dearest, prompt_max=UNITS_MAX, **most)
    order = make_order(price=dearest, charge_max=ceiling, **most)
    signed = sign("order", order, GATEWAY)
    assert check_order(signed, body_digest=BODY, now_ms=2_000, verify=toy_verify) == order


def test_the_two_networks_have_their_own_numbers() -> None:
    assert set(NETWORKS) == {"mainnet", "local"}
    assert (LOCAL.epoch_ms, LOCAL.window_epochs) == (60_000, 10)
    assert (MAINNET.epoch_ms, MAINNET.window_epochs) == (3_600_000, 168)
    assert params_digest(LOCAL) != params_digest(MAINNET)
