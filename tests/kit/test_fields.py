"""Header lines: the quick ways read what the grammar reads."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.kit.wire.fields import Malformed, parse_fields

GRAMMAR = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([^\x00-\x08\x0a-\x1f\x7f]*)", re.DOTALL
).fullmatch
FILLING = b"x" * 600
"""Lines above 512 bytes are read in another way than short ones."""


@given(st.binary(max_size=8), st.binary(max_size=8), st.sampled_from([b"", FILLING]))
def test_a_line_of_any_length_is_read_by_one_grammar(
    head: bytes, tail: bytes, filling: bytes
) -> None:
    line = head + filling + tail
    match = GRAMMAR(line)
    if match is None:
        with pytest.raises(Malformed):
            parse_fields([line], once=frozenset())
    else:
        expected = {match[1].lower(): match[2].strip(b" \t")}
        assert parse_fields([line], once=frozenset()) == expected


@pytest.mark.parametrize("byte", range(256))
def test_each_byte_in_a_long_value_is_taken_as_in_a_short_one(byte: int) -> None:
    value = b"a" + bytes([byte]) + b"b"
    for filling in (b"", FILLING):
        line = b"x-name: " + value + filling
        if byte in {*range(9), *range(10, 32), 127}:
            with pytest.raises(Malformed):
                parse_fields([line], once=frozenset())
        else:
            assert parse_fields([line], once=frozenset()) == {b"x-name": value + filling}
