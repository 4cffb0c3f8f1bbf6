"""Fast spelling: byte for byte what the law writes, and only what the law reads is read."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import GATEWAY, MANIFEST, MINER, make_order, make_receipt, make_record

from penstock.kit.spell import read_order, read_receipt, spell, spell_digest
from penstock.spec.canon import INT_MAX, canonical, decode, digest, encode, to_plain
from penstock.spec.errors import NotCanonical
from penstock.spec.keys import sign
from penstock.spec.messages import Order, Seat
from penstock.spec.receipts import Outcome, Receipt
from penstock.spec.units import Price, Units

INTEGERS = st.integers(-INT_MAX, INT_MAX)
TEXTS = st.text(max_size=40)


def built(cls: Any) -> st.SearchStrategy[Any]:
    """Any message of the type, whether or not it makes sense."""
    types: dict[Any, st.SearchStrategy[Any]] = {
        int: INTEGERS,
        str: TEXTS,
        bool: st.booleans(),
        Outcome: st.sampled_from(Outcome),
        Price: st.builds(Price, *[INTEGERS] * 6),
        Units: st.builds(Units, *[INTEGERS] * 5),
    }
    hints = {field.name: types[field.type] for field in dataclasses.fields(cls)}
    return st.builds(cls, **hints)


ORDERS, RECEIPTS = built(Order), built(Receipt)
READERS: list[tuple[Callable[[bytes], Any], Any, Any]] = [
    (read_order, Order, make_order()),
    (read_receipt, Receipt, make_receipt(make_order())),
]
both = pytest.mark.parametrize(("read", "cls", "message"), READERS, ids=["order", "receipt"])


@given(st.one_of(ORDERS, RECEIPTS))
def test_the_bytes_are_those_of_the_law(message: Any) -> None:
    assert spell(message) == encode(message)


@given(ORDERS)
def test_what_is_spelled_is_read_again(order: Order) -> None:
    assert read_order(spell(order)) == order == decode(Order, encode(order))


@given(RECEIPTS)
def test_a_receipt_is_read_as_the_law_reads_it(receipt: Receipt) -> None:
    assert read_receipt(encode(receipt)) == receipt


@given(ORDERS)
def test_the_digest_is_that_of_the_law(order: Order) -> None:
    assert spell_digest("order", order) == digest("order", to_plain(order))


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    number: int


@dataclass(frozen=True, slots=True)
class Table:
    rows: tuple[Row, ...]
    names: tuple[str, ...]
    is_whole: bool


@given(st.lists(st.builds(Row, TEXTS, INTEGERS), max_size=4), st.lists(TEXTS, max_size=4))
def test_lists_of_messages_and_of_texts_are_spelled_too(rows: list[Row], names: list[str]) -> None:
    table = Table(tuple(rows), tuple(names), is_whole=True)
    assert spell(table) == encode(table)


@pytest.mark.parametrize(
    "message",
    [
        make_record(),
        sign("order", make_order(), GATEWAY),
        replace(sign("order", make_order(), MINER), body={"\U0001f600": 1, "\uffee": 2}),
        MANIFEST,
        Seat("v", 1),
    ],
)
def test_types_that_the_encoder_might_order_otherwise_are_left_to_the_law(message: Any) -> None:
    assert spell(message) == encode(message)


@pytest.mark.parametrize("number", [INT_MAX + 1, -INT_MAX - 1, 2**63, 2**70])
def test_an_integer_beyond_the_law_is_refused(number: int) -> None:
    with pytest.raises(NotCanonical):
        spell(make_order(seed=number))
    with pytest.raises(NotCanonical):
        spell(make_order(price=Price(0, number, 0, 0, 0, 0)))
    with pytest.raises(NotCanonical):
        spell(Table((Row("a", number),), (), is_whole=True))


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(NotCanonical):
        spell(make_order(nonce="\ud800"))


def test_a_message_that_is_too_long_is_refused() -> None:
    with pytest.raises(NotCanonical):
        spell(make_order(nonce="x" * (1 << 24)))


class Odd(Enum):
    ONE = "one"


@pytest.mark.parametrize("value", [1, "text", Odd.ONE, (1, 2)])
def test_what_is_no_message_goes_the_laws_way(value: object) -> None:
    assert spell(value) == canonical(to_plain(value))


def other_spellings(message: Any) -> dict[str, bytes]:
    plain = to_plain(message)
    text = encode(message).decode()
    first = min(plain)
    return {
        "spaces": json.dumps(plain, sort_keys=True).encode(),
        "another order": json.dumps(plain, separators=(",", ":")).encode()[::1],
        "a field too many": canonical({**plain, "zzz": 1}),
        "a field too few": canonical({name: plain[name] for name in plain if name != first}),
        "a key twice": text.replace("{", f'{{"{first}":{json.dumps(plain[first])},', 1).encode(),
        "null for a text": canonical({**plain, "miner": None}),
        "a number for a text": canonical({**plain, "miner": 1}),
        "a text for a number": canonical({**plain, "seed": "1"}),
        "a truth for a number": canonical({**plain, "seed": True}),
        "a fraction": text.replace('"seed":7', '"seed":7.0').encode(),
        "an exponent": text.replace('"seed":7', '"seed":7e0').encode(),
        "a number too large": text.replace('"seed":7', '"seed":9007199254740993').encode(),
        "an escape that is not needed": text.replace('"seed"', '"\\u0073eed"').encode(),
        "a byte order mark": b"\xef\xbb\xbf" + text.encode(),
        "junk behind": text.encode() + b"\n",
        "not UTF-8": text.encode().replace(b"miner", b"\xff"),
        "a list": b"[]",
        "nothing": b"",
        "deep": b"[" * 100_000,
    }


@both
@pytest.mark.parametrize("case", sorted(other_spellings(make_order())))
def test_every_other_spelling_is_refused(
    read: Callable[[bytes], Any], cls: Any, message: Any, case: str
) -> None:
    data = other_spellings(message)[case]
    assert data != encode(message), "the case would test nothing"
    with pytest.raises(NotCanonical):
        decode(cls, data)
    with pytest.raises(NotCanonical):
        read(data)


@both
@given(place=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_reader_and_law_agree_on_every_changed_byte(
    read: Callable[[bytes], Any], cls: Any, message: Any, place: int, flip: int
) -> None:
    data = bytearray(encode(message))
    data[place % len(data)] ^= flip
    try:
        expected = decode(cls, bytes(data))
    except NotCanonical:
        with pytest.raises(NotCanonical):
            read(bytes(data))
    else:
        assert read(bytes(data)) == expected
