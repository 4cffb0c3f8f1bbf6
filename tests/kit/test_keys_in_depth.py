"""Signatures an attacker might try: second spellings, wrong lengths, keys that sign for anybody."""

import hashlib

import pytest
from coincurve import PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from penstock.kit.keys import (
    ED25519_P,
    SECP256K1_S_MAX,
    Ed25519Key,
    Eip155Key,
    Sr25519Key,
    is_identity,
    personal_digest,
    verify,
    verify_raw,
)

ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493
SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
DIGEST = hashlib.sha256(b"an order").digest()
SEEDS = st.binary(min_size=32, max_size=32).filter(
    lambda seed: 0 < int.from_bytes(seed, "big") < SECP256K1_ORDER
)
DIGESTS = st.binary(min_size=32, max_size=32)
Key = Ed25519Key | Sr25519Key | Eip155Key
every_scheme = pytest.mark.parametrize("scheme", [Ed25519Key, Sr25519Key, Eip155Key])


@every_scheme
@given(SEEDS, DIGESTS, DIGESTS)
def test_every_key_signs_every_digest_and_no_other(
    scheme: type[Key], seed: bytes, digest: bytes, other: bytes
) -> None:
    key = scheme(seed)
    signature = key.sign(digest)
    assert verify(key.identity, digest, signature)
    assert verify(key.identity, other, signature) is (digest == other)


@every_scheme
@given(SEEDS, st.integers(0, 129), st.sampled_from("0123456789abcdefABCDEFg \n"))
def test_no_other_character_anywhere_is_accepted(
    scheme: type[Key], seed: bytes, place: int, character: str
) -> None:
    key = scheme(seed)
    signature = key.sign(DIGEST)
    place %= len(signature)
    changed = signature[:place] + character + signature[place + 1 :]
    assert verify(key.identity, DIGEST, changed) is (changed == signature)


@every_scheme
@pytest.mark.parametrize("cut", [1, 2, 64])
def test_shorter_and_longer_signatures_are_refused(scheme: type[Key], cut: int) -> None:
    key = scheme(b"\5" * 32)
    signature = key.sign(DIGEST)
    for changed in (
        signature[:-cut],
        signature[cut:],
        signature + "0" * cut,
        "0" * cut + signature,
    ):
        assert not verify(key.identity, DIGEST, changed)


@every_scheme
@pytest.mark.parametrize("size", [0, 1, 31, 33, 64])
def test_digests_of_another_length_are_never_signed(scheme: type[Key], size: int) -> None:
    with pytest.raises(AssertionError):
        scheme(b"\5" * 32).sign(bytes(size))


@every_scheme
@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_seeds_of_another_length_make_no_key(scheme: type[Key], size: int) -> None:
    with pytest.raises(AssertionError):
        scheme(b"\5" * size)


@every_scheme
def test_identities_of_another_length_verify_nothing(scheme: type[Key]) -> None:
    key = scheme(b"\5" * 32)
    signature = key.sign(DIGEST)
    for identity in (key.identity[:-2], key.identity + "00", key.identity + ":", key.identity[:-1]):
        assert not is_identity(identity)
        assert not verify(identity, DIGEST, signature)


def test_an_ed25519_signature_has_no_second_s() -> None:
    """RFC 8032 5.1.7: s + order is the same to careless verifiers."""
    key = Ed25519Key(b"\5" * 32)
    signature = bytes.fromhex(key.sign(DIGEST))
    s = int.from_bytes(signature[32:], "little")
    for again in range(1, 15):
        larger = s + again * ED25519_ORDER
        if larger < 2**256:
            forged = signature[:32] + larger.to_bytes(32, "little")
            assert not verify(key.identity, DIGEST, forged.hex())


