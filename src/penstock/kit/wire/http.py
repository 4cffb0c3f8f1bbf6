"""HTTP messages as data: what a handler is given and what it may answer.

A handler returns a `Response` (whole) or a `Stream` (chunk by chunk). The server owns the framing
headers (`content-length`, `transfer-encoding`, `connection`) and `x-request-id`; a handler that
copies another reply's headers may leave them in, they are dropped.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from urllib.parse import parse_qs, unquote

import msgspec

Headers = tuple[tuple[str, str], ...]

JSON_HEADERS: Headers = (("content-type", "application/json"),)
SSE_HEADERS: Headers = (
    ("content-type", "text/event-stream; charset=utf-8"),
    ("cache-control", "no-cache"),
)

_SERVER_OWNS = frozenset({"content-length", "transfer-encoding", "connection", "x-request-id"})
_SERVER_OWNS_RAW = frozenset(name.encode("ascii") for name in _SERVER_OWNS)
# RFC 3986 3.2: what a host and port are written with.
_ABSOLUTE = re.compile(r"https?://[A-Za-z0-9.\-_~%!$&'()*+,;=:@\[\]]++(?=[/?]|\Z)").match
_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\nx-request-id: "
    for status in HTTPStatus
}
_QUERY_FIELDS_MAX = 256
_TOKENS_MAX = 1_024

_encode = msgspec.json.Encoder().encode


class Request(msgspec.Struct):
    """One request, complete with its body. Nobody changes it.

    `path` is as sent (percent-encoded), `params` are the decoded `{names}` of the route's pattern.
    `headers` has lower-case names; repeated headers are joined with ", "; how the body was framed is
    not among them. `peer` is the address of the other end. When the client leaves, the
    handler's task is cancelled: a handler that must tidy up needs only `try: ... finally:`.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[bytes, bytes] = msgspec.field(default_factory=dict)
    body: bytes = b""
    peer: str = ""
    request_id: str = ""
    params: Mapping[str, str] = msgspec.field(default_factory=dict)

    def header(self, name: str) -> str:
        """The value of the header (any case), or ""."""
        return self.headers.get(name.lower().encode("ascii"), b"").decode("latin-1")

    def query_value(self, name: str) -> str:
        """The first value of the query field, decoded, or ""."""
        if not self.query:
            return ""
        try:
            fields = parse_qs(self.query, keep_blank_values=True, max_num_fields=_QUERY_FIELDS_MAX)
        except ValueError:
            return ""  # more fields than any of our routes reads
        return fields.get(name, [""])[0]

    def bearer(self) -> str:
        """The token of `Authorization: Bearer <token>`, or ""."""
        given = self.headers.get(b"authorization")
        return _bearer(given) if given else ""


@lru_cache(maxsize=_TOKENS_MAX)  # the same callers ask all day
def _bearer(authorization: bytes) -> str:
    scheme, _, token = authorization.partition(b" ")
    return token.strip().decode("latin-1") if scheme.lower() == b"bearer" else ""


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer. Header names in lower case; values in Latin-1 without line ends."""

    status: int
    body: bytes = b""
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer whose body comes in chunks; each chunk is sent as soon as it is yielded.

    If the client goes away the iterator is closed (`aclose()`), so an async generator's `finally`
    runs. With `length` the body goes out unframed and must be exactly that many bytes; without it
    the body is sent chunked.
    """

    status: int
    headers: Headers
    chunks: AsyncIterator[bytes]
    length: int | None = None


Handler = Callable[[Request], Awaitable[Response | Stream]]


def json_response(status: int, obj: object, *, headers: Headers = ()) -> Response:
    """`obj` (anything msgspec encodes) as a JSON answer."""
    return Response(status, _encode(obj), JSON_HEADERS + headers)


def has_body(status: int) -> bool:
    """RFC 9110 6.4.1: 1xx, 204 and 304 never have a body."""
    return status >= 200 and status not in {204, 304}


def answer_head(status: int, fields: bytes, *, request_id: str, framing: str) -> bytes:
    """A status line and headers, ready to write.

    `fields` are encoded lines (`encode_fields`), `framing` the lines the server owns, each with
    its line end.
    """
    line = _STATUS_LINES.get(status)
    if line is None:
        line = f"HTTP/1.1 {status} Status\r\nx-request-id: "
    return b"%b%b\r\n" % (f"{line}{request_id}\r\n{framing}".encode("latin-1"), fields)


def encode_fields(headers: Headers) -> bytes:
    """Header lines as bytes, each with its line end, without those that the server owns.

    Raises ValueError for a header that would break the head (a line end, a character outside
    Latin-1): the handler that copied it must not be able to split the response.
    """
    lines = [f"{name}: {value}" for name, value in headers if name.lower() not in _SERVER_OWNS]
    if not lines:
        return b""
    lines.append("")
    return _checked(lines).encode("latin-1")


def encode_raw_fields(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """`encode_fields` for headers that are bytes already, names in lower case."""
    lines = [b"%b: %b\r\n" % pair for pair in headers if pair[0] not in _SERVER_OWNS_RAW]
    for line in lines:
        if line.count(b"\n") != 1 or line.count(b"\r") != 1 or b"\0" in line:
            raise ValueError("a header holds a line end or NUL")
    return b"".join(lines)


def joined_head(lines: list[str]) -> bytes:
    """The lines of a head as bytes, with the blank line. Raises ValueError if one would split."""
    return f"{_checked(lines)}\r\n\r\n".encode("latin-1")


def _checked(lines: list[str]) -> str:
    text = "\r\n".join(lines)
    ends = len(lines) - 1
    if text.count("\n") != ends or text.count("\r") != ends or "\0" in text:
        raise ValueError("a header holds a line end or NUL")
    return text


def split_target(target: str) -> tuple[str, str]:
    """(path, query) of a request target in origin or absolute form; the path stays encoded.

    Raises ValueError for any other form and for fragments.
    """
    if not target.startswith("/"):
        match = _ABSOLUTE(target)
        if match is None:
            raise ValueError("the request target must be a path")
        target = target[match.end() :]
        if not target.startswith("/"):
            target = f"/{target}"
    if "#" in target:
        raise ValueError("the request target must be a path")
    path, _, query = target.partition("?")
    return path, query


def decoded(segment: str) -> str:
    """A path segment without percent-encoding."""
    return unquote(segment, errors="replace") if "%" in segment else segment
