"""Canonical bytes: one spelling for each value, and dataclasses that travel strictly."""

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any, NewType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.spec.canon import (
    CANON_BYTES_MAX,
    DEPTH_MAX,
    INT_MAX,
    canonical,
    decode,
    digest,
    encode,
    from_plain,
    parse,
    to_plain,
)
from penstock.spec.errors import NotCanonical

plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-INT_MAX, INT_MAX) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


Nano = NewType("Nano", int)


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    count: int


@dataclass(frozen=True, slots=True)
class Whole:
    title: str
    amount: Nano
    open: bool
    colour: Colour
    parts: tuple[Part, ...]
    tags: tuple[str, ...]
    best: Part | None
    body: dict[str, Any]
    counts: dict[str, int]
    spare: int = 7


WHOLE = Whole(
    title="a",
    amount=Nano(5),
    open=True,
    colour=Colour.BLUE,
    parts=(Part("x", 1), Part("y", 2)),
    tags=("t",),
    best=None,
    body={"any": [1, None]},
    counts={"one": 1},
)


@given(plain_values)
def test_what_is_spelled_is_read_back(value: Any) -> None:
    assert parse(canonical(value)) == value


@given(plain_values)
def test_the_spelling_is_what_any_json_reader_reads(value: Any) -> None:
    assert json.loads(canonical(value)) == value


@given(st.dictionaries(st.text(), st.integers(-9, 9)))
def test_the_order_of_insertion_leaves_no_trace(value: dict[str, int]) -> None:
    assert canonical(dict(reversed(value.items()))) == canonical(value)


def test_the_published_example_of_key_order_holds() -> None:
    """RFC 8785, section 3.2.3: sorted by UTF-16 code units, not by code points."""
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    spelled = parse(canonical(dict.fromkeys(keys, 0)))
    assert list(spelled) == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


def test_the_published_example_of_strings_holds() -> None:
    """RFC 8785, section 3.2.2.2: only what must be escaped is, in the short form or lower case."""
    text = '\u20ac$\u000f\nA\'B"\\\\"/\u007f'
    assert canonical(text) == '"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/\u007f"'.encode()


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        float("nan"),
        INT_MAX + 1,
        -INT_MAX - 1,
        "\ud800",
        {"\ud800": 1},
        {1: 1},
        {None: 1},
        {1, 2},
        b"bytes",
        [object()],
        {"deep": {"deeper": [0.5]}},
        Colour.RED,
        json.loads("[" * (DEPTH_MAX + 1) + "]" * (DEPTH_MAX + 1)),
        "x" * CANON_BYTES_MAX,
    ],
)
def test_a_value_without_a_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(NotCanonical):
        canonical(value)


def test_the_deepest_value_allowed_is_spelled() -> None:
    value = json.loads("[" * DEPTH_MAX + "]" * DEPTH_MAX)
    assert parse(canonical(value)) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" 1",
        b"1\n",
        b'{"a": 1}',
        b'{"b":1,"a":1}',
        b'{"a":1,"a":1}',
        b'{"a":1,"a":2}',
        b"-0",
        b"01",
        b"1.0",
        b"1e3",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"9007199254740992",
        b"1" * 5000,
        b'"\\u0041"',
        b'"\\/"',
        b'"\\ud800"',
        b'"\\u000A"',
        b"\xef\xbb\xbf1",
        b"\xff",
        b'"\xed\xa0\x80"',
        b"[1,]",
        b"[" * 100_000,
        b"x" * (CANON_BYTES_MAX + 1),
    ],
    ids=lambda data: repr(data[:12]),
)
def test_any_other_spelling_is_refused(data: bytes) -> None:
    with pytest.raises(NotCanonical):
        parse(data)


@given(st.binary(max_size=40))
def test_noise_is_refused_or_is_the_spelling_of_what_was_read(data: bytes) -> None:
    try:
        value = parse(data)
    except NotCanonical:
        return
    assert canonical(value) == data


def test_a_digest_of_one_kind_is_none_of_another() -> None:
    assert digest("order", {"a": 1}) != digest("offer", {"a": 1})


def test_a_digest_covers_the_value() -> None:
    assert digest("order", {"a": 1}) != digest("order", {"a": 2})


@pytest.mark.parametrize("kind", ["", "Order", "a/v1\0{}", "a b", "1a", "x" * 65, "\ud800"])
def test_a_kind_that_could_bend_the_domain_is_refused(kind: str) -> None:
    with pytest.raises(NotCanonical):
        digest(kind, {})


def test_a_dataclass_travels_and_comes_back_equal() -> None:
    assert decode(Whole, encode(WHOLE)) == WHOLE


def test_a_dataclass_is_spelled_by_field_and_enum_value() -> None:
    plain = to_plain(WHOLE)
    assert plain["colour"] == "blue"
    assert plain["parts"] == [{"name": "x", "count": 1}, {"name": "y", "count": 2}]
    assert plain["best"] is None


@given(st.builds(Part, name=st.text(), count=st.integers(-INT_MAX, INT_MAX)))
def test_any_small_message_comes_back_equal(part: Part) -> None:
    assert decode(Part, encode(part)) == part


@pytest.mark.parametrize(
    ("place", "value", "path"),
    [
        ("title", 1, "title"),
        ("title", None, "title"),
        ("amount", True, "amount"),
        ("amount", "5", "amount"),
        ("amount", INT_MAX + 1, "amount"),
        ("open", 1, "open"),
        ("colour", "green", "colour"),
        ("colour", 1, "colour"),
        ("colour", ["red"], "colour"),
        ("parts", {}, "parts"),
        ("parts", [{"name": "x", "count": 1}, {"name": "y", "count": "2"}], "parts[1].count"),
        ("parts", [{"name": "x"}], "parts[0].count"),
        ("parts", [{"name": "x", "count": 1, "more": 0}], "parts[0].more"),
        ("parts", ["x"], "parts[0]"),
        ("tags", "t", "tags"),
        ("best", 0, "best"),
        ("best", {"name": 3, "count": 1}, "best.name"),
        ("body", [], "body"),
        ("body", {1: 2}, "body"),
        ("counts", {"one": "1"}, "counts.one"),
    ],
)
def test_a_field_of_another_type_is_refused_by_its_path(
    place: str, value: object, path: str
) -> None:
    with pytest.raises(NotCanonical) as caught:
        from_plain(Whole, {**to_plain(WHOLE), place: value})
    assert caught.value.path == path


def test_a_default_never_fills_a_gap() -> None:
    plain = to_plain(WHOLE)
    del plain["spare"]
    with pytest.raises(NotCanonical) as caught:
        from_plain(Whole, plain)
    assert caught.value.path == "spare"


def test_a_message_that_is_no_object_is_refused() -> None:
    with pytest.raises(NotCanonical):
        from_plain(Part, ["x", 1])


def test_plain_values_pass_through_unchanged() -> None:
    assert to_plain({"a": (1, "b", [None])}) == {"a": [1, "b", [None]]}


def test_a_type_that_messages_cannot_hold_is_a_bug_and_says_so() -> None:
    @dataclass(frozen=True)
    class Odd:
        ratio: float

    with pytest.raises(TypeError, match="float"):
        from_plain(Odd, {"ratio": 1})


def test_a_refusal_names_its_fields() -> None:
    assert str(NotCanonical(reason="odd", path="a.b")) == "NotCanonical(reason='odd', path='a.b')"
