"""Signatures under three schemes, against published vectors where we know one."""

import hashlib
from random import Random

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from penstock.kit.keys import (
    ED25519_P,
    ED25519_Y_REFUSED,
    Ed25519Key,
    Eip155Key,
    KnownRoots,
    Sr25519Key,
    is_identity,
    keccak256,
    personal_digest,
    verify,
    verify_single,
)
from penstock.kit.ports import Sign
from penstock.spec.seals import seal_digest, seal_root, seal_signatures, sealed_verify

AnyKey = type[Ed25519Key] | type[Sr25519Key] | type[Eip155Key]
SCHEMES: list[AnyKey] = [Ed25519Key, Sr25519Key, Eip155Key]
DIGEST = hashlib.sha256(b"an order").digest()
SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def key_of(scheme: AnyKey, seed: int = 1) -> Sign:
    return scheme.generate(Random(seed).randbytes)


@pytest.mark.parametrize("scheme", SCHEMES)
class TestEveryScheme:
    def test_a_signature_holds(self, scheme: AnyKey) -> None:
        key = key_of(scheme)
        assert verify(key.identity, DIGEST, key.sign(DIGEST))

    def test_it_holds_for_nothing_and_nobody_else(self, scheme: AnyKey) -> None:
        key, other = key_of(scheme, 1), key_of(scheme, 2)
        signature = key.sign(DIGEST)
        assert not verify(key.identity, hashlib.sha256(b"another").digest(), signature)
        assert not verify(other.identity, DIGEST, signature)

    def test_changing_any_digit_of_the_signature_breaks_it(self, scheme: AnyKey) -> None:
        key = key_of(scheme)
        signature = key.sign(DIGEST)
        for position in range(len(signature)):
            digit = "0" if signature[position] != "0" else "1"
            changed = signature[:position] + digit + signature[position + 1 :]
            assert not verify(key.identity, DIGEST, changed)

    def test_there_is_one_spelling(self, scheme: AnyKey) -> None:
        key = key_of(scheme)
        signature = key.sign(DIGEST)
        name, public = key.identity.split(":")
        assert not verify(f"{name}:{public.upper()}", DIGEST, signature)
        assert not verify(f"{name}:0x{public}", DIGEST, signature)
        assert not verify(key.identity, DIGEST, signature.upper())
        assert not verify(key.identity, DIGEST, "0x" + signature)
        assert not verify(key.identity, DIGEST, signature + "00")
        assert not verify(key.identity, DIGEST, signature + "\n")

    def test_the_identity_says_its_scheme(self, scheme: AnyKey) -> None:
        identity = key_of(scheme).identity
        assert identity.startswith(scheme.scheme + ":")
        assert is_identity(identity)
        assert not is_identity(identity[:-1])

    def test_the_same_seed_gives_the_same_key(self, scheme: AnyKey) -> None:
        assert key_of(scheme).identity == key_of(scheme).identity
        assert key_of(scheme).identity != key_of(scheme, 2).identity

    def test_only_digests_of_32_bytes_are_signed_or_hold(self, scheme: AnyKey) -> None:
        key = key_of(scheme)
        with pytest.raises(AssertionError):
            key.sign(b"a message")
        assert not verify(key.identity, DIGEST + b"0", key.sign(DIGEST))

    def test_a_signature_of_one_scheme_is_none_of_another(self, scheme: AnyKey) -> None:
        signature = key_of(scheme).sign(DIGEST)
        for other in SCHEMES:
            if other is not scheme:
                assert not verify(key_of(other).identity, DIGEST, signature)


@given(st.text(max_size=80), st.binary(max_size=40), st.text(max_size=140))
def test_verify_answers_false_to_nonsense(identity: str, digest: bytes, signature: str) -> None:
    assert not verify(identity, digest, signature)


@pytest.mark.parametrize("scheme", ["ed25519", "sr25519", "eip155"])
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=65, max_size=65))
def test_verify_answers_false_to_well_formed_nonsense(
    scheme: str, public: bytes, signature: bytes
) -> None:
    length, size = (40, 65) if scheme == "eip155" else (64, 64)
    assert not verify(f"{scheme}:{public.hex()[:length]}", DIGEST, signature[:size].hex())


IDENTITY_POINT = (1).to_bytes(32, "little")
SMALL_ORDER_KEYS = [
    (y | sign << 255).to_bytes(32, "little")
    for y in (*sorted(ED25519_Y_REFUSED), ED25519_P, ED25519_P + 1)
    for sign in (0, 1)
]


@pytest.mark.parametrize("public", SMALL_ORDER_KEYS, ids=bytes.hex)
def test_a_key_under_which_anybody_can_sign_is_refused(public: bytes) -> None:
    """R = the identity and s = 0 holds for about 1 of 8 digests under every such key."""
    forged = IDENTITY_POINT + bytes(32)
    digests = [hashlib.sha256(bytes([number])).digest() for number in range(200)]
    assert not any(verify(f"ed25519:{public.hex()}", digest, forged.hex()) for digest in digests)


