"""Seals: any subset of any batch verifies, a changed bit never does, and there is one spelling."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import GATEWAY, MINER, ToyKey, make_order, make_record, seal, sealed
from tests.makers import toy_verify as verify
from tests.makers import toy_verify_single as verify_single
from tests.spec.honest_records import Told, told

from penstock.spec import log
from penstock.spec.canon import digest
from penstock.spec.errors import BadSignature
from penstock.spec.keys import open_signed, sign
from penstock.spec.messages import Order
from penstock.spec.receipts import Receipt, judge
from penstock.spec.seals import (
    SEAL_CHARS_MAX,
    SEAL_LEAVES_MAX,
    is_seal,
    seal_digest,
    seal_root,
    seal_signatures,
    sealed_verify,
)

SIZES = st.integers(1, SEAL_LEAVES_MAX)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def leaves(size: int) -> list[bytes]:
    return [hashlib.sha256(bytes([number])).digest() for number in range(size)]


def seals(digests: Sequence[bytes], key: ToyKey = GATEWAY) -> tuple[str, ...]:
    root_signature = key.sign(seal_digest(seal_root(digests), len(digests)))
    return seal_signatures(digests, root_signature)


def holds(one: bytes, signature: str, key: ToyKey = GATEWAY) -> bool:
    return verify(key.identity, one, signature)


class Counted:
    """A check of signatures that counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, identity: str, digest: bytes, signature: str) -> bool:
        self.asked += 1
        return verify_single(identity, digest, signature)


@pytest.mark.parametrize("size", range(1, SEAL_LEAVES_MAX + 1))
def test_the_tree_is_that_of_the_log(size: int) -> None:
    assert seal_root(leaves(size)) == log.root([log.leaf_hash(one) for one in leaves(size)])


@given(SIZES, st.data())
def test_every_message_of_every_batch_verifies_by_itself(size: int, data: st.DataObject) -> None:
    digests = leaves(size)
    index = data.draw(st.integers(0, size - 1))
    assert holds(digests[index], seals(digests)[index])


@given(SIZES, st.data())
def test_a_message_verifies_in_its_own_place_only(size: int, data: st.DataObject) -> None:
    digests = leaves(size)
    index, other = (data.draw(st.integers(0, size - 1)) for _ in range(2))
    assert holds(digests[index], seals(digests)[other]) is (index == other)


@given(SIZES, st.data())
def test_a_flipped_bit_of_the_message_is_seen(size: int, data: st.DataObject) -> None:
    digests = leaves(size)
    index = data.draw(st.integers(0, size - 1))
    place = data.draw(st.integers(0, 255))
    changed = bytearray(digests[index])
    changed[place // 8] ^= 1 << place % 8
    assert not holds(bytes(changed), seals(digests)[index])


@given(SIZES, st.data())
def test_a_changed_character_anywhere_in_a_seal_is_seen(size: int, data: st.DataObject) -> None:
    """Whatever it becomes: the text has one spelling, and each part of it is covered."""
    digests = leaves(size)
    index = data.draw(st.integers(0, size - 1))
    text = seals(digests)[index]
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda one: one != text[place]))
    assert not holds(digests[index], text[:place] + other + text[place + 1 :])


@given(SIZES, st.data())
def test_every_bit_of_the_path_counts_the_spare_ones_of_base64_too(
    size: int, data: st.DataObject
) -> None:
    digests = leaves(size)
    index = data.draw(st.integers(0, size - 1))
    head, number, place, path, signature = seals(digests)[index].split(".", 4)
    if not path:
        return
    at = data.draw(st.sampled_from([len(path) - 1, data.draw(st.integers(0, len(path) - 1))]))
    value = ALPHABET.index(path[at]) ^ (1 << data.draw(st.integers(0, 5)))
    forged = path[:at] + ALPHABET[value] + path[at + 1 :]
    assert not holds(digests[index], f"{head}.{number}.{place}.{forged}.{signature}")


@given(st.text(max_size=60))
def test_text_that_is_no_seal_is_refused_and_never_a_crash(text: str) -> None:
    assert not holds(leaves(1)[0], "seal1." + text)


@given(st.lists(st.text(alphabet="0123456789-_=. abcAB", max_size=30), max_size=8))
def test_parts_in_any_number_and_shape_are_refused(parts: list[str]) -> None:
    assert not holds(leaves(1)[0], ".".join(["seal1", *parts]))


def hostile() -> dict[str, str]:
    digests = leaves(3)
    good = seals(digests)[0]
    head, size, index, path, signature = good.split(".", 4)

    def said(**changed: str) -> str:
        parts = {"size": size, "index": index, "path": path, "signature": signature, **changed}
        return ".".join([head, *parts.values()])

    padded = base64.urlsafe_b64encode(base64.urlsafe_b64decode(path + "==")).decode()
    assert padded != path
    return {
        "a huge size": said(size="9" * 500),
        "a size beyond the bound": said(size="65"),
        "a size of nothing": said(size="0"),
        "a huge index": said(index="9" * 500),
        "an index beyond the size": said(index="3"),
        "a negative index": said(index="-1"),
        "a leading zero": said(index="00"),
        "a plus sign": said(size="+3"),
        "a digit of another script": said(size="\u0663"),
        "spaces": said(index=" 0"),
        "a huge path": said(path="A" * 1_000_000),
        "a path too long": said(path=path + path),
        "a path too short": said(path=path[:-1]),
        "no path": said(path=""),
        "a padded path": said(path=padded),
        "another alphabet": said(path=path[:-1] + "+"),
        "a line end in the path": said(path=path[:-1] + "\n"),
        "what is not ASCII in the path": said(path=path[:-1] + "\u00e9"),
        "junk behind": good + "0",
        "a point behind": good + ".",
        "a line end behind": good + "\n",
        "no signature": said(signature=""),
        "another version": good.replace("seal1", "seal2"),
        "a seal in a seal": said(signature=good),
    }


