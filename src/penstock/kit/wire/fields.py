"""The grammar of heads: request lines, status lines and header fields, as strict as RFC 9112 allows.

One grammar for both ends of the wire and for trailers. What two parsers could read differently is
refused: bare CR or LF, folded lines, space before the colon, control characters, a second length.
Lines repeat from message to message, so what a line means is remembered; what was never seen is
matched by a regular expression, which Python runs in C.
"""

import re
from functools import lru_cache

_LINES_MAX = 4_096
_LINE_BYTES_MAX = 512  # longer ones do not repeat and would only fill the memory
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
# RFC 9110 5.5: visible characters, space, tab and obs-text; no other control character.
_FIELD = re.compile(rb"(" + _TOKEN + rb"):([^\x00-\x08\x0a-\x1f\x7f]*+)").fullmatch
_NAME = re.compile(_TOKEN).fullmatch
_CONTROLS = bytes([*range(9), *range(10, 32), 127])
_STATUS = re.compile(
    rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [^\x00-\x08\x0a-\x1f\x7f]*+)?"
).fullmatch
_REQUEST = re.compile(rb"(" + _TOKEN + rb") ([!-~]++) HTTP/([0-9])\.([0-9])").fullmatch
_SIMPLE_REQUEST = re.compile(_TOKEN + rb" [!-~]++").fullmatch
_DIGITS = re.compile(rb"[0-9]{1,15}").fullmatch
# A line end that is not CR LF. A CR at the very end may still get its LF.
starts_token = re.compile(_TOKEN).match
ODD_LINE_END = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)").search

Fields = dict[bytes, bytes]


class Malformed(ValueError):
    """The head is not HTTP/1.1; the text says what is wrong with it."""


class UnknownVersion(Malformed):
    """Not a version of HTTP that we speak."""


def split_lines(raw: bytes) -> list[bytes]:
    """The lines of a head, without its last line ends. Raises Malformed for a bare CR or LF."""
    lines = raw.split(b"\r\n")
    if raw.count(b"\r") != len(lines) - 1 or raw.count(b"\n") != len(lines) - 1:
        raise Malformed("a line does not end with CR LF")
    return lines


def parse_request_line(line: bytes) -> tuple[str, bytes, int]:
    """(method, target, minor version). Raises Malformed, UnknownVersion."""
    match = _REQUEST(line)
    if match is None:
        if _SIMPLE_REQUEST(line) is not None:
            raise UnknownVersion("HTTP/0.9")
        raise Malformed("its first line is not a request line")
    method, target, major, minor = match.groups()
    if major != b"1" or minor not in b"01":
        raise UnknownVersion(f"HTTP/{major.decode()}.{minor.decode()}")
    return method.decode("ascii"), target, int(minor)


def parse_status_line(line: bytes) -> tuple[int, int]:
    """(status, minor version). Raises Malformed."""
    match = _STATUS(line)
    if match is None:
        raise Malformed("its first line is not a status line")
    return int(match[2]), int(match[1])


def parse_fields(lines: list[bytes], *, once: frozenset[bytes]) -> Fields:
    """Header lines to a mapping: lower-case names, trimmed values, repeats joined with ", ".

    A name in `once` may not repeat (RFC 9110 5.3 joins only what is defined as a list). Raises
    Malformed.
    """
    fields: Fields = {}
    for line in lines:
        name, value = _known(line) if len(line) <= _LINE_BYTES_MAX else _parse_long(line)
        if name not in fields:
            fields[name] = value
        elif name in once:
            raise Malformed(f"it has two {name.decode('latin-1')} headers")
        else:
            fields[name] += b", " + value
    return fields


def content_length(fields: Fields) -> int | None:
    """The announced length, None when there is none. Raises Malformed if it is not digits."""
    value = fields.get(b"content-length")
    if value is None:
        return None
    if _DIGITS(value) is None:
        raise Malformed("its content-length is not a number")
    return int(value)


def connection_options(fields: Fields) -> tuple[bool, bool]:
    """(close, keep-alive): which of the two the `connection` header names."""
    value = fields.get(b"connection")
    if value is None:
        return False, False
    options = [option.strip(b" \t") for option in value.lower().split(b",")]
    return b"close" in options, b"keep-alive" in options


def _parse_field(line: bytes) -> tuple[bytes, bytes]:
    match = _FIELD(line)
    if match is None:
        raise Malformed("a header line is malformed")
    return match[1].lower(), match[2].strip(b" \t")


def _parse_long(line: bytes) -> tuple[bytes, bytes]:
    """The same for a line of kilobytes, at a third of the time: a whole value is looked at at once."""
    name, colon, value = line.partition(b":")
    if not colon or _NAME(name) is None or len(value.translate(None, _CONTROLS)) != len(value):
        raise Malformed("a header line is malformed")
    return name.lower(), value.strip(b" \t")


_known = lru_cache(maxsize=_LINES_MAX)(_parse_field)