def test_the_refused_keys_are_really_such_keys() -> None:
    """The library below us accepts a made-up signature for each canonical one of them."""
    forged = IDENTITY_POINT + bytes(32)
    digests = [hashlib.sha256(bytes([number])).digest() for number in range(200)]
    for y in ED25519_Y_REFUSED:
        public = Ed25519PublicKey.from_public_bytes(y.to_bytes(32, "little"))
        assert any(holds(public, forged, digest) for digest in digests)


def holds(public: Ed25519PublicKey, signature: bytes, digest: bytes) -> bool:
    try:
        public.verify(signature, digest)
    except InvalidSignature:
        return False
    return True


def test_the_third_vector_of_rfc_8032() -> None:
    """RFC 8032 section 7.1, test 3 (a message of two bytes), below our rule of 32-byte digests."""
    key = Ed25519Key(
        bytes.fromhex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7")
    )
    assert key.identity == (
        "ed25519:fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025"
    )
    signature = (
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
    )
    assert key._private.sign(bytes.fromhex("af82")).hex() == signature


def test_the_key_of_the_sha_abc_vector_of_rfc_8032() -> None:
    """RFC 8032 section 7.1, TEST SHA(abc): public key and signature over a 64-byte digest."""
    key = Ed25519Key(
        bytes.fromhex("833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42")
    )
    assert key.identity.endswith("ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf")
    signature = key._private.sign(hashlib.sha512(b"abc").digest()).hex()
    assert signature == (
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b589"
        "09351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704"
    )


def test_the_personal_sign_vector_of_web3() -> None:
    """The example of web3.js `accounts.sign('Some data', ...)` (EIP-191)."""
    key = Eip155Key(
        bytes.fromhex("4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318")
    )
    assert key.identity == "eip155:2c7536e3605d9c16a7a3d7b1898e529396a65c23"
    assert personal_digest(b"Some data").hex() == (
        "1da44b586eb0729ff70a73c326926f6ed5a25f5b056e7f47fbc6e58d86871655"
    )
    assert key.sign_text(b"Some data") == (
        "b91467e570a6466aa9e9876cbcd013baba02900b8979d43fe208a4a4f339f5fd"
        "6007e74cd82e037b800186422fc2da167c747ef045e5d18a5f5d4300f8e1a0291c"
    )


def test_keccak_is_the_one_of_ethereum() -> None:
    assert keccak256(b"").hex() == (
        "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    )


def test_the_other_half_of_an_evm_signature_does_not_count() -> None:
    """(r, n - s) with the other v is valid in plain ECDSA; EIP-2 forbids it."""
    key = key_of(Eip155Key)
    signature = bytes.fromhex(key.sign(DIGEST))
    mirrored_s = SECP256K1_ORDER - int.from_bytes(signature[32:64], "big")
    mirrored_v = 27 + 28 - signature[64]
    mirrored = signature[:32] + mirrored_s.to_bytes(32, "big") + bytes([mirrored_v])
    assert not verify(key.identity, DIGEST, mirrored.hex())


@pytest.mark.parametrize(
    "identity", ["", ":", "ed25519", "ed25519:", "rsa:00", "ED25519:" + "0" * 64]
)
def test_what_is_no_identity_is_known_as_such(identity: str) -> None:
    assert not is_identity(identity)


def sealed_by(key: Sign, digests: list[bytes]) -> tuple[str, ...]:
    return seal_signatures(digests, key.sign(seal_digest(seal_root(digests), len(digests))))


def some_digests(count: int, first: int = 0) -> list[bytes]:
    return [
        hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(first, first + count)
    ]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_seal_of_any_scheme_verifies(scheme: AnyKey) -> None:
    key = key_of(scheme)
    digests = some_digests(5)
    for one, signature in zip(digests, sealed_by(key, digests), strict=True):
        assert verify(key.identity, one, signature)
        assert verify(key.identity, one, signature), "from memory too"
        assert not verify(key.identity, DIGEST, signature)
        assert not verify_single(key.identity, one, signature)


def test_a_remembered_root_helps_no_other_key() -> None:
    digests = some_digests(3)
    signature = sealed_by(key_of(Ed25519Key), digests)[0]
    assert verify(key_of(Ed25519Key).identity, digests[0], signature)
    assert not verify(Ed25519Key(b"\7" * 32).identity, digests[0], signature)
    head, _, last = signature.rpartition(".")
    assert not verify(key_of(Ed25519Key).identity, digests[0], f"{head}.{last[::-1]}")


def test_the_memory_of_roots_is_bounded_and_keeps_the_latest() -> None:
    known = KnownRoots(roots_max=3)
    for number in range(100):
        known.add(number)
        assert number in known
        assert number - 2 < 0 or number - 2 in known, "the latest ones are never forgotten"
        assert sum(one in known for one in range(100)) <= 6
    assert 0 not in known


def test_a_forgotten_root_is_checked_again() -> None:
    asked: list[str] = []

    def check(identity: str, digest: bytes, signature: str) -> bool:
        asked.append(signature)
        return verify_single(identity, digest, signature)

    remembering = sealed_verify(check, known=KnownRoots(roots_max=1))
    key = key_of(Ed25519Key)
    batches = [some_digests(2, first) for first in (0, 10, 20)]
    for digests in (*batches, batches[0]):
        assert remembering(key.identity, digests[0], sealed_by(key, digests)[0])
    assert len(asked) == 4
