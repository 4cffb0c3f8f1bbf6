"""The inner loops of a relay: sizes off the chunks of a read, its events counted, a head's fields.

Each is a pure function with two twins: the one in Python here says what it means, the one in C
(`_scan.c`, built by `make fast`, ADR 15) does it in a fraction of the time. Both answer for the
plain case only; what is not plain is walked by the caller, by the one grammar there is.
"""

from collections.abc import Callable

from penstock.kit.environment import inherited
from penstock.kit.wire.fields import Fields, Malformed, parse_fields

PURE = "PENSTOCK_PURE"
"""The variable that leaves the compiled twin out: any value but nothing."""

_EVENT_END = b"\n\n"
_COMMENT = b"\n\n:"
_COLON = b":"
FIELDS_MAX = 255
NAME_BYTES_MAX = 64
_ANY: frozenset[bytes] = frozenset()
_SPLIT_SIZE_MAX = 8_192
_SPLIT_BYTES_MIN = 64
_PLAIN_LINE_BYTES_MAX = 8
_SIZES = {b"%x" % size: size for size in range(1, _SPLIT_SIZE_MAX)}


def plain_chunks_in_python(data: bytes, at: int) -> tuple[bytes, int]:
    """The bodies of plain whole chunks (RFC 9112 7.1; lower-case size, no extension) from `at` on,
    joined, and where they end. Chunks may be left over: then the caller reads on from there.

    Split at every CR LF, a read of a fast stream is sizes and bodies in turn, and if each body is
    exactly as long as the size before it says, then that reading is the one the grammar gives.
    """
    first = data.find(b"\r\n", at, at + _PLAIN_LINE_BYTES_MAX) + 2
    if len(data) - first - 2 == _SIZES.get(data[at : first - 2]) and data.endswith(b"\r\n"):
        return data[first:-2], len(data)  # one whole chunk: what a paced stream's read brings
    if len(data) - at < _SPLIT_BYTES_MIN:
        return b"", at
    parts = (data[at:] if at else data).split(b"\r\n")
    ends = (len(parts) - 1) & ~1  # the last part is what no line end has closed yet
    sizes = parts[0:ends:2]
    if sizes and sizes[-1] == b"0":
        sizes.pop()  # the last chunk and the empty line behind it
        ends -= 2
    found = parts[1:ends:2]
    if list(map(_SIZES.get, sizes)) != list(map(len, found)):
        return b"", at
    body = b"".join(found)
    return body, at + sum(map(len, sizes)) + len(body) + 4 * len(found)


def plain_events_in_python(data: bytes) -> int:
    """How many events these bytes are, if they are whole events that end their lines with LF and no
    comment is among them; else -1. JSON never holds a raw line end, so an empty line ends an event.
    """
    if data[-2:] != _EVENT_END or data[:1] == _COLON or _COMMENT in data or b"\r" in data:
        return -1
    return data.count(_EVENT_END)


def plain_fields_in_python(data: bytes, at: int) -> tuple[Fields, int] | None:
    """The header fields from `at` on, names in lower case, and where the empty line behind them ends: if
    they are all here and well-formed, no name is there twice or very long, and they are not too many.
    Else None.
    """
    if data.startswith(b"\r\n", at):
        return {}, at + 2
    end = data.find(b"\r\n\r\n", at)
    if end < 0:
        return None
    lines = data[at:end].split(b"\r\n")
    if len(lines) > FIELDS_MAX:
        return None
    try:
        fields = parse_fields(lines, once=_ANY)
    except Malformed:
        return None
    if len(fields) < len(lines) or any(len(name) > NAME_BYTES_MAX for name in fields):
        return None
    return fields, end + 4


plain_chunks: Callable[[bytes, int], tuple[bytes, int]] = plain_chunks_in_python
plain_events: Callable[[bytes], int] = plain_events_in_python
plain_fields: Callable[[bytes, int], tuple[Fields, int] | None] = plain_fields_in_python
is_compiled = False
"""Does the twin in C do it here?"""

if not any(inherited((PURE,)).values()):
    try:
        from penstock.kit.wire import _scan

        found = _scan.plain_chunks, _scan.plain_events, _scan.plain_fields
    except (
        ImportError,
        AttributeError,
    ):  # it was not built, or from other source: the ones above serve
        is_compiled = False
    else:
        plain_chunks, plain_events, plain_fields = found
        is_compiled = True
