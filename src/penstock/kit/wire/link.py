"""The client's end of one connection: one exchange at a time, told to a receiver by callbacks.

A link takes no decisions: whoever begins an exchange gets the reply's head, its body bytes as each
read brings them, and one end. Deadlines are the receiver's: `abort` ends an exchange at any time.
"""

import asyncio
import enum
from typing import Protocol, cast

from penstock.kit.errors import BadReply, PeerClosed, WireError
from penstock.kit.wire.dechunk import Dechunker
from penstock.kit.wire.fields import (
    ODD_LINE_END,
    Fields,
    Malformed,
    connection_options,
    content_length,
    parse_fields,
    parse_status_line,
)
from penstock.kit.wire.scan import plain_fields

HEAD_BYTES_MAX = 65_536
_HEADERS_MAX = 256
_ONCE = frozenset({b"content-length", b"transfer-encoding", b"content-type"})
_GOOD_LINE = b"HTTP/1.1 200 OK\r\n"
_GOOD_BYTES = len(_GOOD_LINE)

LinkKey = tuple[str, int, bool]
"""(host, port, tls): links with the same key are the same to a caller."""


class Receiver(Protocol):
    """Who gets a reply. After `on_end` or `on_lost` nothing more is called.

    Every callback may call `pause`, `resume` or `abort` of the link, and `on_end` also `release`.
    """

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """The final status and headers; names in lower case, repeats joined with ", "."""
        ...

    def on_body(self, data: bytes) -> None:
        """All body bytes of one read, without their framing."""
        ...

    def on_end(self) -> None:
        """The reply is whole; the link waits for `release`."""
        ...

    def on_lost(self, error: WireError) -> None:
        """PeerClosed or BadReply; the link is closed already."""
        ...


class Home(Protocol):
    """Where a link rests between exchanges."""

    def put(self, link: "Link") -> None:
        """Keep it for another exchange, or close it."""
        ...

    def forget(self, link: "Link") -> None:
        """A resting link was closed by its server."""
        ...


class _Stage(enum.Enum):
    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    DONE = "done"  # the reply is whole, the link is not released


_IDLE, _HEAD, _BODY, _DONE = _Stage.IDLE, _Stage.HEAD, _Stage.BODY, _Stage.DONE
_UNTIL_CLOSE = -1


