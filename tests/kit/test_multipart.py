"""Forms are taken apart and put together without losing a byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.kit.multipart import (
    PARTS_MAX,
    BadMultipart,
    file_part,
    form_of,
    parse_multipart,
    text_part,
)

# As python's httpx, node's undici and curl write it.
REAL = (
    b"--0123\r\n"
    b'Content-Disposition: form-data; name="model"\r\n\r\n'
    b"tiny\r\n"
    b"--0123\r\n"
    b'content-disposition: form-data; name="file"; filename="a b.wav"\r\n'
    b"Content-Type: audio/wav\r\n\r\n"
    b"RIFF\r\n--012\r\n\r\n"
    b"\r\n--0123--\r\n"
)


def test_a_real_clients_form_is_read() -> None:
    form = parse_multipart(REAL)
    assert form.texts() == {"model": "tiny"}
    sound = form.file("file")
    assert sound is not None
    assert (sound.filename, sound.content_type) == ("a b.wav", "audio/wav")
    assert sound.data == b"RIFF\r\n--012\r\n\r\n"
    assert form.file("other") is None
    assert form.body() == REAL


def test_fields_are_replaced_added_and_left_out() -> None:
    form = form_of([text_part("model", "a"), text_part("model", "b"), text_part("x", "1")])
    assert form.texts() == {"model": "b", "x": "1"}
    changed = form.with_texts({"model": "c", "x": None, "new": "n"})
    assert [part.name for part in changed.parts] == ["model", "new"]
    assert changed.texts() == {"model": "c", "new": "n"}


names = st.text("abcdefghij_[]", min_size=1, max_size=8)
parts = st.one_of(
    st.builds(text_part, names, st.text(max_size=20)),
    st.builds(
        lambda name, data: file_part(name, "f.bin", data, content_type="audio/wav"),
        names,
        st.binary(max_size=40),
    ),
)


@given(st.lists(parts, min_size=1, max_size=5))
def test_what_is_put_together_comes_apart_the_same(given_parts: list[object]) -> None:
    form = form_of(given_parts)  # type: ignore[arg-type]  # hypothesis types a union as object
    again = parse_multipart(form.body())
    assert [(one.name, one.filename, one.data) for one in again.parts] == [
        (one.name, one.filename, one.data) for one in form.parts
    ]


@given(st.binary(max_size=200), st.integers(0, 200))
def test_anything_is_a_form_or_refused(noise: bytes, at: int) -> None:
    for body in (noise, REAL[:at] + noise + REAL[at:], REAL[:at]):
        try:
            parse_multipart(body).texts()
        except BadMultipart as error:
            assert error.reason


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"--\r\n",
        b"--x\r\n",
        REAL[:-4],
        b"--x\r\nno-name: 1\r\n\r\nv\r\n--x--",
        b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nv\r\n--xy',
        b"--" + b"x" * 71 + b"\r\n",
        b"--x\r\n" + b"h" * 5_000 + b"\r\n\r\nv\r\n--x--",
    ],
)
def test_what_is_no_form_is_refused(body: bytes) -> None:
    with pytest.raises(BadMultipart):
        parse_multipart(body)


def test_the_number_of_parts_is_bounded() -> None:
    form = form_of([text_part("a", "")] * PARTS_MAX)
    assert len(parse_multipart(form.body()).parts) == PARTS_MAX
    with pytest.raises(BadMultipart, match="more than"):
        parse_multipart(form_of([text_part("a", "")] * (PARTS_MAX + 1)).body())


def test_a_value_that_is_no_text_is_refused_by_name() -> None:
    body = form_of([text_part("model", "x")]).body().replace(b"\r\n\r\nx", b"\r\n\r\n\xff")
    with pytest.raises(BadMultipart, match="'model'"):
        parse_multipart(body).texts()
