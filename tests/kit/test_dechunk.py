"""Chunked bodies: the quick way and the walk read the same, and neither takes what is not chunks."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock.kit.wire.dechunk import Dechunker, TrailersTooLarge
from penstock.kit.wire.fields import Malformed

END = b"0\r\n\r\n"


def framed(bodies: list[bytes], *, style: str = "%x") -> bytes:
    return b"".join(
        (style % len(body)).encode() + b"\r\n" + body + b"\r\n" for body in bodies if body
    )


def read(parts: list[bytes]) -> tuple[bytes, bool, bytes]:
    """(body, whole?, what is behind it)."""
    dechunker = Dechunker(trailer_bytes_max=1_000)
    body = b""
    for place, part in enumerate(parts):
        body += dechunker.feed(part)
        if dechunker.done:
            return body, True, dechunker.rest + b"".join(parts[place + 1 :])
    return body, False, b""


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


BODIES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([b"data: x\n\n", b"\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n", b"x" * 10_000]),
    ),
    max_size=12,
)


@given(BODIES, st.lists(st.integers(0, 200_000), max_size=8), st.binary(max_size=20))
@example([b"data: x\n\n"] * 40, [], b"")
@example([b"data: x\n\n"] * 40, [100, 200, 201], b"GET / HTTP/1.1")
def test_any_body_in_any_cut_comes_out_as_it_went_in(
    bodies: list[bytes], places: list[int], behind: bytes
) -> None:
    data = framed(bodies) + END + behind
    assert read(cut(data, places)) == (b"".join(bodies), True, behind)


@given(BODIES, st.sampled_from(["%X", "0%x", "%x;ext", '%x;a="b; c\\"";d=e']))
def test_sizes_may_be_spelled_otherwise(bodies: list[bytes], style: str) -> None:
    data = framed(bodies, style=style) + END
    assert read([data]) == (b"".join(bodies), True, b"")
    assert read([bytes([byte]) for byte in data]) == (b"".join(bodies), True, b"")


@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=40), st.data())
def test_a_read_with_one_wrong_byte_is_walked_to_the_same_end(
    bodies: list[bytes], data: st.DataObject
) -> None:
    """Whatever the damage, splitting a read and walking it byte by byte agree."""
    whole = bytearray(framed(bodies) + END)
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))

    def outcome(parts: list[bytes]) -> tuple[bytes, bool, bytes] | str:
        try:
            return read(parts)
        except Malformed:
            return "refused"

    assert outcome([bytes(whole)]) == outcome([bytes([byte]) for byte in whole])


@pytest.mark.parametrize(
    "data",
    [
        b"x\r\n",
        b"-1\r\n",
        b"+1\r\na\r\n",
        b"0x1\r\na\r\n",
        b"1_0\r\n",
        b" 1\r\na\r\n",
        b"1 \r\na\r\n",
        b"1; a\r\na\r\n",
        b"1;a =b\r\na\r\n",
        b"\r\n",
        b"1\na\n",
        b"1\ra\r\n",
        b"1\r\nab\r\n",
        b"1\r\na\rb",
        b"1\r\na\n",
        b"1111111111111\r\n",
        b"1;\r\na\r\n",
        b"1;a=\r\na\r\n",
        b"1;a b\r\na\r\n",
        b'1;a="b\r\na\r\n',
        b"1;\x80\r\na\r\n",
        b"1;a\nb\r\na\r\n",
        b"1;" + b"a" * 300 + b"\r\na\r\n",
        b"0\r\nfolded:\r\n x\r\n\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\nContent-Length: 3\r\n\r\n",
        b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"0\r\nHost: b\r\n\r\n",
        b"0\r\nx: a\nb\r\n\r\n",
    ],
)
def test_what_is_not_chunks_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        read([data])
    with pytest.raises(Malformed):
        read([b"3\r\nabc\r\n" * 30 + data])


def test_trailers_are_read_over_and_bounded() -> None:
    assert read([b"1\r\na\r\n0\r\nx: y\r\nz: w\r\n\r\nnext"]) == (b"a", True, b"next")
    with pytest.raises(TrailersTooLarge):
        read([b"0\r\n", b"x: " + b"y" * 600, b"y" * 600])


def test_a_body_that_is_cut_is_not_whole() -> None:
    data = b"3\r\nabc\r\n" * 20 + END
    for at in range(len(data)):
        assert read([data[:at]])[1] is False