@pytest.mark.parametrize("text", hostile().values(), ids=hostile().keys())
def test_every_other_spelling_is_refused(text: str) -> None:
    good = seals(leaves(3))[0]
    assert holds(leaves(3)[0], good)
    assert not holds(leaves(3)[0], text)


def test_a_seal_in_a_seal_is_refused_even_if_its_signer_made_it() -> None:
    """Otherwise proofs could be as deep as somebody likes."""
    digests = leaves(2)
    inner = seals([seal_digest(seal_root(digests), 2)])[0]
    assert not holds(digests[0], seal_signatures(digests, inner)[0])


def test_a_digest_of_another_length_is_refused() -> None:
    assert not holds(b"short", seals(leaves(1))[0])


def test_a_root_never_passes_for_a_message_nor_a_node_for_a_leaf() -> None:
    """RFC 6962 prefixes: neither an inner node nor the root itself can be claimed as a leaf."""
    digests = leaves(2)
    root = seal_root(digests)
    root_signature = GATEWAY.sign(seal_digest(root, 2))
    assert not holds(root, f"seal1.1.0..{root_signature}")
    assert not holds(root, root_signature)


def test_a_root_is_signed_with_its_size() -> None:
    digests = leaves(3)
    root_signature = GATEWAY.sign(seal_digest(seal_root(digests), 4))
    assert not any(map(holds, digests, seal_signatures(digests, root_signature)))


def test_a_seal_of_one_kind_never_fits_another() -> None:
    """The order's body as anything else: its digest is another one, so is its leaf."""
    (order,) = seal(GATEWAY, sign("order", make_order(), GATEWAY), strangers=3)
    assert open_signed(Order, order, kind="order", verify=verify) == make_order()
    with pytest.raises(BadSignature):
        open_signed(Receipt, replace(order, kind="receipt"), kind="receipt", verify=verify)


def test_a_seal_is_its_signers_own() -> None:
    digests = leaves(4)
    assert not holds(digests[0], seals(digests, MINER)[0], GATEWAY)
    assert holds(digests[0], seals(digests, MINER)[0], MINER)


def test_a_seals_digest_is_of_a_kind_of_its_own() -> None:
    root = seal_root(leaves(2))
    assert seal_digest(root, 2) == digest("seal", {"root": root.hex(), "size": 2})
    assert seal_digest(root, 2) != seal_digest(root, 3)


def test_the_longest_seal_of_the_longest_signature_is_within_its_bound() -> None:
    text = seal_signatures(leaves(SEAL_LEAVES_MAX), "f" * 130)[0]
    assert len(text) <= SEAL_CHARS_MAX


@pytest.mark.parametrize("count", [0, SEAL_LEAVES_MAX + 1])
def test_a_batch_of_none_or_too_many_is_a_bug(count: int) -> None:
    with pytest.raises(AssertionError):
        seal_root([bytes(32)] * count)
    with pytest.raises(AssertionError):
        seal_root([b"message"])


def test_only_seals_are_called_seals() -> None:
    assert is_seal(seals(leaves(1))[0])
    assert not is_seal(GATEWAY.sign(leaves(1)[0]))


def test_a_batch_is_one_check_where_its_root_is_remembered() -> None:
    check = Counted()
    remembering = sealed_verify(check, known=set())
    digests = leaves(SEAL_LEAVES_MAX)
    for one, signature in zip(digests, seals(digests), strict=True):
        assert remembering(GATEWAY.identity, one, signature)
    assert check.asked == 1


def test_without_a_memory_every_message_is_checked() -> None:
    check = Counted()
    forgetting = sealed_verify(check)
    digests = leaves(4)
    assert all(map(forgetting, [GATEWAY.identity] * 4, digests, seals(digests)))
    assert check.asked == 4


def test_what_is_remembered_never_helps_a_forgery() -> None:
    """Not another signer's, not another size, not another signature, and no failure is kept."""
    check = Counted()
    memory: set[object] = set()
    remembering = sealed_verify(check, known=memory)
    digests = leaves(4)
    good = seals(digests)
    assert remembering(GATEWAY.identity, digests[0], good[0])
    head, size, index, path, signature = good[0].split(".", 4)
    assert not remembering(MINER.identity, digests[0], good[0])
    assert not remembering(GATEWAY.identity, digests[1], good[0])
    assert not remembering(
        GATEWAY.identity, digests[0], ".".join((head, size, index, path, "0" + signature[1:]))
    )
    assert len(memory) == 1


@given(told(), st.integers(0, SEAL_LEAVES_MAX - 1))
def test_a_record_says_the_same_under_seals_as_under_single_signatures(
    one: Told, strangers: int
) -> None:
    record = sealed(one.record, gateway=GATEWAY, miner=one.miner, strangers=strangers)
    assert record != one.record
    judgement = judge(record, refusal_free_ms=100, verify=verify)
    assert judgement == judge(one.record, refusal_free_ms=100, verify=verify_single)


@pytest.mark.parametrize("part", ["order", "receipt", "countersign"])
def test_a_record_with_one_seal_of_another_batch_is_refused(part: str) -> None:
    record = sealed(make_record(), gateway=GATEWAY, miner=MINER, strangers=2)
    signed = getattr(record, part)
    stolen = replace(signed, signature=seals(leaves(5), ToyKey(part))[0])
    changed = {part: stolen}
    with pytest.raises(BadSignature):
        judge(replace(record, **changed), refusal_free_ms=100, verify=verify)
