"""Forms read while they arrive: the same parts as when they are here at once, however they are cut."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.kit.multipart import (
    PART_HEAD_BYTES_MAX,
    PARTS_MAX,
    BadMultipart,
    file_part,
    form_of,
    parse_multipart,
    text_part,
)
from penstock.kit.multipart_stream import TEXT_BYTES_MAX, FormReader

FORM = form_of(
    [
        text_part("purpose", "batch"),
        file_part("file", "in.jsonl", b'{"a": 1}\r\n--pen\r\n', content_type="application/jsonl"),
        text_part("empty", ""),
    ]
)
Parts = list[tuple[str, str | None, bytes]]


def reader(body: bytes, cut_bytes: int) -> FormReader:
    pieces: Iterator[bytes] = iter(
        [body[at : at + cut_bytes] for at in range(0, len(body), cut_bytes)]
    )

    async def next_bytes() -> bytes:
        return next(pieces, b"")

    return FormReader(next_bytes)


async def read(body: bytes, cut_bytes: int) -> Parts:
    form = reader(body, cut_bytes)
    parts: Parts = []
    while (part := await form.part()) is not None:
        data = b"".join([piece async for piece in form.data()])
        parts.append((part.name, part.filename, data))
    return parts


def at_once(body: bytes) -> Parts:
    return [(part.name, part.filename, part.data) for part in parse_multipart(body).parts]


@pytest.mark.parametrize("cut_bytes", [1, 2, 3, 7, 64, 10_000])
async def test_a_form_is_the_same_however_it_is_cut(cut_bytes: int) -> None:
    assert await read(FORM.body(), cut_bytes) == at_once(FORM.body())
    assert [name for name, _, _ in at_once(FORM.body())] == ["purpose", "file", "empty"]


@given(
    data=st.lists(st.sampled_from([b"\r", b"\n", b"-", b"--penstock", b"-form-boundary", b"x"])),
    cut_bytes=st.integers(1, 40),
)
async def test_what_nearly_is_a_boundary_is_data(data: list[bytes], cut_bytes: int) -> None:
    body = form_of([file_part("file", "f", b"".join(data), content_type="a/b")]).body()
    try:
        expected = at_once(body)
    except BadMultipart:
        with pytest.raises(BadMultipart):
            await read(body, cut_bytes)
    else:
        assert await read(body, cut_bytes) == expected


@given(
    at=st.integers(0, len(FORM.body()) - 1),
    noise=st.binary(min_size=1, max_size=4),
    cut_bytes=st.integers(1, 40),
)
async def test_a_broken_form_is_judged_as_it_is_at_once(
    at: int, noise: bytes, cut_bytes: int
) -> None:
    body = FORM.body()
    body = body[:at] + noise + body[at + 1 :]
    try:
        expected = at_once(body)
    except BadMultipart:
        with pytest.raises(BadMultipart):
            await read(body, cut_bytes)
    else:
        assert await read(body, cut_bytes) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"x" * 10_000,
        FORM.body()[:-4],
        FORM.body()[: len(FORM.body()) // 2],
        FORM.body().replace(b"Content-Disposition", b"X-Nothing"),
        b"--b\r\n" + b"A: " + b"x" * PART_HEAD_BYTES_MAX + b"\r\n\r\n\r\n--b--\r\n",
        form_of([text_part(str(n), "x") for n in range(PARTS_MAX + 1)]).body(),
    ],
)
async def test_what_is_no_form_is_refused(body: bytes) -> None:
    with pytest.raises(BadMultipart):
        await read(body, 1_000)


async def test_a_part_that_nobody_reads_is_passed_over() -> None:
    form = reader(FORM.body(), 5)
    names = []
    while (part := await form.part()) is not None:
        names.append(part.name)
    assert names == ["purpose", "file", "empty"]


async def test_a_plain_field_is_text_and_bounded() -> None:
    form = reader(FORM.body(), 9)
    await form.part()
    assert await form.text() == "batch"
    for value, reason in (("x" * (TEXT_BYTES_MAX + 1), "longer"), ("é", "UTF-8")):
        body = form_of([text_part("a", value)]).body().replace("é".encode(), b"\xff")
        form = reader(body, 4_096)
        await form.part()
        with pytest.raises(BadMultipart, match=reason):
            await form.text()
