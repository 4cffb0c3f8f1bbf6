"""A reply for a coroutine: what a link tells by callbacks, to be awaited.

Chunks keep the network's grain: one read gives at most one chunk, and nothing waits for more. A
reader that falls behind stops the link's reading at a high-water mark.
"""

import asyncio
from collections import deque

from penstock.kit.errors import DeadlinePassed, WireError
from penstock.kit.wire.link import Link

READ_BYTES_HIGH = 256 * 1024


class Reading:
    """The `Receiver` of one exchange, begun by `begin`."""

    __slots__ = (
        "_buffered_bytes",
        "_chunks",
        "_error",
        "_loop",
        "_timer",
        "_wait_until",
        "_waiter",
        "_waits_ms",
        "headers",
        "link",
        "status",
        "whole",
    )

    def __init__(self, link: Link) -> None:
        self.link = link
        self.status = 0  # 0 until the head is here
        self.headers: dict[bytes, bytes] = {}
        self.whole = False
        self._chunks: deque[bytes] = deque()
        self._buffered_bytes = 0
        self._error: WireError | None = None
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wait_until = 0.0
        self._waits_ms = 0  # deadline of the present wait, for the error

    # Called by the client.

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
            if self.whole:
                return b""
            if self._error is not None:
                raise self._error
            if idle_deadline_ms is not None:
                self._expect(idle_deadline_ms)
            await self._wait()
        chunk = self._chunks.popleft()
        self._buffered_bytes -= len(chunk)
        if self._buffered_bytes < READ_BYTES_HIGH // 2:
            self.link.resume()
        return chunk

    def end(self) -> None:
        """Nobody reads on: the link rests, or is cut if the reply was not read to its end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._chunks:
            self.link.abort()
        else:
            self.link.release()

    def fail(self, error: WireError) -> None:
        """Give it up: the link is cut, and whoever waits or reads on gets the error."""
        self.link.abort()
        self.on_lost(error)

    # Called by the link.

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """The head is here."""
        self.status = status
        self.headers = headers
        self._wake()

    def on_body(self, data: bytes) -> None:
        """One chunk more; enough of them stop the reading."""
        self._chunks.append(data)
        self._buffered_bytes += len(data)
        if self._buffered_bytes > READ_BYTES_HIGH:
            self.link.pause()
        self._wake()

    def on_end(self) -> None:
        """No chunk follows."""
        self.whole = True
        self._wake()

    def on_lost(self, error: WireError) -> None:
        """No chunk follows, and the reply is not whole."""
        self._error = error
        self._wake()

    # Inside.

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
        self._waits_ms = idle_deadline_ms
        self._wait_until = self._loop.time() + idle_deadline_ms / 1000
        if self._timer is not None:
            if self._timer.when() <= self._wait_until:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(self._wait_until, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if self._loop.time() < self._wait_until:
            self._timer = self._loop.call_at(self._wait_until, self._look)
        else:
            self.link.abort()
            self.on_lost(DeadlinePassed("chunk", self._waits_ms))
