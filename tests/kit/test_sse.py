"""Splitting server-sent events without changing a byte."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock.kit.errors import EventTooLarge
from penstock.kit.sse import EventSplitter, comment, event_data, is_comment, parse_comment

SSE_BYTES = st.text(alphabet="\n\n\r:da \u00e9", max_size=80).map(str.encode)


def split(parts: list[bytes]) -> tuple[list[bytes], bytes]:
    splitter = EventSplitter()
    events = [event for part in parts for event in splitter.feed(part)]
    return events, splitter.finish()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(SSE_BYTES, st.lists(st.integers(0, 100), max_size=20))
@example(b"a\r\n\r\nb\n\n", [2, 3, 4])
@example(b"a\r\r\n\nb\r\r", [1, 2, 3])
@example(b"\n\r\nabc", [2])
def test_any_cut_gives_the_same_events_and_every_byte(data: bytes, places: list[int]) -> None:
    events, rest = split(cut(data, places))
    assert (events, rest) == split([data])
    assert b"".join(events) + rest == data


@given(SSE_BYTES)
def test_byte_by_byte_gives_the_same_events(data: bytes) -> None:
    assert split([bytes([byte]) for byte in data]) == split([data])


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_events_end_with_their_blank_line(end: bytes) -> None:
    one = b"event: x" + end + b"data: 1" + end + end
    two = b"data: 2" + end + end
    assert split([one + two + b"data: 3" + end]) == ([one, two], b"data: 3" + end)


def test_a_crlf_is_one_line_end() -> None:
    assert split([b"data: a\r\ndata: b\r\n\r\n"])[0] == [b"data: a\r\ndata: b\r\n\r\n"]


def test_an_event_is_handed_out_with_the_chunk_that_completes_it() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b"data: 1\n") == []
    assert splitter.feed(b"\ndata: 2\n\ndata") == [b"data: 1\n\n", b"data: 2\n\n"]
    assert splitter.feed(b": 3\n\n") == [b"data: 3\n\n"]
    assert splitter.finish() == b""


def test_an_event_that_does_not_end_is_refused_at_the_bound() -> None:
    splitter = EventSplitter(event_bytes_max=10)
    assert splitter.feed(b"data: 45\n\n") == [b"data: 45\n\n"]
    splitter.feed(b"data: 4567")
    with pytest.raises(EventTooLarge) as caught:
        splitter.feed(b"8")
    assert caught.value.bytes_max == 10


@pytest.mark.parametrize("parts", [[b"data: 123456\n\n"], [b"data: ", b"123456\n\n"]])
def test_the_bound_holds_for_whole_events_too(parts: list[bytes]) -> None:
    splitter = EventSplitter(event_bytes_max=10)
    with pytest.raises(EventTooLarge):  # noqa: PT012 - which part it is does not matter
        for part in parts:
            splitter.feed(part)


def test_a_long_event_in_small_pieces_is_scanned_once() -> None:
    splitter = EventSplitter()
    for _ in range(20_000):
        assert splitter.feed(b"x" * 40) == []
    (event,) = splitter.feed(b"\n\n")
    assert len(event) == 800_002


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: a\n\n", b"a"),
        (b"data:a\n\n", b"a"),
        (b"data:  a\r\ndata: b\r\n\r\n", b" a\nb"),
        (b"event: x\n\n", b""),
        (b": data: no\ndata: yes\n\n", b"yes"),
        (b"data\n\n", b""),
        (b"data:\ndata:\n\n", b"\n"),
    ],
)
def test_the_data_lines_are_joined(event: bytes, data: bytes) -> None:
    assert event_data(event) == data


@pytest.mark.parametrize(
    ("event", "yes"),
    [
        (b": a\n\n", True),
        (b": a\r\n: b\r\n\r\n", True),
        (b": a\ndata: b\n\n", False),
        (b"data: a\n\n", False),
        (b"\n\n", False),
    ],
)
def test_a_comment_has_only_comment_lines(event: bytes, *, yes: bool) -> None:
    assert is_comment(event) is yes


@given(
    st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True),
    st.binary(max_size=100).filter(lambda b: b"\n" not in b and b"\r" not in b),
)
def test_a_comment_parses_back(name: str, payload: bytes) -> None:
    event = comment(name, payload)
    assert parse_comment(event) == (name, payload)
    assert is_comment(event)
    assert split([event]) == ([event], b"")


@pytest.mark.parametrize(
    "event",
    [
        b": penstock-receipt\n\n",
        b": other {}\n\n",
        b"data: x\n\n",
        b": penstock-receipt {}\ndata: x\n\n",
        b": penstock-Receipt {}\n\n",
        b": penstock-\xff {}\n\n",
    ],
)
def test_what_is_not_our_comment_is_left_alone(event: bytes) -> None:
    assert parse_comment(event) is None


@pytest.mark.parametrize(
    ("name", "payload"), [("a", b"x\ny"), ("a", b"x\r"), ("A", b""), ("", b"")]
)
def test_a_comment_that_would_not_parse_back_is_refused(name: str, payload: bytes) -> None:
    with pytest.raises(ValueError):
        comment(name, payload)
