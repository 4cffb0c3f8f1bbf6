"""The twins in Python and in C say the same, and what they say is what the grammar says."""

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools import fast

from penstock.kit.wire import scan

Chunks = Callable[[bytes, int], tuple[bytes, int]]
Events = Callable[[bytes], int]
Fields = Callable[[bytes, int], tuple[dict[bytes, bytes], int] | None]

SHOW = "from penstock.kit.wire import scan; print(scan.is_compiled)"
PIECES = [b"\n", b"\n\n", b":", b"\r", b"a", b"data: x", b"5\r\nhello\r\n", b"0\r\n\r\n", b"1\r\nx"]
NEAR = st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join)
"""Bytes that are nearly events, or nearly chunks."""

TWINS = [pytest.param(scan.plain_chunks_in_python, scan.plain_events_in_python, id="python")]
TWINS += [
    pytest.param(
        scan.plain_chunks,
        scan.plain_events,
        id="c",
        marks=pytest.mark.skipif(not scan.is_compiled, reason="not built here: make fast"),
    )
]


def framed(bodies: list[bytes], style: bytes = b"%x") -> bytes:
    return b"".join(style % len(body) + b"\r\n" + body + b"\r\n" for body in bodies if body)


@pytest.mark.parametrize(("chunks", "events"), TWINS)
class TestEachTwin:
    @given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=20), st.binary())
    def test_plain_chunks_are_taken_in_one_go_from_anywhere(
        self, chunks: Chunks, events: Events, bodies: list[bytes], before: bytes
    ) -> None:
        bodies = [body.replace(b"\r", b"") or b"x" for body in bodies] + [b"y" * 70]
        data = before + framed(bodies)
        assert chunks(data, len(before)) == (b"".join(bodies), len(data))

    @given(NEAR, st.lists(st.sampled_from([b"hello", b"x" * 100, b"\r\n"]), max_size=4))
    def test_what_is_taken_is_what_the_sizes_say(
        self, chunks: Chunks, events: Events, tail: bytes, bodies: list[bytes]
    ) -> None:
        data = framed(bodies) + tail
        body, end = chunks(data, 0)
        at, read = 0, []
        while at < end:
            line, _, _ = data[at:].partition(b"\r\n")
            start = at + len(line) + 2
            at = start + int(line, 16) + 2
            read.append(data[start : at - 2])
            assert data[at - 2 : at] == b"\r\n"
        assert (b"".join(read), at) == (body, end)

    @pytest.mark.parametrize(
        "data", [b"", b"5", b"5\r\nhell", b"5\r\nhelloX\n", b"5;a\r\nhello\r\n", b"g\r\n\r\n"]
    )
    def test_nothing_is_taken_of_what_is_not_a_plain_chunk(
        self, chunks: Chunks, events: Events, data: bytes
    ) -> None:
        assert chunks(data, 0) == (b"", 0)

    def test_a_size_beyond_all_bounds_is_not_waited_for(
        self, chunks: Chunks, events: Events
    ) -> None:
        for size in (b"7fffffff", b"ffffffffffffffff", b"f" * 400, b"0005"):
            data = size + b"\r\n" + b"x" * 100 + b"\r\n"
            assert chunks(data, 0) == (b"", 0)

    @pytest.mark.parametrize(
        ("data", "count"),
        [
            (b"data: a\n\n", 1),
            (b"data: a\n\ndata: b\n\n", 2),
            (b"\n\n\n\n", 2),
            (b"", -1),
            (b"\n", -1),
            (b"data: a\n", -1),
            (b": word\n\n", -1),
            (b"data: a\n\n: word\n\n", -1),
            (b"data: a\n\n\n: word\n\n", -1),
            (b"data: a\r\n\r\n", -1),
        ],
    )
    def test_events_are_counted_unless_a_comment_is_among_them(
        self, chunks: Chunks, events: Events, data: bytes, count: int
    ) -> None:
        assert events(data) == count

    def test_an_index_outside_of_the_data_reads_nothing(
        self, chunks: Chunks, events: Events
    ) -> None:
        assert chunks(b"5\r\nhello\r\n", 10) == (b"", 10)


@given(NEAR)
def test_the_twins_count_the_same(data: bytes) -> None:
    assert scan.plain_events(data) == scan.plain_events_in_python(data)


def test_the_twins_count_the_same_of_a_hundred_thousand_short_texts() -> None:
    rng = random.Random(1)
    for _ in range(100_000):
        data = bytes(rng.choices(b"\n\n\n:\ra", k=rng.randrange(9)))
        assert scan.plain_events(data) == scan.plain_events_in_python(data), data