class Link(asyncio.Protocol):
    """A connection to a server; `HttpClient` makes it and keeps it between exchanges."""

    __slots__ = (
        "_dechunker",
        "_held",
        "_home",
        "_is_head",
        "_left",
        "_loop",
        "_lost",
        "_reading",
        "_receiver",
        "_reusable",
        "_stage",
        "_taken",
        "_transport",
        "idle_since",
        "key",
        "resting",
    )

    def __init__(self, key: LinkKey, home: Home | None = None) -> None:
        self.key = key
        self.resting = False  # in its home
        self.idle_since = 0.0
        self._home = home
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._receiver: Receiver | None = None
        self._stage = _IDLE
        self._lost = False
        self._reading = True
        self._reusable = False
        self._is_head = False  # the request's method is HEAD
        self._held: bytearray | None = None  # a head that has not ended
        self._dechunker: Dechunker | None = None
        self._left = 0  # body bytes to come
        self._taken = 0  # bytes of the reply seen so far, head included

    # Called by whoever uses the link.

    @property
    def alive(self) -> bool:
        """Can it carry a request, as far as we know?"""
        return not self._lost and not self._transport.is_closing()

    @property
    def is_whole(self) -> bool:
        """Has the present exchange come to its end?"""
        return self._stage is _DONE

    def begin(self, method: str, request: bytes, receiver: Receiver) -> None:
        """Write a request; the receiver is told of its reply.

        If the connection is lost already, it is told so from the loop, not from in here.
        """
        assert self._stage is _IDLE, "a link carries one exchange at a time"
        self._receiver = receiver
        self._stage = _HEAD
        self._is_head = method == "HEAD"
        self._taken = 0
        if self._lost:
            self._loop.call_soon(self._fail, PeerClosed(0))
        else:
            self._transport.write(request)

    def pause(self) -> None:
        """Read no further: the receiver has enough."""
        if self._reading and self._stage is not _DONE:
            self._reading = False
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if not self._reading:
            self._reading = True
            if not self._lost:
                self._transport.resume_reading()

    def release(self) -> None:
        """The exchange is over: back to the pool if the link can carry another, else closed.

        Before the reply's end this cuts the connection, which is how a cancel reaches the peer.
        """
        if self._stage is _DONE and self._reusable and self.alive and self._home is not None:
            self._receiver = self._dechunker = None
            self._stage = _IDLE
            self.resume()
            self._home.put(self)
        else:
            self.abort()

    def close(self) -> None:
        """Close a link that rests."""
        self._transport.close()

    def abort(self) -> None:
        """Cut the connection: the server's handler is cancelled. The receiver hears no more."""
        self._receiver = None
        self._transport.abort()

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's do not inherit from it

    def data_received(self, data: bytes) -> None:
        """Parse, and tell the receiver."""
        receiver = self._receiver
        if receiver is None or self._stage is _DONE:
            self._reusable = False
            self._transport.abort()  # bytes that nobody asked for: never reuse this connection
            return
        self._taken += len(data)
        try:
            if self._stage is _BODY:
                self._take_body(receiver, data)
            else:
                self._take_head(receiver, data)
        except Malformed as error:
            self._fail(BadReply(str(error)))

    def eof_received(self) -> bool:
        """The server closes; that ends a body which has no other end."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the receiver, unless the reply was complete."""
        self._lost = True
        if self.resting and self._home is not None:
            self._home.forget(self)
        receiver = self._receiver
        if receiver is None or self._stage is _DONE:
            return
        if self._stage is _BODY and self._left == _UNTIL_CLOSE and exc is None:
            self._finish(receiver)
        else:
            self._fail(PeerClosed(self._taken))

    # Inside.

    def _take_head(self, receiver: Receiver, data: bytes) -> None:
        if self._held is not None:
            self._held += data
            data = bytes(self._held)
            self._held = None
        final = self._final_head(data)
        if final is None:
            return
        status, fields, behind = final
        done = self._left == 0 and self._dechunker is None
        if done:
            self._reusable = self._reusable and not behind
            self._stage = _DONE
        receiver.on_head(status, fields)
        if self._receiver is not receiver:
            return
        if done:
            receiver.on_end()
        elif behind:
            self._take_body(receiver, behind)

    def _final_head(self, data: bytes) -> tuple[int, Fields, bytes] | None:
        """(status, headers, what is behind the head); None while it has not ended.

        Interim heads (100 Continue and its kin) are skipped.
        """
        if data.startswith(_GOOD_LINE):
            plain = plain_fields(data, _GOOD_BYTES)
            if plain is not None and plain[1] <= HEAD_BYTES_MAX:
                fields, end = plain
                self._begin_body(200, fields, 1)
                return 200, fields, data[end:]
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._hold(data)
                return None
            # No line that is taken below holds a CR or LF, so they are not counted here.
            lines = data[:end].split(b"\r\n")
            status, minor = parse_status_line(lines[0])
            if len(lines) > _HEADERS_MAX or end > HEAD_BYTES_MAX:
                raise Malformed(f"its head is larger than {HEAD_BYTES_MAX} bytes")
            del lines[0]
            fields = parse_fields(lines, once=_ONCE)
            if status >= 200:
                self._begin_body(status, fields, minor)
                return status, fields, data[end + 4 :]
            if status == 101:
                raise Malformed("it switches protocols")
            data = data[end + 4 :]

    def _hold(self, data: bytes) -> None:
        """Keep an unfinished head, within the bound."""
        if self._taken > HEAD_BYTES_MAX:
            raise Malformed(f"its head is larger than {HEAD_BYTES_MAX} bytes")
        if ODD_LINE_END(data) is not None:
            raise Malformed("a line does not end with CR LF")
        if data:
            self._held = bytearray(data)

    def _begin_body(self, status: int, fields: Fields, minor: int) -> None:
        """How the body ends, and whether the link can carry another exchange after it."""
        close, keep = connection_options(fields)
        self._reusable = not close and (keep or minor == 1)
        self._stage = _BODY
        self._dechunker = None
        length = content_length(fields)
        encoding = fields.get(b"transfer-encoding")
        if encoding is not None:
            if encoding.lower() != b"chunked" or not minor:
                raise Malformed("its transfer-encoding is not chunked")
            if length is not None:
                raise Malformed("it has a content-length and a transfer-encoding")
        if self._is_head or status in {204, 304}:
            self._left = 0
            # A server that sends a body all the same must not answer the next request with it.
            self._reusable = self._reusable and not self._is_head
        elif encoding is not None:
            self._left = 0
            self._dechunker = Dechunker(trailer_bytes_max=HEAD_BYTES_MAX)
        elif length is not None:
            self._left = length
        else:
            self._left = _UNTIL_CLOSE
            self._reusable = False

    def _take_body(self, receiver: Receiver, data: bytes) -> None:
        dechunker = self._dechunker
        done = False
        if dechunker is not None:
            data = dechunker.feed(data)
            if dechunker.done:
                done = True
                if dechunker.rest:
                    self._reusable = False
        elif self._left != _UNTIL_CLOSE:
            left = self._left - len(data)
            if left < 0:
                data = data[:left]
                left = 0
                self._reusable = False
            self._left = left
            done = left == 0
        if done:
            self._stage = _DONE
        if data:
            receiver.on_body(data)
        if done and self._receiver is receiver:
            receiver.on_end()

    def _finish(self, receiver: Receiver) -> None:
        self._stage = _DONE
        receiver.on_end()

    def _fail(self, error: WireError) -> None:
        receiver, self._receiver = self._receiver, None
        self._transport.abort()
        if receiver is not None:
            receiver.on_lost(error)
