"""What a request's head says, and heads that were understood before.

A client sends the same head again and again but for its length, so a head is remembered whole,
without the digits of its content-length: the next one that is equal byte for byte needs no parsing
at all. Everything is read once by the strict grammar of `fields`.
"""

from dataclasses import dataclass

from penstock.kit.wire.fields import (
    Fields,
    Malformed,
    connection_options,
    content_length,
    parse_fields,
    parse_request_line,
    split_lines,
)
from penstock.kit.wire.http import Response, split_target
from penstock.kit.wire.limits import IntakeLimits
from penstock.kit.wire.problem import problem

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"})
_ONCE = frozenset({b"host", b"authorization", b"content-type", b"content-length"})
_HEADS_MAX = 1_024
_HEAD_BYTES_KEPT_MAX = 4_096
_LENGTH_DIGITS_MAX = 15


class Refused(Exception):
    """Well-formed, or nearly, and not taken: `response` says why."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


@dataclass(frozen=True, slots=True)
class Head:
    """What a request's head says.

    `headers` is shared by equal heads, so nobody writes to it, and the framing is not in it.
    """

    method: str
    path: str
    query: str
    headers: Fields
    minor: int
    keep_alive: bool
    chunked: bool
    length: int  # of the body, 0 for none
    expects: bool  # the client waits for 100 Continue before it sends a body


class Heads:
    """Heads that were understood, by their bytes without the digits of their length.

    A server has one for all its connections. It holds what clients sent, keys included, as long
    as they are among the last `heads_max` different ones.
    """

    __slots__ = ("_heads_max", "_known")

    def __init__(self, heads_max: int = _HEADS_MAX) -> None:
        self._heads_max = heads_max
        self._known: dict[bytes, Head] = {}

    def find(self, key: bytes) -> Head | None:
        """The head that `key` stands for, if it was seen."""
        return self._known.get(key)

    def keep(self, key: bytes, head: Head) -> None:
        """Remember a head; the oldest makes room."""
        known = self._known
        if len(key) > _HEAD_BYTES_KEPT_MAX:
            return
        if len(known) >= self._heads_max:
            del known[next(iter(known))]
        known[key] = head


def shape(data: bytes, end: int) -> tuple[bytes, bytes]:
    """(key, digits of the length): equal keys mean heads that differ in those digits only.

    The key is the head without the digits: it holds all other bytes, and up to the cut no other
    place where it could have been cut. If the length is missing or written in another way, the
    digits are b"" and the key is the whole head with the empty line behind it, which no cut key
    holds: else `content-length:` with nothing behind it would be taken for one with digits.
    """
    at = data.find(b"ontent-Length: ", 0, end)
    if at < 0:
        at = data.find(b"ontent-length: ", 0, end)
    if at < 3 or data[at - 3 : at].lower() != b"\r\nc":
        return data[: end + 4], b""
    at += 15
    stop = data.find(b"\r\n", at, end)
    if stop < 0:
        stop = end
    digits = data[at:stop]
    if not digits.isdigit() or len(digits) > _LENGTH_DIGITS_MAX:
        return data[: end + 4], b""
    return data[:at] + data[stop:end], digits


def read_head(raw: bytes, limits: IntakeLimits) -> Head:
    """A whole head without its last line ends. Raises Malformed, UnknownVersion, Refused."""
    lines = split_lines(raw)
    method, target, minor = parse_request_line(lines[0])
    if len(lines) - 1 > limits.headers_max:
        raise Refused(too_many_headers(limits.headers_max))
    fields = parse_fields(lines[1:], once=_ONCE)
    if minor and b"host" not in fields:
        raise Malformed("it has no host header")
    path, query = _check_target(method, target)
    length = content_length(fields)
    chunked = _check_chunked(fields, length, minor)
    close, keep = connection_options(fields)
    if _is_upgrade(fields):
        if chunked or length is not None:
            raise Malformed("an upgrade with a body is not supported")
        close = True  # we switch no protocols: the request stands, nothing follows it
    expect = fields.get(b"expect")
    if expect is not None and minor and expect.lower() != b"100-continue":
        raise Refused(problem(417, "expectation", "Only 100-continue can be expected."))
    fields.pop(b"content-length", None)
    fields.pop(b"transfer-encoding", None)
    return Head(
        method,
        path,
        query,
        fields,
        minor,
        keep_alive=not close and (keep or minor == 1),
        chunked=chunked,
        length=length or 0,
        expects=expect is not None and minor == 1,
    )


def _check_target(method: str, target: bytes) -> tuple[str, str]:
    if method not in _METHODS:
        if method == "CONNECT":
            raise Refused(problem(405, "method_not_allowed", "This is not a proxy."))
        raise Malformed("its method is unknown")
    if method == "OPTIONS" and target == b"*":
        return "*", ""
    try:
        return split_target(target.decode("ascii"))
    except ValueError as error:
        raise Malformed(str(error)) from error


def _check_chunked(fields: Fields, length: int | None, minor: int) -> bool:
    """Is the body chunked? Raises Malformed for every other encoding, and for two framings."""
    encoding = fields.get(b"transfer-encoding")
    if encoding is None:
        return False
    if encoding.lower() != b"chunked" or not minor:
        raise Malformed("chunked, in HTTP/1.1, is the only transfer-encoding")
    if length is not None:
        raise Malformed("it has a content-length and a transfer-encoding")
    return True


def _is_upgrade(fields: Fields) -> bool:
    options = fields.get(b"connection", b"").lower().split(b",")
    return b"upgrade" in fields and any(option.strip(b" \t") == b"upgrade" for option in options)


def malformed(reason: str) -> Response:
    """The answer to what is not HTTP."""
    return problem(400, "http_malformed", f"The request is not valid HTTP: {reason}.")


def too_many_headers(headers_max: int) -> Response:
    """The answer to more header lines than are taken."""
    return problem(
        431, "head_too_large", f"The request has more than {headers_max} headers. Send fewer."
    )


def head_too_large(bytes_max: int) -> Response:
    """The answer to more headers than are taken."""
    return problem(
        431,
        "head_too_large",
        f"The request's headers are larger than {bytes_max} bytes. Send fewer or shorter ones.",
    )
