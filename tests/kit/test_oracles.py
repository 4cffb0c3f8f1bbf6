"""Our reading of a connection's bytes against h11's and llhttp's: smuggling needs two readings.

Whatever another strict parser refuses, we refuse as well, and what both take, both read alike, in
whatever pieces the bytes come, and whether or not their heads were seen before. The deliberate
differences are here, each with its reason; the fuzzing leaves out nothing else.
"""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.kit.oracles import LIMITS, Seen, h11_reading, llhttp_reading, our_reading
from tests.kit.test_intake import REQUESTS
from tests.kit.test_refusals import SMUGGLING

from penstock.kit.wire.heads import Heads
from penstock.kit.wire.http import Response
from penstock.kit.wire.intake import Arrived, Intake

# Where we take what h11 refuses, and why no second reading comes of it.
DELIBERATE = {
    # RFC 9112 2.2: a server should ignore an empty line before a request line. A client that ends
    # a body with a line end too much is old, not hostile, and no parser reads the line otherwise.
    "no request line received",
}

# Bytes that turn one message into another, to be put anywhere.
PIECES = [
    b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\0", b"\x0b", b"\x7f", b"\x80", b"\xff", b"0", b"a",
    b";", b",", b"+", b"-", b"_", b'"', b"0x", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2", b"chunked",
    b"Content-Length: 3\r\n", b"content-length: 3\r\n", b"Content-Length: 3, 3\r\n",
    b"Content-Length:\r\n", b"Content-Length: \r\n", b"X-Content-Length: 9\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding:\tchunked\r\n", b"TE: trailers\r\n",
    b"Transfer-Encoding: identity\r\n", b"Transfer-Encoding: chunked, chunked\r\n",
    b"Connection: close\r\n", b"Connection: upgrade\r\n", b"Upgrade: h2c\r\n", b"Host: b\r\n",
    b"Expect: 100-continue\r\n", b"X: y\r\n", b" folded\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n",
    b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n", b"POST /y HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nz",
]  # fmt: skip

CORPUS = [*SMUGGLING.values(), *REQUESTS]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A few messages of the corpus with something put in, cut out, or changed."""
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(CORPUS), min_size=1, max_size=3))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 3)):
            case 0:
                data[at:at] = draw(st.sampled_from(PIECES))
            case 1:
                del data[at : at + draw(st.integers(1, 4))]
            case 2:
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case _:
                start = draw(st.integers(0, len(data)))
                data[at:at] = data[start : start + draw(st.integers(1, 40))]
    return bytes(data)


def assert_no_second_reading(ours: Seen, theirs: Seen) -> None:
    both = min(len(ours.requests), len(theirs.requests))
    assert ours.requests[:both] == theirs.requests[:both]
    if theirs.refused and theirs.refused not in DELIBERATE:
        assert len(ours.requests) <= len(theirs.requests), theirs.refused


@given(damaged())
def test_what_h11_takes_as_well_is_read_alike_and_what_it_refuses_is_not_taken(data: bytes) -> None:
    assert_no_second_reading(our_reading([data]), h11_reading(data))


@given(damaged())
def test_what_llhttp_takes_as_well_is_read_alike_and_what_it_refuses_is_not_taken(
    data: bytes,
) -> None:
    assert_no_second_reading(our_reading([data]), llhttp_reading(data))


@given(damaged(), st.lists(st.integers(0, 2_000), max_size=6))
def test_no_cut_of_the_bytes_gives_another_reading(data: bytes, places: list[int]) -> None:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    parts = [data[a:b] for a, b in itertools.pairwise(edges)]
    whole, pieces = our_reading([data]), our_reading(parts)
    assert pieces.requests == whole.requests
    assert bool(pieces.refused) == bool(whole.refused)


WARM = Heads(64)


@given(damaged())
def test_heads_seen_before_are_read_as_if_they_were_new(data: bytes) -> None:
    warm = our_reading([data], WARM)
    again = our_reading([data], WARM)
    assert again == warm == our_reading([data])


@given(
    st.sampled_from(PIECES), st.sampled_from([b"5", b"05", b"", b" ", b"5 ", b"+5", b"5,5", b"x"])
)
def test_a_known_head_vouches_for_no_other_length(piece: bytes, digits: bytes) -> None:
    heads = Heads()
    text = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\nX: y\r\n\r\nhello"
    assert len(our_reading([text % b"5"], heads).requests) == 1
    for head in (text % digits, text % b"5" + piece, piece + text % digits):
        assert our_reading([head], heads) == our_reading([head])


@pytest.mark.parametrize("name", sorted(SMUGGLING))
def test_both_oracles_are_no_laxer_than_we_say(name: str) -> None:
    """The corpus is refused by us; where an oracle takes it, it must not be by our fault."""
    ours = our_reading([SMUGGLING[name]])
    assert ours.requests == []
    assert ours.refused.startswith("400 ")
    assert_no_second_reading(ours, h11_reading(SMUGGLING[name]))
    assert_no_second_reading(ours, llhttp_reading(SMUGGLING[name]))


@pytest.mark.parametrize("request_bytes", [one for one in REQUESTS if our_reading([one]).requests])
def test_the_oracles_read_at_all(request_bytes: bytes) -> None:
    theirs = llhttp_reading(request_bytes)
    assert theirs.requests == our_reading([request_bytes]).requests
    if not request_bytes.startswith(b"\r\n"):
        assert h11_reading(request_bytes).requests == theirs.requests


def test_an_empty_line_before_a_request_is_the_one_thing_h11_refuses_and_we_take() -> None:
    data = b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"
    assert h11_reading(data).refused in DELIBERATE
    assert [one.target for one in our_reading([data]).requests] == [b"/"]
    assert [one.target for one in our_reading([data[:1], data[1:3], data[3:]]).requests] == [b"/"]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS client at a plain port
        b"SSH-2.0-OpenSSH_9.2\r\nX\n",
        b"GET / HTTP/1.1\nHost: a\n",
        b"{}",
        b"\r\r",
    ],
)
def test_what_can_become_no_request_is_refused_before_its_head_ends(garbage: bytes) -> None:
    assert our_reading([garbage]).refused.startswith("400 ")
    assert our_reading([bytes([byte]) for byte in garbage]).refused.startswith("400 ")


def test_remembered_heads_are_bounded() -> None:
    heads = Heads(heads_max=3)
    for n in range(10):
        our_reading([b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n], heads)
    our_reading([b"GET /long HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % (b"x" * 8_000)], heads)
    known = [n for n in range(10) if heads.find(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n)]
    assert known == [7, 8, 9]


def test_bodies_over_the_bound_are_refused_by_a_known_head_as_by_a_new_one() -> None:
    text = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
    intake = Intake(LIMITS)
    (first,) = intake.feed(text % 1 + b"x")
    assert isinstance(first, Arrived)
    assert intake.feed(text % (LIMITS.body_bytes_max + 1)) == []
    assert isinstance(intake.refusal, Response)
    assert intake.refusal.status == 413
