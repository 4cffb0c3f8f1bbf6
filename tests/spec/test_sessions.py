"""Sessions: what a gateway and a miner sign before they agree on a key, and what each side refuses."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from tests.makers import GATEWAY, MINER, OWNER, toy_verify

from penstock.spec.errors import BadMessage, BadSignature, Expired, NotCanonical, SpecError
from penstock.spec.keys import Signed, sign, signed_digest
from penstock.spec.sessions import (
    ANSWER_KIND,
    OFFER_KIND,
    SESSION_MS_MAX,
    SessionAnswer,
    SessionOffer,
    check_session_answer,
    check_session_offer,
    is_session_id,
    session_salt,
)

NOW_MS = 10_000
OFFER = SessionOffer(
    session_id="s-" + "0a" * 16,
    gateway=GATEWAY.identity,
    miner=MINER.identity,
    exchange_key="ab" * 32,
    issued_ms=NOW_MS,
    expires_ms=NOW_MS + 3_600_000,
)


def offered(key: Any = GATEWAY, **changes: Any) -> Signed:
    return sign(OFFER_KIND, replace(OFFER, **changes), key)


def check_offer(signed: Signed, *, now_ms: int = NOW_MS) -> SessionOffer:
    return check_session_offer(
        signed, miner=MINER.identity, now_ms=now_ms, skew_max_ms=100, verify=toy_verify
    )


def answered(key: Any = MINER, **changes: Any) -> Signed:
    answer = SessionAnswer(
        session_id=OFFER.session_id,
        offer_digest=signed_digest(offered()),
        miner=MINER.identity,
        exchange_key="cd" * 32,
        expires_ms=OFFER.expires_ms,
    )
    return sign(ANSWER_KIND, replace(answer, **changes), key)


def check_answer(signed: Signed) -> SessionAnswer:
    digest = signed_digest(offered())
    return check_session_answer(signed, OFFER, offer_digest=digest, verify=toy_verify)


def test_an_honest_offer_and_answer_are_taken() -> None:
    assert check_offer(offered()) == OFFER
    assert check_answer(answered()).exchange_key == "cd" * 32


def test_an_offer_holds_in_its_last_millisecond_and_not_after() -> None:
    check_offer(offered(), now_ms=OFFER.expires_ms)
    with pytest.raises(Expired):
        check_offer(offered(), now_ms=OFFER.expires_ms + 1)


def test_an_offer_may_be_a_little_ahead_of_the_clock() -> None:
    check_offer(offered(), now_ms=NOW_MS - 100)
    with pytest.raises(BadMessage):
        check_offer(offered(), now_ms=NOW_MS - 101)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"miner": OWNER.identity}, BadMessage),
        ({"gateway": OWNER.identity}, BadMessage),
        ({"session_id": "s-1"}, BadMessage),
        ({"session_id": "o-" + "0a" * 16}, BadMessage),
        ({"exchange_key": "AB" * 32}, BadMessage),
        ({"exchange_key": "ab" * 31}, BadMessage),
        ({"expires_ms": NOW_MS}, BadMessage),
        ({"expires_ms": NOW_MS + SESSION_MS_MAX + 1}, BadMessage),
        ({"expires_ms": 1.5}, NotCanonical),
    ],
)
def test_an_offer_out_of_bounds_is_refused(changes: dict[str, Any], error: type[SpecError]) -> None:
    with pytest.raises(error):
        check_offer(offered(**changes))


def test_an_offer_of_the_longest_session_is_taken() -> None:
    assert check_offer(offered(expires_ms=NOW_MS + SESSION_MS_MAX)).expires_ms


@pytest.mark.parametrize(
    "changes",
    [
        {"miner": GATEWAY.identity},
        {"session_id": "s-" + "0b" * 16},
        {"offer_digest": "00" * 32},
        {"exchange_key": ""},
        {"exchange_key": "g" * 64},
        {"expires_ms": OFFER.expires_ms + 1},
        {"expires_ms": OFFER.issued_ms},
    ],
)
def test_an_answer_to_anything_else_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadMessage):
        check_answer(answered(**changes))


def test_a_miner_may_end_the_session_earlier() -> None:
    assert check_answer(answered(expires_ms=NOW_MS + 1)).expires_ms == NOW_MS + 1


def test_neither_side_can_be_played_by_another_key() -> None:
    with pytest.raises(BadMessage):
        check_offer(offered(OWNER))
    with pytest.raises(BadMessage):
        check_answer(answered(GATEWAY))


def test_an_answer_is_no_offer_and_a_changed_body_is_not_signed() -> None:
    with pytest.raises(BadSignature):
        check_offer(answered())
    signed = offered()
    with pytest.raises(BadSignature):
        check_offer(replace(signed, body={**signed.body, "exchange_key": "cd" * 32}))


@pytest.mark.parametrize(
    "text",
    ["", "s-", "s-" + "0A" * 16, "s-" + "0a" * 17, "s-" + "0a" * 16 + "\n", "S-" + "0a" * 16],
)
def test_other_texts_are_no_session_ids(text: str) -> None:
    assert is_session_id(OFFER.session_id)
    assert not is_session_id(text)


def test_the_salt_covers_both_sides_in_their_order() -> None:
    assert session_salt("aa", "bb") == hashlib.sha256(b"aabb").digest()
    assert session_salt("aa", "bb") != session_salt("bb", "aa")
