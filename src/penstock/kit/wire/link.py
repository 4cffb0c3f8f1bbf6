"""The client's end of one connection: one exchange at a time, chunks as they arrive.

Chunks keep the network's grain: one read gives at most one chunk, and nothing waits for more. A
reader that falls behind stops the transport's reading at a high-water mark.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

import httptools

from penstock.kit.errors import BadReply, DeadlinePassed, PeerClosed, WireError
from penstock.kit.wire.http import merge_header

HEAD_BYTES_MAX = 65_536
READ_BYTES_HIGH = 256 * 1024

LinkKey = tuple[str, int, bool]
"""(host, port, tls): links with the same key are the same to a caller."""


class Link(asyncio.Protocol):
    """A connection to a server; `HttpClient` keeps it in its pool between exchanges."""

    __slots__ = (
        "_buffered",
        "_chunks",
        "_dry_bytes",
        "_error",
        "_fresh",
        "_loop",
        "_lost",
        "_method",
        "_parser",
        "_reading",
        "_taken",
        "_timer",
        "_transport",
        "_until_close",
        "_wait_until",
        "_waiter",
        "_waits",
        "complete",
        "headers",
        "idle_since",
        "key",
        "on_lost",
        "reusable",
        "status",
    )

    def __init__(self, key: LinkKey) -> None:
        self.key = key
        self.on_lost: Callable[[Link], None] | None = None  # set while it rests in a pool
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser: httptools.HttpResponseParser | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wait_until = 0.0
        self._waits = 0  # deadline of the present wait in ms, for the error
        self._lost = False
        self._reading = True
        self.idle_since = 0.0
        self._reset("GET")

    def _reset(self, method: str) -> None:
        self._method = method
        self._chunks: deque[bytes] = deque()
        self._fresh: list[bytes] = []
        self._buffered = 0
        self._taken = 0  # bytes of the reply seen so far, head included
        self._dry_bytes = 0
        self._error: WireError | None = None
        self._until_close = False
        self.status = 0  # 0 until the head is complete
        self.headers: dict[bytes, bytes] = {}
        self.complete = False
        self.reusable = False

    # Called by the client.

    @property
    def alive(self) -> bool:
        """Can it carry a request, as far as we know?"""
        return not self._lost and not self._transport.is_closing()

    def begin(self, method: str, request: bytes) -> None:
        """Write a request; the reply's head and chunks follow."""
        self._reset(method)
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(request)

    async def head(self) -> None:
        """Wait for the final status and headers. Raises WireError; the caller sets the deadline."""
        while not self.status:
            if self._error is not None:
                raise self._error
            await self._wait()

    async def next_chunk(self, idle_deadline_ms: int | None) -> bytes:
        """The next chunk, b"" at the end. Raises PeerClosed, BadReply, DeadlinePassed.

        With None the caller has set a deadline around the whole.
        """
        while not self._chunks:
            if self.complete:
                return b""
            if self._error is not None:
                raise self._error
            if idle_deadline_ms is not None:
                self._expect(idle_deadline_ms)
            await self._wait()
        chunk = self._chunks.popleft()
        self._buffered -= len(chunk)
        if not self._reading and self._buffered < READ_BYTES_HIGH // 2:
            self._reading = True
            self._transport.resume_reading()
        return chunk

    def end(self) -> bool:
        """End the exchange; returns whether the link can carry another. If not, it is closed."""
        keep = self.complete and self.reusable and self.alive and not self._chunks
        self._parser = None
        self._wait_until = 0.0
        if not keep:
            self.abort()
        return keep

    def close(self) -> None:
        """Close a link that is not needed any more."""
        self._transport.close()

    def abort(self) -> None:
        """Cut the connection: the server's handler is cancelled."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._transport.abort()

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's do not inherit from it

    def data_received(self, data: bytes) -> None:
        """Parse; hand what one read brought to the reader as one chunk."""
        parser = self._parser
        if parser is None or self._error is not None or self.complete:
            self._transport.abort()  # bytes that nobody asked for: never reuse this connection
            return
        self._taken += len(data)
        before = self.status
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(BadReply("it switches protocols"))
        except httptools.HttpParserError as error:
            if not self.complete:
                self._fail(BadReply(str(error)))
            self.reusable = False
        self._hand_over(len(data), moved=before != self.status)

    def eof_received(self) -> bool:
        """The server closes; that ends a body which has no other end."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the reader, unless the reply was complete."""
        self._lost = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._parser is not None and not self.complete and self._error is None:
            if self._until_close and exc is None:
                self.complete = True
            else:
                self._error = PeerClosed(self._taken)
        self._wake()
        if self.on_lost is not None:
            self.on_lost(self)

    # Called by httptools.

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:
            merge_header(self.headers, name, value)

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status < 200:
            self.headers = {}
            return
        if self.complete:
            return
        self.status = status
        encoding = self.headers.get(b"transfer-encoding")
        if encoding is not None and encoding.lower() != b"chunked":
            self._fail(BadReply("its transfer-encoding is not chunked"))
            return
        bodiless = status in {204, 304}
        framed = encoding is not None or b"content-length" in self.headers
        self._until_close = not framed and not bodiless
        if self._method == "HEAD":
            self.complete = True  # llhttp would wait for the body; drop the connection instead

    def on_body(self, part: bytes) -> None:
        if not self.complete and self.status:
            self._fresh.append(part)

    def on_message_complete(self) -> None:
        assert self._parser is not None
        if not self.status:
            return  # 100 Continue and its kin
        if self.complete:
            self.reusable = False  # a second reply to one request
            return
        self.complete = True
        self.reusable = self._parser.should_keep_alive()  # only true to its word in here

    # Inside.

    def _hand_over(self, size: int, *, moved: bool) -> None:
        fresh = self._fresh
        if fresh:
            chunk = fresh[0] if len(fresh) == 1 else b"".join(fresh)
            self._fresh = []
            self._chunks.append(chunk)
            self._buffered += len(chunk)
            if self._buffered > READ_BYTES_HIGH and self._reading and not self.complete:
                self._reading = False
                self._transport.pause_reading()
        if fresh or moved or self.complete:
            self._dry_bytes = 0
        else:
            self._dry_bytes += size
            if self._dry_bytes > HEAD_BYTES_MAX:
                self._fail(BadReply(f"a header is larger than {HEAD_BYTES_MAX} bytes"))
                return
        if fresh or moved or self.complete or self._error is not None:
            self._wake()

    def _fail(self, error: WireError) -> None:
        if self._error is None:
            self._error = error
        self._transport.abort()
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _expect(self, idle_deadline_ms: int) -> None:
        """Fail the present wait after the deadline; one timer serves a whole stream of waits."""
        self._waits = idle_deadline_ms
        self._wait_until = self._loop.time() + idle_deadline_ms / 1000
        if self._timer is not None:
            if self._timer.when() <= self._wait_until:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(self._wait_until, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done() or not self._wait_until:
            return
        if self._loop.time() < self._wait_until:
            self._timer = self._loop.call_at(self._wait_until, self._look)
        else:
            self._fail(DeadlinePassed("chunk", self._waits))
