"""Other people's HTTP parsers, to hold ours against: h11 (strict, Python) and llhttp (C).

Each gives its reading of one connection's bytes: the requests it takes, and whether it refuses
what comes after them. Readings are comparable: names in lower case, framing headers left out.
"""

import re
from dataclasses import dataclass, field

import h11
import httptools

from penstock.kit.wire.heads import Heads
from penstock.kit.wire.intake import Arrived, Intake
from penstock.kit.wire.limits import IntakeLimits

LIMITS = IntakeLimits(head_bytes_max=16_384, headers_max=100, body_bytes_max=100_000)
FRAMING = {b"content-length", b"transfer-encoding"}

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Taken:
    """One request as a parser understood it."""

    method: bytes
    target: bytes
    headers: Headers
    body: bytes


@dataclass(slots=True)
class Seen:
    """What a parser made of a connection."""

    requests: list[Taken] = field(default_factory=list)
    refused: str = ""  # why, if it refused what followed


def joined(pairs: list[tuple[bytes, bytes]]) -> Headers:
    """Headers as ours has them: repeats joined, framing left out, sorted."""
    values: dict[bytes, bytes] = {}
    for raw_name, raw_value in pairs:
        name, value = raw_name.lower(), raw_value.strip(b" \t")
        values[name] = values[name] + b", " + value if name in values else value
    return tuple(sorted((name, value) for name, value in values.items() if name not in FRAMING))


def origin_form(target: bytes) -> bytes:
    """A target without scheme and host, as ours has it."""
    path = re.sub(rb"^https?://[^/?]*", b"", target)
    if path.count(b"?") == 1:
        path = path.removesuffix(b"?")
    return path if path.startswith((b"/", b"*")) else b"/" + path


def our_reading(parts: list[bytes], heads: Heads | None = None) -> Seen:
    """By `Intake`, which may know heads from before."""
    intake = Intake(LIMITS, heads=heads)
    seen = Seen()
    for part in parts:
        for item in intake.feed(part):
            assert isinstance(item, Arrived)
            assert item.body is not None
            head = item.head
            query = f"?{head.query}" if head.query else ""
            seen.requests.append(
                Taken(
                    head.method.encode(),
                    f"{head.path}{query}".encode(),
                    tuple(sorted(head.headers.items())),
                    item.body,
                )
            )
    if intake.refusal is not None:
        seen.refused = f"{intake.refusal.status} {intake.refusal.body.decode()}"
    return seen


def h11_reading(data: bytes) -> Seen:
    """By h11 as a server that answers each request at once."""
    seen = Seen()
    connection = h11.Connection(h11.SERVER)
    request: h11.Request | None = None
    body = b""
    try:
        connection.receive_data(data)
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                request, body = event, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                seen.requests.append(
                    Taken(
                        request.method,
                        origin_form(request.target),
                        joined(list(request.headers)),
                        body,
                    )
                )
                answer = h11.Response(status_code=200, headers=[("content-length", "0")])
                connection.send(answer)
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    return seen
                connection.start_next_cycle()
            else:
                return seen  # it wants more, or it takes no more
    except h11.RemoteProtocolError as error:
        seen.refused = str(error)
    return seen


class _Llhttp:
    """httptools' callbacks."""

    def __init__(self) -> None:
        self.seen = Seen()
        self.last = False
        self.parser = httptools.HttpRequestParser(self)
        self.target = b""
        self.pairs: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.in_body = False

    def on_message_begin(self) -> None:
        self.target, self.pairs, self.body, self.in_body = b"", [], b"", False

    def on_url(self, part: bytes) -> None:
        self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.in_body:
            self.pairs.append((name, value))

    def on_headers_complete(self) -> None:
        self.in_body = True

    def on_body(self, part: bytes) -> None:
        self.body += part

    def on_message_complete(self) -> None:
        if not self.last:
            self.seen.requests.append(
                Taken(
                    self.parser.get_method(),
                    origin_form(self.target),
                    joined(self.pairs),
                    self.body,
                )
            )
        self.last = self.last or not self.parser.should_keep_alive()


def llhttp_reading(data: bytes) -> Seen:
    """By llhttp, as strict as it comes."""
    one = _Llhttp()
    try:
        one.parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # the request stands, the connection would speak something else now
    except httptools.HttpParserError as error:
        if not one.last:
            one.seen.refused = str(error)
    return one.seen