HEADS = [
    (b"\r\nbody", ({}, 2)),
    (b"A: b\r\n\r\nbody", ({b"a": b"b"}, 8)),
    (b"a:\r\nb: \t c d\t \r\n\r\n", ({b"a": b"", b"b": b"c d"}, 18)),
    (b"a: \xff\r\n\r\n", ({b"a": b"\xff"}, 8)),
    (b"%b: b\r\n\r\n" % (b"n" * 64), ({b"n" * 64: b"b"}, 71)),
    (b"%b: b\r\n\r\n" % (b"n" * 65), None),
    (b"", None),
    (b"a: b", None),
    (b"a: b\r\n", None),
    (b"a: b\r\n\r", None),
    (b"a: b\n\n", None),
    (b"a: b\rc: d\r\n\r\n", None),
    (b"a: b\0\r\n\r\n", None),
    (b"a: \x7f\r\n\r\n", None),
    (b"a : b\r\n\r\n", None),
    (b" a: b\r\n\r\n", None),
    (b": b\r\n\r\n", None),
    (b"a\r\n\r\n", None),
    (b"a: b\r\n folded\r\n\r\n", None),
    (b"a: b\r\nA: c\r\n\r\n", None),
    (b"\xe9: b\r\n\r\n", None),
]
FIELDS_TWINS = [scan.plain_fields_in_python, scan.plain_fields]
LINES = [
    b"\r\n",
    b"a: b\r\n",
    b"C-d:\t x \r\n",
    b"e:" + b"f" * 600 + b"\r\n",
    b"a",
    b":",
    b"\r",
    b"\n",
    b"\0",
]


@pytest.mark.parametrize("fields", FIELDS_TWINS, ids=["python", "here"])
@pytest.mark.parametrize(("head", "found"), HEADS)
def test_plain_fields_are_read_and_all_others_left_alone(
    fields: Fields, head: bytes, found: tuple[dict[bytes, bytes], int] | None
) -> None:
    assert fields(head, 0) == found
    moved = None if found is None else (found[0], found[1] + 3)
    assert fields(b"xyz" + head, 3) == moved


@pytest.mark.parametrize("fields", FIELDS_TWINS, ids=["python", "here"])
def test_more_fields_than_a_head_may_have_are_left_alone(fields: Fields) -> None:
    lines = [b"a%d: b\r\n" % number for number in range(scan.FIELDS_MAX + 1)]
    full = fields(b"".join(lines[:-1]) + b"\r\n", 0)
    assert full is not None
    assert len(full[0]) == scan.FIELDS_MAX
    assert fields(b"".join(lines) + b"\r\n", 0) is None


@given(st.lists(st.sampled_from(LINES), max_size=12).map(b"".join))
def test_the_twins_read_the_same_fields(data: bytes) -> None:
    assert scan.plain_fields(data, 0) == scan.plain_fields_in_python(data, 0)


def test_the_twins_read_the_same_of_a_hundred_thousand_short_heads() -> None:
    rng = random.Random(2)
    for _ in range(100_000):
        data = bytes(rng.choices(b"aB:: \t\r\r\n\n\0\xff", k=rng.randrange(12))) + b"\r\n\r\n"
        assert scan.plain_fields(data, 0) == scan.plain_fields_in_python(data, 0), data


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=9), NEAR)
def test_what_python_takes_c_takes_too(bodies: list[bytes], tail: bytes) -> None:
    data = framed(bodies) + tail
    body, end = scan.plain_chunks_in_python(data, 0)
    quick, reached = scan.plain_chunks(data, 0)
    assert reached >= end
    assert quick[: len(body)] == body


@pytest.mark.skipif(not scan.is_compiled, reason="not built here: make fast")
def test_c_refuses_what_is_not_bytes() -> None:
    for wrong in (bytearray(b"x"), "x", None):
        with pytest.raises(TypeError):
            scan.plain_events(wrong)  # type: ignore[arg-type]  # that is the point
        with pytest.raises(TypeError):
            scan.plain_chunks(wrong, 0)  # type: ignore[arg-type]  # that is the point
        with pytest.raises(TypeError):
            scan.plain_fields(wrong, 0)  # type: ignore[arg-type]  # that is the point
    for outside in (-1, 3):
        with pytest.raises(ValueError, match="outside"):
            scan.plain_chunks(b"xx", outside)
        with pytest.raises(ValueError, match="outside"):
            scan.plain_fields(b"xx", outside)


def test_a_variable_leaves_it_out() -> None:
    env = {scan.PURE: "1"}
    said = subprocess.run(
        [sys.executable, "-c", SHOW], env=env, check=True, capture_output=True, text=True
    )
    assert said.stdout == "False\n"


def test_without_a_compiler_one_line_is_said_and_nothing_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fast.main(compiler="no-such-compiler", folder=tmp_path) == 0
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    assert "pure Python" in told
    assert list(tmp_path.iterdir()) == []
