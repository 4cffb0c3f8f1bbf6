"""The writing half of a server connection: framing, back-pressure, streams.

One per connection. It knows nothing of requests but what framing needs: the method, the version,
and whether the connection is to be kept.
"""

import asyncio
from collections.abc import AsyncIterator

from penstock.kit.errors import ReaderStalled
from penstock.kit.wire.http import Response, Stream, has_body, response_head
from penstock.kit.wire.intake import Arrived

# Below this a head and its body go out in one write; above, joining them costs more than a call.
_JOIN_BYTES_MAX = 65_536


class Outlet:
    """Writes answers to a transport; `pause` and `resume` come from the transport."""

    __slots__ = ("_paused", "_resumed", "_stall_deadline_ms", "_transport", "answered")

    def __init__(self, transport: asyncio.Transport, *, stall_deadline_ms: int) -> None:
        self.answered = False  # the head of the running exchange is out
        self._transport = transport
        self._stall_deadline_ms = stall_deadline_ms
        self._paused = False
        self._resumed: asyncio.Future[None] | None = None

    def pause(self) -> None:
        """The client reads slower than we write."""
        self._paused = True

    def resume(self) -> None:
        """The client caught up."""
        self._paused = False
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)

    def send_continue(self) -> None:
        """Tell the client that its body is welcome (RFC 9110 10.1.1)."""
        self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def send(self, arrived: Arrived, response: Response, *, request_id: str, keep: bool) -> None:
        """A whole answer. Raises ValueError for headers that would split it."""
        framing = _framing(arrived, request_id, keep=keep)
        body = response.body
        if has_body(response.status):
            framing.append(("content-length", str(len(body))))
        head = response_head(response.status, response.headers, framing)
        self.answered = True
        if arrived.method == "HEAD" or not has_body(response.status):
            body = b""
        if self._transport.is_closing():
            return
        if len(body) < _JOIN_BYTES_MAX:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    def send_last(self, response: Response, *, request_id: str) -> None:
        """A refusal that closes the connection, whatever the request was."""
        framing = [
            ("x-request-id", request_id),
            ("connection", "close"),
            ("content-length", str(len(response.body))),
        ]
        head = response_head(response.status, response.headers, framing)
        self._transport.write(head + response.body)

    async def pump(self, arrived: Arrived, stream: Stream, *, request_id: str, keep: bool) -> bool:
        """Write a stream as it comes; returns whether the connection can be kept.

        Raises ReaderStalled when the client stops reading, and what the stream raises. The
        stream's iterator is closed in every case.
        """
        try:
            chunked = stream.length is None and arrived.minor == 1
            keep = keep and (chunked or stream.length is not None)
            framing = _framing(arrived, request_id, keep=keep)
            if stream.length is not None:
                framing.append(("content-length", str(stream.length)))
            elif chunked and has_body(stream.status):
                framing.append(("transfer-encoding", "chunked"))
            head = response_head(stream.status, stream.headers, framing)
            self.answered = True
            self._transport.write(head)
            if has_body(stream.status) and arrived.method != "HEAD":
                if chunked:
                    await self._pump_chunked(stream.chunks)
                else:
                    await self._pump_plain(stream.chunks, stream.length)
        finally:
            await _close_iterator(stream.chunks)
        return keep

    async def drained(self) -> None:
        """Wait until the client has read enough. Raises ReaderStalled after the deadline."""
        if not self._paused:
            return
        self._resumed = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._stall_deadline_ms / 1000):
                await self._resumed
        except TimeoutError as error:
            raise ReaderStalled(self._stall_deadline_ms) from error
        finally:
            self._resumed = None

    async def _pump_chunked(self, chunks: AsyncIterator[bytes]) -> None:
        write = self._transport.write
        async for chunk in chunks:
            if chunk:  # an empty chunk would end the body
                write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                if self._paused:
                    await self.drained()
        write(b"0\r\n\r\n")

    async def _pump_plain(self, chunks: AsyncIterator[bytes], length: int | None) -> None:
        """Unframed: `length` bytes, or with None until the connection closes (HTTP/1.0)."""
        sent = 0
        async for chunk in chunks:
            sent += len(chunk)
            if length is not None and sent > length:
                break
            self._transport.write(chunk)
            if self._paused:
                await self.drained()
        if length is not None and sent != length:
            raise ValueError(f"a stream of {length} bytes gave {sent}")


def _framing(arrived: Arrived, request_id: str, *, keep: bool) -> list[tuple[str, str]]:
    framing = [("x-request-id", request_id)]
    if not keep:
        framing.append(("connection", "close"))
    elif not arrived.minor:
        framing.append(("connection", "keep-alive"))
    return framing


async def _close_iterator(chunks: AsyncIterator[bytes]) -> None:
    """Run an async generator's `finally`; other iterators have nothing to close."""
    close = getattr(chunks, "aclose", None)
    if close is not None:
        await close()
