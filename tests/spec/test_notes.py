"""Signed notes and checkpoints: the C2SP formats, strictly, with real ed25519 keys."""

from base64 import b64encode

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from penstock.spec.errors import BadNote
from penstock.spec.log import EMPTY_ROOT
from penstock.spec.notes import (
    NOTE_BYTES_MAX,
    SIGNATURES_MAX,
    Algorithm,
    Checkpoint,
    Note,
    SignatureLine,
    cosign,
    cosigned_message,
    key_id,
    parse_checkpoint,
    parse_note,
    sign_note,
    verify_checkpoint,
    verify_cosignature,
    verify_note,
)

ORIGIN = "operator.example/log"
WITNESS = "witness.example"
LOG_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
WITNESS_KEY = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
CHECKPOINT = Checkpoint(origin=ORIGIN, size=7, root=EMPTY_ROOT)
TEXT = CHECKPOINT.text()


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def verify_raw(public_key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def log_line(text: str = TEXT) -> SignatureLine:
    return sign_note(text, ORIGIN, public_key=public(LOG_KEY), sign_raw=LOG_KEY.sign)


def witness_line(text: str = TEXT) -> SignatureLine:
    return cosign(
        text,
        WITNESS,
        public_key=public(WITNESS_KEY),
        time_s=1_700_000_000,
        sign_raw=WITNESS_KEY.sign,
    )


NOTE = Note(text=TEXT, signatures=(log_line(), witness_line()))


def test_the_published_example_of_a_signed_note_is_read_and_verified() -> None:
    """The key and the note that Go's `sumdb/note` package documents."""
    name = "PeterNeumann"
    verifier = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    public_key = bytes.fromhex("1a5cd907143c384c41e830c5bce12aa8817ec5649aaabf2c31388b35b2d744d6")
    text = (
        "If you think cryptography is the answer to your problem,\n"
        "then you don't know what your problem is.\n"
    )
    line = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
    note = parse_note(f"{text}\n\u2014 {name} {line}\n".encode())
    assert key_id(name, Algorithm.ED25519, public_key=public_key).hex() == verifier.split("+")[1]
    verify_note(note, name, public_key=public_key, verify_raw=verify_raw)


def test_a_checkpoint_is_three_lines() -> None:
    assert f"{ORIGIN}\n7\n{b64encode(EMPTY_ROOT).decode()}\n" == TEXT


@given(
    st.builds(
        Checkpoint,
        origin=st.from_regex(r"[a-z./-]{1,40}", fullmatch=True),
        size=st.integers(0, 2**53 - 1),
        root=st.binary(min_size=32, max_size=32),
    )
)
def test_a_checkpoint_comes_back_equal(checkpoint: Checkpoint) -> None:
    assert parse_checkpoint(checkpoint.text()) == checkpoint


def test_a_published_note_comes_back_equal_and_holds() -> None:
    note = parse_note(NOTE.encode())
    assert note == NOTE
    checkpoint = verify_checkpoint(note, ORIGIN, public_key=public(LOG_KEY), verify_raw=verify_raw)
    assert checkpoint == CHECKPOINT


def test_a_cosignature_says_when_the_witness_saw_it() -> None:
    seen_s = verify_cosignature(
        NOTE, WITNESS, public_key=public(WITNESS_KEY), verify_raw=verify_raw
    )
    assert seen_s == 1_700_000_000


def test_a_witness_signs_the_time_and_the_text() -> None:
    assert cosigned_message("a\n", 5) == b"cosignature/v1\ntime 5\na\n"


def test_a_signature_over_another_text_is_refused() -> None:
    moved = Note(text=TEXT.replace("7", "8"), signatures=NOTE.signatures)
    with pytest.raises(BadNote):
        verify_note(moved, ORIGIN, public_key=public(LOG_KEY), verify_raw=verify_raw)
    with pytest.raises(BadNote):
        verify_cosignature(moved, WITNESS, public_key=public(WITNESS_KEY), verify_raw=verify_raw)


def test_a_cosignature_with_another_time_is_refused() -> None:
    line = witness_line()
    later = SignatureLine(line.name, line.key_id, bytes(8) + line.signature[8:])
    with pytest.raises(BadNote):
        verify_cosignature(
            Note(TEXT, (later,)), WITNESS, public_key=public(WITNESS_KEY), verify_raw=verify_raw
        )


def test_a_key_that_did_not_sign_finds_no_line() -> None:
    with pytest.raises(BadNote):
        verify_note(NOTE, ORIGIN, public_key=public(WITNESS_KEY), verify_raw=verify_raw)


def test_a_cosignature_is_not_the_signature_of_a_log() -> None:
    with pytest.raises(BadNote):
        verify_note(NOTE, WITNESS, public_key=public(WITNESS_KEY), verify_raw=verify_raw)


def test_a_checkpoint_of_another_log_is_refused_even_if_well_signed() -> None:
    with pytest.raises(BadNote):
        verify_checkpoint(NOTE, "other", public_key=public(LOG_KEY), verify_raw=verify_raw)


LINE = f"\u2014 a {b64encode(bytes(5)).decode()}\n"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"text only\n",
        f"\n\n{LINE}".encode(),
        f"text\n{LINE}".encode(),
        b"text\n\n",
        b"text\n\nnot a line\n",
        f"text\n\n{LINE[:-1]}".encode(),
        f"text\n\n{LINE}\n".encode(),
        f"te\txt\n\n{LINE}".encode(),
        f"text\r\n\n{LINE}".encode(),
        f"text\n\n- a {b64encode(bytes(5)).decode()}\n".encode(),
        f"text\n\n\u2014 a+b {b64encode(bytes(5)).decode()}\n".encode(),
        f"text\n\n\u2014  {b64encode(bytes(5)).decode()}\n".encode(),
        f"text\n\n\u2014 a\u00a0b {b64encode(bytes(5)).decode()}\n".encode(),
        f"text\n\n\u2014 a {b64encode(bytes(4)).decode()}\n".encode(),
        "text\n\n\u2014 a AAAAAA\n".encode(),
        "text\n\n\u2014 a AAAAAAB=\n".encode(),
        "text\n\n\u2014 a !!!!\n".encode(),
        ("text\n\n" + LINE * (SIGNATURES_MAX + 1)).encode(),
        b"x" * (NOTE_BYTES_MAX + 1),
    ],
    ids=range(21),
)
def test_a_malformed_note_is_refused(data: bytes) -> None:
    with pytest.raises(BadNote):
        parse_note(data)


