"""Sessions: offers, answers, the key that both sides derive, and the MACs made with it."""

from dataclasses import replace
from typing import Any

from penstock.kit.handshake import new_exchange, order_mac, receipt_mac, seals_mac, session_key
from penstock.kit.keys import Ed25519Key, verify
from penstock.spec.canon import from_plain, to_plain
from penstock.spec.keys import parse_signed, sign, signed_digest
from penstock.spec.sessions import (
    ANSWER_KIND,
    OFFER_KIND,
    SESSION_MS_MAX,
    SessionAnswer,
    SessionOffer,
    check_session_answer,
    check_session_offer,
    session_salt,
)

GATEWAY, MINER = Ed25519Key(b"g" * 32), Ed25519Key(b"m" * 32)
OURS, THEIRS = b"\1" * 32, b"\2" * 32
OFFER = SessionOffer(
    session_id="s-" + "0a" * 16,
    gateway=GATEWAY.identity,
    miner=MINER.identity,
    exchange_key=new_exchange(lambda _: OURS).public_hex,
    issued_ms=1_000,
    expires_ms=61_000,
)
OFFER_DIGEST = signed_digest(sign(OFFER_KIND, OFFER, GATEWAY))
ANSWER = SessionAnswer(
    session_id=OFFER.session_id,
    offer_digest=OFFER_DIGEST,
    miner=MINER.identity,
    exchange_key=new_exchange(lambda _: THEIRS).public_hex,
    expires_ms=61_000,
)
ANSWER_DIGEST = signed_digest(sign(ANSWER_KIND, ANSWER, MINER))


def run_offer(given: Any) -> Any:
    signed = parse_signed(given["signed"])
    found = check_session_offer(
        signed, miner=given["miner"], now_ms=given["now_ms"], skew_max_ms=100, verify=verify
    )
    return to_plain(found)


def run_answer(given: Any) -> Any:
    signed, offer = parse_signed(given["signed"]), from_plain(SessionOffer, given["offer"])
    found = check_session_answer(signed, offer, offer_digest=given["offer_digest"], verify=verify)
    return to_plain(found)


def run_salt(given: Any) -> str:
    return session_salt(given["offer_digest"], given["answer_digest"]).hex()


def run_key(given: Any) -> str:
    own = new_exchange(lambda _: bytes.fromhex(given["private"]))
    key = session_key(
        own,
        given["peer"],
        offer_digest=given["offer_digest"],
        answer_digest=given["answer_digest"],
    )
    return key.hex()


def run_macs(given: Any) -> Any:
    key, covered = bytes.fromhex(given["key"]), bytes.fromhex(given["digest"])
    return {
        "order": order_mac(key, covered),
        "receipt": receipt_mac(key, covered),
        "seals": seals_mac(key, given["seals_body"].encode()),
    }


def offered(key: Ed25519Key = GATEWAY, *, now_ms: int = 1_000, **changes: Any) -> Any:
    signed = sign(OFFER_KIND, replace(OFFER, **changes), key)
    return {"signed": to_plain(signed), "miner": MINER.identity, "now_ms": now_ms}


def answered(key: Ed25519Key = MINER, **changes: Any) -> Any:
    signed = sign(ANSWER_KIND, replace(ANSWER, **changes), key)
    return {"signed": to_plain(signed), "offer": to_plain(OFFER), "offer_digest": OFFER_DIGEST}


def side(private: bytes, peer: str) -> Any:
    digests = {"offer_digest": OFFER_DIGEST, "answer_digest": ANSWER_DIGEST}
    return {"private": private.hex(), "peer": peer, **digests}


FUNCTIONS = {
    "check_session_offer": (
        run_offer,
        {
            "honest": offered(),
            "in_its_last_millisecond": offered(now_ms=61_000),
            "over": offered(now_ms=61_001),
            "from_the_future": offered(now_ms=899),
            "not_by_its_gateway": offered(MINER),
            "to_another_miner": offered(miner=GATEWAY.identity),
            "too_long": offered(expires_ms=1_001 + SESSION_MS_MAX),
            "bad_session_id": offered(session_id="s-0A"),
            "bad_exchange_key": offered(exchange_key="00"),
        },
    ),
    "check_session_answer": (
        run_answer,
        {
            "honest": answered(),
            "that_ends_earlier": answered(expires_ms=2_000),
            "that_ends_later": answered(expires_ms=61_001),
            "not_by_its_miner": answered(GATEWAY),
            "to_another_offer": answered(offer_digest="00" * 32),
            "of_another_session": answered(session_id="s-" + "0b" * 16),
        },
    ),
    "session_salt": (
        run_salt,
        {"of_both": {"offer_digest": OFFER_DIGEST, "answer_digest": ANSWER_DIGEST}},
    ),
    "session_key": (
        run_key,
        {
            "as_the_gateway": side(OURS, ANSWER.exchange_key),
            "as_the_miner": side(THEIRS, OFFER.exchange_key),
            "a_point_of_low_order": side(OURS, "00" * 32),
            "no_point": side(OURS, "ab"),
        },
    ),
    "macs": (
        run_macs,
        {"one_digest": {"key": "01" * 32, "digest": "02" * 32, "seals_body": "{}"}},
    ),
}
