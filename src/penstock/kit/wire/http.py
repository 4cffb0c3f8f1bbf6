"""HTTP messages as data: what a handler is given and what it may answer.

A handler returns a `Response` (whole) or a `Stream` (chunk by chunk). The server owns the framing
headers (`content-length`, `transfer-encoding`, `connection`) and `x-request-id`; a handler that
copies another reply's headers may leave them in, they are dropped.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
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
_REASONS = {status.value: status.phrase for status in HTTPStatus}
_QUERY_FIELDS_MAX = 256

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Request:
    """One request, complete with its body.

    `path` is as sent (percent-encoded), `params` are the decoded `{names}` of the route's pattern.
    `headers` has lower-case names; repeated headers are joined with ", ". `peer` is the address
    of the other end. `client_gone` is set when the connection is lost; the handler's task is
    cancelled at the same moment, so most handlers only need `try: ... finally:`.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    peer: str = ""
    client_gone: asyncio.Event = field(default_factory=asyncio.Event)
    request_id: str = ""
    params: Mapping[str, str] = field(default_factory=dict)

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
        scheme, _, token = self.headers.get(b"authorization", b"").partition(b" ")
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


def response_head(status: int, headers: Headers, framing: Iterable[tuple[str, str]]) -> bytes:
    """The status line and headers, ready to write; `framing` are the headers the server owns.

    Raises ValueError for a header that would break the head (a line end, a character outside
    Latin-1): the handler that copied it must not be able to split the response.
    """
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}"]
    lines += [f"{name}: {value}" for name, value in framing]
    lines += [f"{name}: {value}" for name, value in headers if name.lower() not in _SERVER_OWNS]
    return joined_head(lines)


def joined_head(lines: list[str]) -> bytes:
    """The lines of a head as bytes, with the blank line. Raises ValueError if one would split."""
    text = "\r\n".join(lines)
    if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1 or "\0" in text:
        raise ValueError("a header holds a line end or NUL")
    return f"{text}\r\n\r\n".encode("latin-1")


def merge_header(headers: dict[bytes, bytes], name: bytes, value: bytes) -> None:
    """Add a received header: lower-case name, trimmed value, repeats joined as RFC 9110 5.3 says."""
    name = name.lower()
    value = value.strip(b" \t")
    seen = headers.get(name)
    headers[name] = value if seen is None else seen + b", " + value


def split_target(target: str) -> tuple[str, str]:
    """(path, query) of a request target in origin or absolute form; the path stays encoded.

    Raises ValueError for any other form and for fragments.
    """
    if target.startswith(("http://", "https://")):
        slash = target.find("/", 8)
        target = target[slash:] if slash >= 0 else "/"
    if not target.startswith("/") or "#" in target:
        raise ValueError("the request target must be a path")
    path, _, query = target.partition("?")
    return path, query


def decoded(segment: str) -> str:
    """A path segment without percent-encoding."""
    return unquote(segment, errors="replace") if "%" in segment else segment