def test_a_note_may_carry_as_many_signatures_as_the_bound() -> None:
    assert len(parse_note(("text\n\n" + LINE * SIGNATURES_MAX).encode()).signatures) == 100


def test_a_text_may_hold_empty_lines_of_its_own() -> None:
    assert parse_note(f"a\n\nb\n\n{LINE}".encode()).text == "a\n\nb\n"


ROOT = b64encode(EMPTY_ROOT).decode()


@pytest.mark.parametrize(
    "text",
    [
        f"{ORIGIN}\n7\n{ROOT}",
        f"{ORIGIN}\n7\n{ROOT}\nextension\n",
        f"\n7\n{ROOT}\n",
        f"{ORIGIN}\n07\n{ROOT}\n",
        f"{ORIGIN}\n-7\n{ROOT}\n",
        f"{ORIGIN}\n+7\n{ROOT}\n",
        f"{ORIGIN}\n\u0667\n{ROOT}\n",
        f"{ORIGIN}\n\n{ROOT}\n",
        f"{ORIGIN}\n9007199254740992\n{ROOT}\n",
        f"{ORIGIN}\n{'1' * 5000}\n{ROOT}\n",
        f"{ORIGIN}\n7\n{ROOT[:-1]}\n",
        f"{ORIGIN}\n7\n{b64encode(bytes(31)).decode()}\n",
        f"{ORIGIN}\n7\n\n",
    ],
    ids=range(13),
)
def test_a_malformed_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(BadNote):
        parse_checkpoint(text)
