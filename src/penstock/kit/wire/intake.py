"""Request bytes to complete requests: HTTP/1.1 parsing with bounds, apart from any transport.

llhttp does the grammar and refuses the known smuggling tricks (two lengths, length with chunked,
bare LF, folded headers, space before the colon, NUL, bad chunk sizes). This file adds what a
grammar does not know: bounds, one `host`, only `chunked`, only versions 1.0 and 1.1.
"""

import enum

import httptools

from penstock.kit.wire.http import Response, merge_header, split_target
from penstock.kit.wire.limits import IntakeLimits
from penstock.kit.wire.problem import problem

_ONCE = frozenset({b"host", b"authorization", b"content-type", b"content-length"})


class Phase(enum.Enum):
    """Where the next byte belongs."""

    BETWEEN = "between"
    HEAD = "head"
    BODY = "body"
    REFUSED = "refused"


class Arrived:
    """One complete request as parsed; the server adds what it knows of the connection."""

    __slots__ = ("body", "headers", "keep_alive", "method", "minor", "path", "query")

    def __init__(self) -> None:
        self.method = ""
        self.path = ""
        self.query = ""
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.keep_alive = False
        self.minor = 1


class _Refuse(Exception):
    """Carries a refusal out of llhttp's callbacks."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


class Intake:
    """Feed it bytes; take complete requests, or one refusal, after which it takes no more."""

    def __init__(self, limits: IntakeLimits) -> None:
        self.phase = Phase.BETWEEN
        self.refusal: Response | None = None
        self.continue_wanted = False  # the client waits for 100 Continue before it sends its body
        self._limits = limits
        self._parser = httptools.HttpRequestParser(self)
        self._ready: list[Arrived] = []
        self._now = Arrived()
        self._target = b""
        self._parts: list[bytes] = []
        self._body_bytes = 0
        self._head_bytes = 0
        self._header_count = 0
        self._dry_bytes = 0  # bytes fed since something last came of them
        self._last = False  # the client said this was its last request

    @property
    def held_bytes(self) -> int:
        """How much there is of a body that is still arriving."""
        return self._body_bytes if self.phase is Phase.BODY else 0

    def turn_away(self, response: Response) -> None:
        """Refuse the request that is arriving, for a reason that lies outside this connection."""
        self._refuse(response)

    def feed(self, data: bytes) -> list[Arrived]:
        """The requests that `data` completes; look at `refusal` afterwards. Never raises."""
        if self.phase is Phase.REFUSED or self._last:
            return []
        phase = self.phase
        body_bytes = self._body_bytes
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._last = True  # we switch no protocols: the request stands, nothing follows it
        except httptools.HttpParserError as error:
            self._fail(error)
        self._bound(phase, body_bytes, len(data))
        ready, self._ready = self._ready, []
        return ready

    def _fail(self, error: httptools.HttpParserError) -> None:
        if self._last:
            return  # bytes after the client's last request: nobody will answer them
        cause = error.__context__
        if isinstance(cause, _Refuse):
            self._refuse(cause.response)
        else:
            self._refuse(problem(400, "http_malformed", f"The request is not valid HTTP: {error}."))

    def _bound(self, phase: Phase, body_bytes: int, size: int) -> None:
        """The parser holds an unfinished header or trailer for us, so count bytes that gave nothing."""
        moved = phase is not self.phase or body_bytes != self._body_bytes or self._ready
        self._dry_bytes = 0 if moved else self._dry_bytes + size
        if self._dry_bytes > self._limits.head_bytes_max and self.phase is not Phase.REFUSED:
            self._refuse(_head_too_large(self._limits.head_bytes_max))

    def _refuse(self, response: Response) -> None:
        self.refusal = response
        self.phase = Phase.REFUSED
        self._parts.clear()

    # The names below are httptools' callbacks.

    def on_message_begin(self) -> None:
        self.phase = Phase.HEAD
        self._now = Arrived()
        self._target = b""
        self._head_bytes = self._header_count = self._body_bytes = 0

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.phase is not Phase.HEAD:
            return  # a trailer: nothing of ours reads them
        self._head_bytes += len(name) + len(value) + 4
        self._header_count += 1
        limits = self._limits
        if self._head_bytes > limits.head_bytes_max or self._header_count > limits.headers_max:
            raise _Refuse(_head_too_large(self._limits.head_bytes_max))
        headers = self._now.headers
        if name.lower() in _ONCE and name.lower() in headers:
            raise _Refuse(_malformed(f"it has two {name.decode('latin-1')} headers"))
        merge_header(headers, name, value)

    def on_headers_complete(self) -> None:
        now = self._now
        now.method = self._parser.get_method().decode("ascii")
        version = self._parser.get_http_version()
        if version not in {"1.1", "1.0"}:
            raise _Refuse(problem(505, "http_version", "Only HTTP/1.1 and HTTP/1.0 are spoken."))
        now.minor = 1 if version == "1.1" else 0
        if now.minor and b"host" not in now.headers:
            raise _Refuse(_malformed("it has no host header"))
        if len(self._target) + self._head_bytes > self._limits.head_bytes_max:
            raise _Refuse(_head_too_large(self._limits.head_bytes_max))
        self._check_target()
        self._check_framing()
        self.phase = Phase.BODY

    def on_body(self, part: bytes) -> None:
        self._body_bytes += len(part)
        if self._body_bytes > self._limits.body_bytes_max:
            raise _Refuse(_body_too_large(self._limits.body_bytes_max))
        self._parts.append(part)

    def on_message_complete(self) -> None:
        now = self._now
        parts = self._parts
        if parts:
            now.body = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
        now.keep_alive = self._parser.should_keep_alive()  # only true to its word in here
        self._last = not now.keep_alive
        self._ready.append(now)
        self.continue_wanted = False
        self.phase = Phase.BETWEEN

    def _check_target(self) -> None:
        now = self._now
        if now.method == "CONNECT":
            raise _Refuse(problem(405, "method_not_allowed", "This is not a proxy."))
        try:
            now.path, now.query = split_target(self._target.decode("ascii"))
        except ValueError as error:
            if now.method == "OPTIONS" and self._target == b"*":
                now.path = "*"
                return
            raise _Refuse(_malformed(str(error))) from error

    def _check_framing(self) -> None:
        headers = self._now.headers
        encoding = headers.get(b"transfer-encoding")
        length = headers.get(b"content-length")
        if encoding is not None and (encoding.lower() != b"chunked" or not self._now.minor):
            raise _Refuse(_malformed("chunked, in HTTP/1.1, is the only transfer-encoding"))
        if length is not None and int(length) > self._limits.body_bytes_max:
            raise _Refuse(_body_too_large(self._limits.body_bytes_max))
        if self._parser.should_upgrade() and (encoding is not None or length not in {None, b"0"}):
            raise _Refuse(_malformed("an upgrade with a body is not supported"))
        expect = headers.get(b"expect")
        if expect is not None and self._now.minor:
            if expect.lower() != b"100-continue":
                raise _Refuse(problem(417, "expectation", "Only 100-continue can be expected."))
            self.continue_wanted = encoding is not None or length not in {None, b"0"}


def _malformed(reason: str) -> Response:
    return problem(400, "http_malformed", f"The request is not valid HTTP: {reason}.")


def _head_too_large(bytes_max: int) -> Response:
    return problem(
        431,
        "head_too_large",
        f"The request's headers are larger than {bytes_max} bytes. Send fewer or shorter ones.",
    )


def _body_too_large(bytes_max: int) -> Response:
    return problem(
        413,
        "body_too_large",
        f"The request's body is larger than the {bytes_max} bytes taken here. Send less at once.",
    )