def test_an_ed25519_key_has_no_second_spelling() -> None:
    """A y beyond the prime would be another identity for the same key."""
    found = 0
    for small in range(2, 19):
        spelled = (small + ED25519_P).to_bytes(32, "little").hex()
        for signature in ("00" * 64, "01" + "00" * 63):
            assert not verify(f"ed25519:{spelled}", DIGEST, signature)
            found += 1
    assert found == 34


def test_an_evm_signature_with_the_larger_s_is_refused_and_the_smaller_holds() -> None:
    for number in range(1, 20):
        key = Eip155Key(bytes([number]) * 32)
        signature = bytes.fromhex(key.sign(DIGEST))
        s = int.from_bytes(signature[32:64], "big")
        assert s <= SECP256K1_S_MAX
        mirrored = SECP256K1_ORDER - s
        for v in (27, 28):
            forged = signature[:32] + mirrored.to_bytes(32, "big") + bytes([v])
            assert not verify(key.identity, DIGEST, forged.hex())


@pytest.mark.parametrize("v", [0, 1, 2, 26, 29, 30, 35, 37, 38, 255])
def test_an_evm_recovery_number_has_one_spelling(v: int) -> None:
    key = Eip155Key(b"\5" * 32)
    signature = bytes.fromhex(key.sign(DIGEST))
    assert not verify(key.identity, DIGEST, (signature[:-1] + bytes([v])).hex())


@pytest.mark.parametrize(("r", "s"), [(0, 1), (1, 0), (0, 0), (SECP256K1_ORDER, 1)])
def test_an_evm_signature_of_impossible_numbers_is_refused(r: int, s: int) -> None:
    forged = r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([27])
    assert not verify(Eip155Key(b"\5" * 32).identity, DIGEST, forged.hex())


def test_an_evm_signature_over_the_bare_digest_does_not_count() -> None:
    """Only what a wallet shows its owner as a text may bind it."""
    seed = b"\5" * 32
    key = Eip155Key(seed)
    raw = PrivateKey(seed).sign_recoverable(DIGEST, hasher=None)
    assert not verify(key.identity, DIGEST, (raw[:-1] + bytes([raw[-1] + 27])).hex())
    shown = PrivateKey(seed).sign_recoverable(personal_digest(DIGEST.hex().encode()), hasher=None)
    assert verify(key.identity, DIGEST, (shown[:-1] + bytes([shown[-1] + 27])).hex())


def test_an_sr25519_key_of_zeros_signs_for_nobody() -> None:
    assert not verify("sr25519:" + "00" * 32, DIGEST, "00" * 64)
    assert not verify("sr25519:" + "00" * 32, DIGEST, "00" * 63 + "80")


def test_sr25519_signatures_differ_each_time_and_all_hold() -> None:
    key = Sr25519Key(b"\5" * 32)
    signatures = {key.sign(DIGEST) for _ in range(5)}
    assert len(signatures) == 5
    assert all(verify(key.identity, DIGEST, one) for one in signatures)


@given(st.binary(max_size=100), st.binary(max_size=40), st.binary(max_size=70))
def test_a_raw_verification_answers_false_to_nonsense(
    message: bytes, public: bytes, signature: bytes
) -> None:
    assert not verify_raw(public, message, signature)


def test_a_signature_over_a_note_is_none_over_a_digest() -> None:
    key = Ed25519Key(b"\5" * 32)
    note = b"log.example\n5\nabc\n"
    signature = key.sign_raw(note)
    assert verify_raw(key.public_key, note, signature)
    assert not verify_raw(key.public_key, note + b"\n", signature)
    assert not verify(key.identity, hashlib.sha256(note).digest(), signature.hex())
    with pytest.raises(AssertionError, match="digests go to sign"):
        key.sign_raw(DIGEST)


def test_a_key_does_not_show_its_seed() -> None:
    seed = b"\xab" * 32
    for key in (Ed25519Key(seed), Sr25519Key(seed), Eip155Key(seed)):
        assert seed.hex() not in repr(key) + str(key) + key.identity
