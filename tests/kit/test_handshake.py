"""The key of a session: both sides get the same one, nobody else does, and MACs are bound to it."""

import hashlib
import hmac
import random
from itertools import combinations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.kit.handshake import (
    Exchange,
    Macs,
    is_same,
    new_exchange,
    new_session_id,
    order_mac,
    parse_session_header,
    receipt_mac,
    seals_mac,
    session_header,
    session_key,
    split_vouched,
    vouch,
)
from penstock.spec.errors import BadMessage
from penstock.spec.sessions import is_session_id

OFFER, ANSWER = "aa" * 32, "bb" * 32
KEY, OTHER_KEY = bytes(32), bytes([1]) * 32
DIGEST = bytes(range(32))
SESSION = "s-" + "0a" * 16


def exchange(seed: int) -> Exchange:
    return new_exchange(random.Random(seed).randbytes)


def agreed(own: Exchange, peer: Exchange, *, offer: str = OFFER, answer: str = ANSWER) -> bytes:
    return session_key(own, peer.public_hex, offer_digest=offer, answer_digest=answer)


@given(st.integers(), st.integers())
def test_both_sides_agree(one: int, other: int) -> None:
    gateway, miner = exchange(one), exchange(other)
    assert agreed(gateway, miner) == agreed(miner, gateway)
    assert len(agreed(gateway, miner)) == 32


def test_every_session_has_a_key_of_its_own() -> None:
    """Another peer, another offer, another answer: what was signed is part of the key."""
    gateway, miner, stranger = exchange(1), exchange(2), exchange(3)
    keys = [
        agreed(gateway, miner),
        agreed(gateway, stranger),
        agreed(stranger, miner),
        agreed(gateway, miner, offer="ab" * 32),
        agreed(gateway, miner, answer="ab" * 32),
        agreed(gateway, miner, offer=ANSWER, answer=OFFER),
    ]
    assert len(set(keys)) == len(keys)


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 for one block, written out."""
    extracted = hmac.digest(salt, secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def test_the_key_is_rfc_5869_over_the_secret_of_rfc_7748() -> None:
    """RFC 7748, section 6.1: Bob's private key, Alice's public one, and their secret."""
    bob = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    alice = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    secret = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    own = new_exchange(lambda count: bob[:count])
    salt = hashlib.sha256((OFFER + ANSWER).encode()).digest()
    key = session_key(own, alice, offer_digest=OFFER, answer_digest=ANSWER)
    assert key == hkdf(secret, salt, b"penstock/session/v1")


LOW_ORDER = [
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


@pytest.mark.parametrize("public", [*LOW_ORDER, "", "ab", "zz" * 32, "ab" * 33])
def test_a_public_key_that_gives_everybody_the_same_secret_is_refused(public: str) -> None:
    """Points of low order (RFC 7748, section 6.1), and what is no key at all."""
    with pytest.raises(BadMessage):
        session_key(exchange(1), public, offer_digest=OFFER, answer_digest=ANSWER)


def test_the_private_half_does_not_show() -> None:
    own = exchange(1)
    assert repr(own) == f"Exchange(public_hex={own.public_hex!r})"


def test_a_mac_is_of_one_key_one_message_and_one_kind() -> None:
    macs = [
        order_mac(KEY, DIGEST),
        order_mac(OTHER_KEY, DIGEST),
        order_mac(KEY, DIGEST[::-1]),
        receipt_mac(KEY, DIGEST),
        seals_mac(KEY, DIGEST),
        seals_mac(KEY, b""),
    ]
    assert all(len(mac) == 64 for mac in macs)
    assert not any(is_same(one, other) for one, other in combinations(macs, 2))


def test_the_macs_are_hmac_sha256_over_a_prefix() -> None:
    assert order_mac(KEY, DIGEST) == hmac.new(KEY, b"order\0" + DIGEST, "sha256").hexdigest()
    assert receipt_mac(KEY, DIGEST) == hmac.new(KEY, b"receipt\0" + DIGEST, "sha256").hexdigest()
    covered = b"seals\0" + hashlib.sha256(b"rest").digest()
    assert seals_mac(KEY, b"rest") == hmac.new(KEY, covered, "sha256").hexdigest()


@given(st.text(max_size=80))
def test_comparing_macs_takes_any_text(text: str) -> None:
    mac = order_mac(KEY, DIGEST)
    assert is_same(mac, mac)
    assert is_same(text, mac) is (text == mac)


def test_a_session_header_is_read_as_it_was_written() -> None:
    session_id, mac = new_session_id(random.Random(1).randbytes), order_mac(KEY, DIGEST)
    assert is_session_id(session_id)
    assert parse_session_header(session_header(session_id, mac)) == (session_id, mac)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        SESSION,
        SESSION + ".",
        f"{SESSION}.{'0' * 63}",
        f"{SESSION}.{'0' * 64}0",
        f"{SESSION}.{'A' * 64}",
        f"{SESSION}.{'0' * 64}\n",
        f"s-{'0A' * 16}.{'0' * 64}",
        f" {SESSION}.{'0' * 64}",
    ],
)
def test_any_other_session_header_is_none(text: str) -> None:
    assert parse_session_header(text) is None


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=20) | st.integers(), max_size=4))
def test_a_vouched_message_is_json_and_is_cut_as_it_was_joined(body: dict[str, object]) -> None:
    data, mac = msgspec.json.encode(body), receipt_mac(KEY, DIGEST)
    assert split_vouched(vouch(data, mac)) == (data, mac)
    assert msgspec.json.decode(vouch(data, mac)) == {"body": body, "mac": mac}


@given(st.binary(max_size=120))
def test_bytes_that_are_no_vouched_message_are_none(data: bytes) -> None:
    assert split_vouched(data) is None
    assert split_vouched(vouch(b"{}", receipt_mac(KEY, DIGEST)) + data + b" ") is None


@pytest.mark.parametrize("place", range(len(vouch(b"{}", "0" * 64))))
def test_a_changed_byte_of_the_frame_is_seen(place: int) -> None:
    good = vouch(b"{}", "0" * 64)
    forged = bytearray(good)
    forged[place] ^= 0x80
    found = split_vouched(bytes(forged))
    assert found is None or found[0] == bytes(forged[8:10])


def test_a_vouched_message_without_a_body_is_none() -> None:
    assert split_vouched(vouch(b"", "0" * 64)) is None


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_the_macs_of_a_session_are_those_of_its_key(key: bytes, covered: bytes) -> None:
    macs = Macs(key)
    for _ in range(2):  # what is hashed once is not used up
        assert macs.order(covered) == order_mac(key, covered)
        assert macs.receipt(covered) == receipt_mac(key, covered)


def test_a_mac_that_is_no_ascii_is_another() -> None:
    assert not is_same("\u00e9" * 64, order_mac(KEY, DIGEST))
